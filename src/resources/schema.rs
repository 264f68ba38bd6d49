//! Objects that the API server refuses by their schema: unknown fields, and bounds that are exceeded. The values are
//! checked by the readers of the objects.

use std::collections::HashSet;

use serde_json::Value;

use super::crds::MANIFEST;
use super::field::{Field, Problems};

/// The problems of an object of this kind, without its metadata and status.
pub fn problems(kind: &str, object: &Value) -> Vec<String> {
    let problems = Problems::default();
    let documents = MANIFEST.split("\n---\n").map(serde_yaml::from_str::<Value>);
    let crd = documents.flatten().find(|crd| crd["spec"]["names"]["kind"] == kind);
    let schema = crd.map(|mut crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take());
    for (name, value) in object.as_object().into_iter().flatten() {
        if let Some(schema) = &schema
            && name != "metadata"
            && name != "status"
        {
            check(schema["properties"].get(name), &Field::top(name, value, &problems));
        }
    }
    problems.take()
}

fn check(schema: Option<&Value>, field: &Field) {
    let Some(schema) = schema else {
        return field.note("is not a field of the object");
    };
    let bound = |count: usize, keyword: &str, of: &str| {
        if let Some(max) = schema[keyword].as_u64().filter(|max| count as u64 > *max) {
            field.note(format_args!("has {count} {of}, but at most {max} are allowed"));
        }
    };
    match field.value() {
        Value::String(text) => bound(text.chars().count(), "maxLength", "characters"),
        Value::Array(items) => {
            bound(items.len(), "maxItems", "entries");
            let is_set = schema["x-kubernetes-list-type"] == "set";
            let mut known = HashSet::new();
            for item in field.list("", usize::MAX) {
                if is_set && !known.insert(item.value()) {
                    item.refuse("the list has it already");
                }
                check(schema.get("items"), &item);
            }
        }
        Value::Object(map) => {
            bound(map.len(), "maxProperties", "entries");
            for name in map.keys() {
                let inner = schema["properties"].get(name).or(schema.get("additionalProperties"));
                check(inner, &field.get(name));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(spec: Value) -> Vec<String> {
        problems(
            "IP6UpdateConfig",
            &json!({"apiVersion": "a", "kind": "b", "metadata": {"name": "c"}, "spec": spec, "status": {"d": 1}}),
        )
    }

    #[test]
    fn objects_that_the_schema_accepts() {
        assert_eq!(config(json!(null)), [""; 0]);
        let group = json!({"ciliumCIDRGroupName": "lan", "prefixIds": Vec::from_iter(0..256), "suffixes": null});
        let spec = json!({"delegatedPrefixLength": 56, "ciliumCIDRGroups": [group]});
        assert_eq!(config(spec), [""; 0]);
        let labels = json!({"interface": "eth0", "nodeSelector": {"any.example.com/label": "x"}});
        assert_eq!(problems("IP6UpdateNodeConfig", &json!({"spec": labels})), [""; 0]);
    }

    #[test]
    fn refusals_name_the_path_of_the_field() {
        for (spec, problem) in [
            (
                json!({"allowedPrefix": []}),
                "spec.allowedPrefix is not a field of the object",
            ),
            (
                json!({"targets": [{}, {"suffix": []}]}),
                "spec.targets[1].suffix is not a field of the object",
            ),
            (
                json!({"targets": [{"prefixIds": [0, 1, 1]}]}),
                "spec.targets[0].prefixIds[2] is 1, but the list has it already",
            ),
            (
                json!({"ciliumCIDRGroups": [{"prefixIds": Vec::from_iter(0..257)}]}),
                "spec.ciliumCIDRGroups[0].prefixIds has 257 entries, but at most 256 are allowed",
            ),
            (
                json!({"targets": [{"namespace": "é".repeat(64)}]}),
                "spec.targets[0].namespace has 64 characters, but at most 63 are allowed",
            ),
        ] {
            assert_eq!(config(spec), [problem]);
        }
        assert_eq!(
            problems("IP6UpdateConfig", &json!({"specs": 1})),
            ["specs is not a field of the object"]
        );
        let labels: serde_json::Map<String, Value> = (0..65).map(|n| (format!("l{n}"), json!("x"))).collect();
        assert_eq!(
            problems("IP6UpdateNodeConfig", &json!({"spec": {"nodeSelector": labels}})),
            ["spec.nodeSelector has 65 entries, but at most 64 are allowed"]
        );
    }
}
