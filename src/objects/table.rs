//! The specs of node configs in the table that `kubectl get -o wide` shows: short, whatever the nodes
//! publish in the status.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::NodeSpec;
use crate::kube::objects::Table;

/// The specs by name; `None` if the CRD is another release's, without the columns for them.
pub fn specs(table: &Table) -> Option<BTreeMap<String, NodeSpec>> {
    let column = |name: &str| table.column_definitions.iter().position(|column| column.name == name);
    let (name, interface) = (column("Name")?, column("Interface")?);
    let (selector, stale_after) = (column("Selector")?, column("Stale after")?);
    let spec = |cells: &[&Value]| {
        // A column shows text: a map as JSON, what is not there as null.
        let selector: Value = match cells.get(selector)?.as_str() {
            Some(text) => serde_json::from_str(text).ok()?,
            None => Value::Null,
        };
        let spec = json!({"interface": cells.get(interface)?, "nodeSelector": selector,
            "staleAfterSeconds": cells.get(stale_after)?});
        Some((cells.get(name)?.as_str()?.to_string(), NodeSpec::read(&spec)))
    };
    let cells = table
        .rows
        .iter()
        .map(|row| row.cells.iter().map(|cell| &cell.0).collect::<Vec<_>>());
    cells.map(|cells| spec(&cells)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a real kube-apiserver 1.36 sends it.
    fn table(rows: Value) -> Table {
        let names = [
            "Name",
            "Node",
            "Interface",
            "Prefixes",
            "Age",
            "Message",
            "Selector",
            "Observed",
            "Stale after",
        ];
        let columns: Vec<Value> = names.map(|name| json!({"name": name, "type": "string"})).to_vec();
        serde_json::from_value(json!({"kind": "Table", "columnDefinitions": columns, "rows": rows})).unwrap()
    }

    #[test]
    fn what_the_objects_say() {
        let read = specs(&table(json!([
            {"cells": ["all-nodes", null, "eth0", "[\"2001:db8::/64\"]", "2s", "", null, null, 7], "object": null},
            {"cells": ["one", "n", "eth1", null, "2s", null, "{\"kubernetes.io/hostname\":\"n\"}", null, null]},
        ])))
        .unwrap();
        let one = json!({"interface": "eth1", "nodeSelector": {"kubernetes.io/hostname": "n"}});
        let all = json!({"interface": "eth0", "staleAfterSeconds": 7});
        let expected = [("all-nodes", all), ("one", one)].map(|(name, spec)| (name.into(), NodeSpec::read(&spec)));
        assert_eq!(read, BTreeMap::from(expected));
    }

    #[test]
    fn columns_of_another_release_say_nothing() {
        let mut other = table(json!([]));
        other.column_definitions.pop();
        assert_eq!(specs(&other), None);
        for cells in [
            json!([]),
            json!(["a"]),
            json!([1, null, "eth0", null, "", "", null, "", null]),
        ] {
            assert_eq!(specs(&table(json!([{"cells": cells}]))), None, "{cells}");
        }
        let list = serde_json::from_value(json!({"kind": "IP6UpdateNodeConfigList", "items": []})).unwrap();
        assert_eq!(specs(&list), None, "a server without tables");
        let odd = json!(["a", null, "eth0", null, "", "", "map[a:b]", "", null]);
        assert_eq!(specs(&table(json!([{"cells": odd}]))), None);
    }
}
