//! Validation and pruning by a CRD's schema, with the messages of a real API server. CEL rules are
//! not evaluated: those are tested on a real control plane.

use regex_lite::Regex;
use serde_json::{Value, json};

/// An error of a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// The path of the field.
    pub field: String,
    /// Such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// The error as a text.
    pub message: String,
}

impl Cause {
    fn invalid(field: &str, shown: &str, what: &str) -> Self {
        let message = format!("Invalid value: {shown}: {field} in body {what}");
        Cause {
            field: field.into(),
            reason: "FieldValueInvalid",
            message,
        }
    }
}

/// Removes fields that the schema does not know; returns their paths.
pub fn prune(schema: &Value, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    match value {
        Value::Object(map) => {
            let (known, additional) = (&schema["properties"], &schema["additionalProperties"]);
            map.retain(|name, _| {
                // Every object has these, whatever its schema says.
                let is_common = path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name.as_str());
                let keep = is_common || known.get(name).is_some() || additional.is_object();
                if !keep {
                    unknown.push(join(path, name));
                }
                keep
            });
            for (name, field) in map {
                let schema = known.get(name).unwrap_or(additional);
                // The server itself defines the content of metadata.
                if !(path.is_empty() && name == "metadata") {
                    prune(schema, field, &join(path, name), unknown);
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter_mut().enumerate() {
                prune(&schema["items"], item, &format!("{path}[{at}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Checks a value; returns all errors, sorted by field.
pub fn validate(schema: &Value, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    check(schema, value, "", &mut causes);
    causes.sort();
    causes
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_string()
    } else {
        format!("{path}.{name}")
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let expected = schema["type"].as_str().unwrap_or_default();
    let actual = type_of(value);
    if !expected.is_empty() && actual != expected && !(expected == "number" && actual == "integer") {
        let message = format!("Invalid value: \"{actual}\": {path} in body must be of type {expected}: \"{actual}\"");
        causes.push(Cause {
            field: path.into(),
            reason: "FieldValueTypeInvalid",
            message,
        });
        return;
    }
    match value {
        Value::Number(number) => check_number(schema, number.as_f64().unwrap_or_default(), value, path, causes),
        Value::String(text) => check_string(schema, text, path, causes),
        Value::Array(items) => check_list(schema, items, path, causes),
        Value::Object(map) => {
            for name in schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                if !map.contains_key(name) {
                    let field = join(path, name);
                    causes.push(Cause {
                        field,
                        reason: "FieldValueRequired",
                        message: "Required value".into(),
                    });
                }
            }
            for (name, field) in map {
                let known = schema["properties"]
                    .get(name)
                    .unwrap_or(&schema["additionalProperties"]);
                if known.is_object() && !(path.is_empty() && name == "metadata") {
                    check(known, field, &join(path, name), causes);
                }
            }
        }
        _ => {}
    }
}

fn check_number(schema: &Value, number: f64, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(minimum) = schema["minimum"].as_f64().filter(|minimum| number < *minimum) {
        let what = format!("should be greater than or equal to {minimum}");
        causes.push(Cause::invalid(path, &value.to_string(), &what));
    }
    if let Some(maximum) = schema["maximum"].as_f64().filter(|maximum| number > *maximum) {
        let what = format!("should be less than or equal to {maximum}");
        causes.push(Cause::invalid(path, &value.to_string(), &what));
    }
}

fn check_string(schema: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let shown = json!(text).to_string();
    if schema["maxLength"]
        .as_u64()
        .is_some_and(|most| text.chars().count() as u64 > most)
    {
        causes.push(Cause::invalid(
            path,
            &shown,
            &format!("may not be more than {} chars long", schema["maxLength"]),
        ));
    }
    if schema["minLength"]
        .as_u64()
        .is_some_and(|least| (text.chars().count() as u64) < least)
    {
        let what = format!("should be at least {} chars long", schema["minLength"]);
        causes.push(Cause::invalid(path, &shown, &what));
    }
    let pattern = schema["pattern"].as_str();
    if let Some(pattern) = pattern.filter(|p| !Regex::new(p).expect("a pattern").is_match(text)) {
        causes.push(Cause::invalid(path, &shown, &format!("should match '{pattern}'")));
    }
    let allowed = schema["enum"].as_array();
    if allowed.is_some_and(|list| !list.contains(&json!(text))) {
        let message = format!("Unsupported value: {shown}");
        causes.push(Cause {
            field: path.into(),
            reason: "FieldValueNotSupported",
            message,
        });
    }
}

fn check_list(schema: &Value, items: &[Value], path: &str, causes: &mut Vec<Cause>) {
    if schema["maxItems"]
        .as_u64()
        .is_some_and(|most| items.len() as u64 > most)
    {
        let message = format!(
            "Too many: {}: must have at most {} items",
            items.len(),
            schema["maxItems"]
        );
        causes.push(Cause {
            field: path.into(),
            reason: "FieldValueTooMany",
            message,
        });
    }
    let keys = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let identity = |item: &Value| match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Some(item.clone()),
        Some("map") => Some(
            keys.iter()
                .map(|key| item[key.as_str().unwrap_or_default()].clone())
                .collect(),
        ),
        _ => None,
    };
    for (at, item) in items.iter().enumerate() {
        let field = format!("{path}[{at}]");
        if identity(item).is_some_and(|id| {
            items[..at]
                .iter()
                .any(|earlier| identity(earlier).as_ref() == Some(&id))
        }) {
            let message = format!("Duplicate value: {item}");
            causes.push(Cause {
                field: field.clone(),
                reason: "FieldValueDuplicate",
                message,
            });
        }
        check(&schema["items"], item, &field, causes);
    }
}
