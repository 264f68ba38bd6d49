//! The parts of the Helm chart that repeat manifests/: the CRDs, the schema of their specs, and the rights of the
//! components. `make chart-sync` writes them, and a test compares them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The fields of a CRD's schema that mean the same in a JSON schema.
const KEPT: [&str; 12] = [
    "description",
    "enum",
    "maximum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "minimum",
    "minItems",
    "minLength",
    "pattern",
    "required",
    "type",
];

/// The rights that a component of manifests/components grants.
pub struct Rights {
    /// The kind of the target, as IP6UpdateConfigs name it.
    pub kind: String,
    /// The rules of its Role or ClusterRole.
    pub rules: Value,
    /// The namespace of its Role; `None` for a ClusterRole.
    pub namespace: Option<String>,
}

/// The paths and the expected texts of the chart's files that repeat manifests/.
///
/// # Panics
/// When manifests/ or the chart cannot be read.
pub fn files(repository: &Path) -> Vec<(PathBuf, String)> {
    let read = |path: &str| {
        let path = repository.join(path);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let crds = read("manifests/crds.yaml");
    let rights = rights(repository);
    let values = "charts/k6u/values.yaml";
    let schema = "charts/k6u/values.schema.json";
    [
        ("charts/k6u/crds/crds.yaml", crds.clone()),
        (schema, with_definitions(&read(schema), &crds, &rights)),
        (values, with_switches(&read(values), &rights)),
        ("charts/k6u/target-rights.yaml", table(&rights)),
    ]
    .map(|(path, text)| (repository.join(path), text))
    .into()
}

/// The documents of a YAML file.
///
/// # Panics
/// If the text is not YAML.
pub fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("YAML"))
        .filter(|document| !document.is_null())
        .collect()
}

/// The rights of each component, by kind.
///
/// # Panics
/// When a component has no Role or ClusterRole, or is named after no kind of target.
pub fn rights(repository: &Path) -> Vec<Rights> {
    let manifests = repository.join("manifests");
    let crds = documents(&fs::read_to_string(manifests.join("crds.yaml")).expect("crds.yaml"));
    let targets = &spec_schema(&crds, "IP6UpdateConfig")["properties"]["targets"];
    let kinds = targets["items"]["properties"]["kind"]["enum"]
        .as_array()
        .expect("kinds");
    let mut rights: Vec<Rights> = fs::read_dir(manifests.join("components"))
        .expect("components")
        .map(|entry| {
            let folder = entry.expect("a component").path();
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let rbac = documents(&fs::read_to_string(folder.join("rbac.yaml")).expect("rbac.yaml"));
            let role = rbac
                .iter()
                .find(|object| ["Role", "ClusterRole"].contains(&object["kind"].as_str().unwrap()))
                .unwrap_or_else(|| panic!("{name} has neither Role nor ClusterRole"));
            let kind = kinds
                .iter()
                .filter_map(Value::as_str)
                .find(|kind| kind.to_lowercase() == name)
                .unwrap_or_else(|| panic!("manifests/components/{name} is named after no kind of target"));
            Rights {
                kind: kind.into(),
                rules: role["rules"].clone(),
                namespace: role["metadata"]["namespace"].as_str().map(str::to_string),
            }
        })
        .collect();
    rights.sort_by(|one, other| one.kind.cmp(&other.kind));
    rights
}

/// The schema of a CRD's spec.
fn spec_schema(crds: &[Value], kind: &str) -> Value {
    let crd = crds
        .iter()
        .find(|crd| crd["spec"]["names"]["kind"] == kind)
        .expect("the CRD");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Converts a CRD's schema to a JSON schema, in which an unknown field is an error.
fn json_schema(schema: &Value) -> Value {
    let mut fields: Map<String, Value> = KEPT
        .iter()
        .filter_map(|name| Some((name.to_string(), schema.get(name)?.clone())))
        .collect();
    if let Some(properties) = schema["properties"].as_object() {
        let properties = properties
            .iter()
            .map(|(name, field)| (name.clone(), json_schema(field)));
        fields.insert("properties".into(), Value::Object(properties.collect()));
        fields.insert("additionalProperties".into(), json!(false));
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            fields.insert(inner.into(), json_schema(&schema[inner]));
        }
    }
    Value::Object(fields)
}

/// The schema of the values, with the specs of both CRDs and the switches of all components.
fn with_definitions(text: &str, crds: &str, rights: &[Rights]) -> String {
    let crds = documents(crds);
    let mut schema: Value = serde_json::from_str(text).expect("values.schema.json");
    let definitions = &mut schema["definitions"];
    definitions["config"] = json_schema(&spec_schema(&crds, "IP6UpdateConfig"));
    let mut node_config = json_schema(&spec_schema(&crds, "IP6UpdateNodeConfig"));
    // In the values the name of the object is beside the fields of its spec.
    node_config["properties"]["name"] = json!({
        "description": "Name of the IP6UpdateNodeConfig.",
        "type": "string",
        "maxLength": 253,
        "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    });
    node_config["required"]
        .as_array_mut()
        .expect("required fields")
        .push(json!("name"));
    definitions["nodeConfig"] = node_config;
    let switches = rights.iter().map(|Rights { kind, namespace, .. }| {
        let definition = if namespace.is_some() {
            "namespacedRights"
        } else {
            "clusterRights"
        };
        (kind.clone(), json!({"$ref": format!("#/definitions/{definition}")}))
    });
    schema["properties"]["targetRights"]["properties"] = Value::Object(switches.collect());
    format!("{schema:#}\n")
}

/// The values, with the switches of all components below `targetRights:`.
fn with_switches(text: &str, rights: &[Rights]) -> String {
    let (head, tail) = text
        .split_once("\ntargetRights:\n")
        .expect("targetRights in values.yaml");
    let tail: String = tail
        .split_inclusive('\n')
        .skip_while(|line| line.starts_with(' '))
        .collect();
    let mut switches = String::new();
    for Rights { kind, namespace, .. } in rights {
        switches += &format!("  {kind}:\n    enabled: false\n");
        if let Some(namespace) = namespace {
            switches += &format!("    namespaces: [{namespace}]\n");
        }
    }
    format!("{head}\ntargetRights:\n{switches}{tail}")
}

/// The rights of all components, by kind: the rules, and whether they hold in namespaces only.
fn table(rights: &[Rights]) -> String {
    let granted = |r: &Rights| json!({"namespaced": r.namespace.is_some(), "rules": r.rules});
    let table: Map<String, Value> = rights.iter().map(|r| (r.kind.clone(), granted(r))).collect();
    let table = serde_yaml::to_string(&table).expect("YAML");
    format!("# The rights of manifests/components, by kind. `make chart-sync` writes them.\n{table}")
}
