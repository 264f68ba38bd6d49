//! Objects as tables, as the API server sends them to those who ask for `as=Table`.

use serde_json::{Value, json};

/// The table of these objects, with the columns of their CRD.
pub fn table(columns: &[Value], objects: &[&Value], include: &str, version: u64) -> Value {
    let default = [json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})];
    let columns = if columns.is_empty() { &default } else { columns };
    let mut definitions = vec![
        json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "Name must be unique within a namespace."}),
    ];
    for column in columns {
        let path = format!(
            "Custom resource definition column (in JSONPath format): {}",
            column["jsonPath"]
        );
        let description = if column["description"].is_string() {
            column["description"].clone()
        } else {
            json!(path)
        };
        definitions.push(json!({"name": column["name"], "type": column["type"], "format": "",
            "description": description, "priority": column["priority"].as_i64().unwrap_or(0)}));
    }
    let row = |object: &&Value| {
        let mut cells = vec![object["metadata"]["name"].clone()];
        cells.extend(columns.iter().map(|column| cell(column, object)));
        let included = match include {
            "None" => Value::Null,
            "Object" => (*object).clone(),
            _ => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
            }
        };
        json!({"cells": cells, "object": included})
    };
    let rows: Vec<Value> = objects.iter().map(row).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version.to_string()},
        "columnDefinitions": definitions, "rows": rows})
}

/// The first thing that the column's path finds; null if there is none. An age is not modelled.
fn cell(column: &Value, object: &Value) -> Value {
    let found = column["jsonPath"].as_str().and_then(|path| find(object, path));
    match (column["type"].as_str(), found) {
        (_, None | Some(Value::Null)) => Value::Null,
        (Some("string" | "date"), Some(Value::String(text))) => json!(text),
        (Some("string"), Some(other)) => json!(other.to_string()),
        (Some("integer"), Some(other)) => json!(other.as_i64()),
        (_, Some(other)) => other.clone(),
    }
}

/// As much of Kubernetes' JSONPath as k6u's columns need: names, `*`, and a filter by equality.
fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let (name, rest) = step(path.strip_prefix('.')?);
    let (name, filter) = match name.split_once("[?(@.") {
        Some((name, filter)) => (name, filter.strip_suffix("\")]")?.split_once("==\"")),
        None => (name, None),
    };
    let mut next = match name {
        "*" => value.as_object()?.values().next()?,
        name => value.get(name.replace("\\.", "."))?,
    };
    if let Some((field, wanted)) = filter {
        next = next.as_array()?.iter().find(|item| item[field] == wanted)?;
    }
    if rest.is_empty() { Some(next) } else { find(next, rest) }
}

/// The first name of a path, and what follows it. A dot after a backslash or in brackets is part of a name.
fn step(path: &str) -> (&str, &str) {
    let (mut depth, mut escaped) = (0, false);
    for (at, c) in path.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            '.' if depth == 0 && !escaped => return path.split_at(at),
            _ => {}
        }
        escaped = c == '\\';
    }
    (path, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_the_crds_have_them() {
        let object = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "n"}, "n": 7}, "status":
            {"nodes": {"a": {"prefixes": ["p"]}, "b": {}}, "conditions": [{"type": "X"}, {"type": "Ready", "status": "True"}]}});
        let text = |kind: &str, path: &str| cell(&json!({"type": kind, "jsonPath": path}), &object);
        assert_eq!(text("string", ".spec.nodeSelector.kubernetes\\.io/hostname"), "n");
        assert_eq!(
            text("string", ".spec.nodeSelector"),
            "{\"kubernetes.io/hostname\":\"n\"}"
        );
        assert_eq!(text("integer", ".spec.n"), 7);
        assert_eq!(text("string", ".status.nodes.*.prefixes"), "[\"p\"]");
        assert_eq!(
            text("string", ".status.conditions[?(@.type==\"Ready\")].status"),
            "True"
        );
        assert_eq!(
            text("string", ".status.conditions[?(@.type==\"Y\")].status"),
            Value::Null
        );
        assert_eq!(text("string", ".spec.absent"), Value::Null);
    }
}
