//! The schemas of manifests/crds.yaml and the readers of the objects agree. They have the same fields, and both accept
//! or both refuse each value that is tried in the place of a field, with the exceptions in [`accepted_by_one`].

use std::collections::BTreeSet;

use k6u_testkit::apiserver::schema::validate;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::kube::objects::Condition;
use crate::node::select::MAX_PREFIXES;
use crate::resources::config::{Config, ConfigSpec, ConfigStatus};
use crate::resources::crds::MANIFEST;
use crate::resources::field::asked_for;
use crate::resources::node_config::{NodeConfig, NodeConfigStatus, NodeEntry, NodeSpec};
use crate::resources::schema::problems;
use crate::resources::targets::KINDS;

const CONFIG: &str = "IP6UpdateConfig";
const NODE_CONFIG: &str = "IP6UpdateNodeConfig";

/// Fields of groups that are read only to refuse them.
const REFUSED: [&str; 3] = ["dnsName", "ranges", "recordTTL"];

/// An object of this kind with every field.
fn sample(kind: &str) -> Value {
    if kind == NODE_CONFIG {
        let entry = json!({"prefixes": ["2001:db8::/64"], "observedTime": "2026-11-23T05:28:45Z",
            "ignoresRouters": true, "message": "eth0 has no carrier"});
        return json!({"metadata": {"name": "a"},
            "spec": {"nodeSelector": {"zone": "a"}, "interface": "eth0", "staleAfterSeconds": 60,
                "keepDeprecatedSeconds": 60},
            "status": {"nodes": {"zone": entry}}});
    }
    let parts = json!({"prefixIds": [0], "suffixes": ["::10"], "extraCIDRs": ["10.0.0.0/8"]});
    let with = |fields: Value| {
        let mut entry = parts.clone();
        entry
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        entry
    };
    let pool = json!({"kind": "IPAddressPool", "namespace": "web", "name": "pool", "ranges": ["::1-::2"]});
    let record = json!({"kind": "DNSEndpoint", "namespace": "web", "name": "nas", "dnsName": "nas.example.com",
        "recordTTL": 60, "suffixes": ["::10"]});
    let condition = json!({"type": "Ready", "status": "True", "observedGeneration": 3,
        "lastTransitionTime": "2026-11-23T05:28:45Z", "reason": "Updated", "message": "all is well"});
    json!({"metadata": {"name": "a"},
        "spec": {"delegatedPrefixLength": 48, "allowedPrefixes": ["2001:db8::/32"],
            "ciliumCIDRGroups": [with(json!({"ciliumCIDRGroupName": "lan"}))], "targets": [with(pool), record]},
        "status": {"observedGeneration": 3, "delegatedPrefixes": ["2001:db8::/48"], "prefix": "2001:db8::/48",
            "failing": ["NetworkSet a/b: 403"], "conditions": [condition]}})
}

fn schema(kind: &str) -> Value {
    let documents = MANIFEST
        .split("\n---\n")
        .map(|text| serde_yaml::from_str::<Value>(text).unwrap());
    let mut crd = documents
        .into_iter()
        .find(|crd| crd["spec"]["names"]["kind"] == kind)
        .unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take()
}

/// Every field, element of a list, `[]`, and element of a map, `{}`, with its schema.
fn fields(path: &str, schema: &Value) -> Vec<(String, Value)> {
    let mut fields = vec![(path.to_string(), schema.clone())];
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        fields.extend(self::fields(&format!("{path}.{name}"), schema));
    }
    for (keyword, element) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(schema) = schema.get(keyword) {
            fields.extend(self::fields(&format!("{path}{element}"), schema));
        }
    }
    fields
}

/// The map or list that a field or element of the sample is in, and its name there.
fn place<'a>(object: &'a mut Value, path: &str) -> (&'a mut Value, String) {
    let is_of_record = path.ends_with(".dnsName") || path.ends_with(".recordTTL");
    let place = if is_of_record { ".1" } else { ".0" };
    let path = format!(".{path}").replace("[]", place).replace("{}", ".zone");
    let pointer = path.replace('.', "/");
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    (object.pointer_mut(parent).expect("the sample has all"), name.into())
}

fn put(object: &mut Value, path: &str, value: Value) {
    match place(object, path) {
        (Value::Array(list), at) => list[at.parse::<usize>().unwrap()] = value,
        (map, name) => map[name] = value,
    }
}

/// Whether the object is without the field now, which elements of lists and maps do not have.
fn remove_field(object: &mut Value, path: &str) -> bool {
    let (parent, name) = place(object, path);
    let is_field = !path.ends_with([']', '}']);
    is_field && parent.as_object_mut().unwrap().remove(&name).is_some()
}

fn schema_accepts(kind: &str, object: &Value) -> bool {
    validate(&schema(kind), object).is_empty() && problems(kind, object).is_empty()
}

fn reader_accepts(kind: &str, object: &Value) -> bool {
    match kind {
        CONFIG => ConfigSpec::read(&object["spec"]).is_ok(),
        _ => {
            let spec = NodeSpec::read(&object["spec"]);
            spec.selector.is_some() && spec.watch.is_ok()
        }
    }
}

fn is_read_alike<T: DeserializeOwned + PartialEq>(one: &Value, other: &Value) -> bool {
    let read = |object: &Value| -> T { serde_json::from_value(object.clone()).unwrap() };
    read(one) == read(other)
}

/// A value that is tried in the place of a field.
#[derive(Clone, Debug)]
enum Probe {
    Missing,
    Value(Value),
    /// A list or map of this many elements.
    Count(usize),
    /// A list with an element two times.
    Twice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Schema,
    Reader,
}

/// The side that alone accepts a probe in the place of a field, with the reason.
fn accepted_by_one(path: &str, probe: &Probe) -> Option<By> {
    let is = |names: &[&str]| names.iter().any(|name| path.ends_with(name));
    match probe {
        // Release 0.3 stored as many as it liked, and what it stored is read still.
        Probe::Count(101..) if is(&["spec.ciliumCIDRGroups"]) => Some(By::Reader),
        Probe::Count(257..) if is(&[".prefixIds"]) => Some(By::Reader),
        Probe::Count(65..) if is(&["spec.nodeSelector"]) => Some(By::Reader),
        Probe::Value(Value::String(text)) if is(&["spec.nodeSelector{}"]) && text.len() > 63 => Some(By::Reader),
        // The reader merges all spellings of an element; the schema knows equal texts only.
        Probe::Twice if !is(&["spec.ciliumCIDRGroups", "spec.targets"]) => Some(By::Reader),
        // CEL rules refuse these: `make e2e` sees that on a real API server.
        Probe::Value(Value::Number(id)) if is(&[".prefixIds[]"]) && id.as_u64() > Some(65_535) => Some(By::Schema),
        Probe::Missing if is(&[".namespace", ".dnsName"]) => Some(By::Schema),
        Probe::Twice if is(&["spec.targets"]) => Some(By::Schema),
        // Patterns do not say all that the reader checks.
        Probe::Value(Value::String(text)) if texts(path)[2].contains(text) => Some(By::Schema),
        _ => None,
    }
}

/// Texts for a field: valid ones, up to the longest; invalid ones, one of which fits the pattern but is a character too
/// long; and invalid ones that the schema accepts.
fn texts(path: &str) -> [Vec<String>; 3] {
    let a = |count: usize| "a".repeat(count);
    let zeros = |count: usize, end: &str| "0".repeat(count) + end;
    let labels = |last: usize| [a(63), a(63), a(63), a(last)].join(".");
    let host = "0000:0000:0000:1111:2222:3333:255.255.255.255";
    let (good, bad, coarse): (&[&str], &[&str], &[&str]) = match path.rsplit('.').next().unwrap() {
        "allowedPrefixes[]" => (
            &[
                "2001:db8::/32",
                "::/0",
                "2001:DB8::/128",
                "1111:2222:3333:4444:5555:6666:7777:8888/128",
            ],
            &[
                "",
                "2001:db8::",
                "2001:db8::/129",
                "::/+3",
                "192.0.2.0/24",
                "x/64",
                &zeros(40, ":/64"),
            ],
            &[":::/64", "1:2/3"],
        ),
        "suffixes[]" => (
            &["::", "::/48", "::10", "::1:0:0:0:10/128", &format!("{host}/128")],
            &["", "::/129", "192.168.0.0/16", "x", "::1%eth0", "::1/", &zeros(49, ":")],
            &["::/47", "2001:db8::1", "::1/64", ":::"],
        ),
        "ranges[]" => (
            &["::1-::2", "::7-::7", &format!("{host}-{host}")],
            &[
                "",
                "::1",
                "::1-::2/64",
                "::1 - ::2",
                "10.0.0.1-10.0.0.9",
                &zeros(89, ":-:"),
            ],
            &["::2-::1", "2001:db8::1-2001:db8::2", "::1-::2:"],
        ),
        "extraCIDRs[]" => (
            &["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/8", &format!("{host}/128")],
            &[
                "",
                "10.0.0.1",
                "10.0.0.0/33",
                "10.0.0.0/+8",
                "::/129",
                "fd00::",
                "a b",
                &zeros(46, ":/64"),
            ],
            &[
                "10.0.0.1/8",
                "fd00::1/8",
                "::ffff:10.0.0.0/104",
                "10.0.0/8",
                "010.0.0.0/8",
            ],
        ),
        "ciliumCIDRGroupName" | "name" => (
            &["lan", "a.b-c.d", "0", &a(253)],
            &["", "Lan", "a_b", "-a", "a-", "a..b", ".a", "a.", &a(254)],
            &[],
        ),
        "namespace" => (&["a", "web-1", &a(63)], &["", "a.b", "A", "-a", "a-", &a(64)], &[]),
        "dnsName" => (
            &["nas", "*.lab.example.com", "_x._tcp.example.com", &labels(61)],
            &["", "NAS", "nas.", "a..b", "-a", "a-", "a.*", "*", "a b", &labels(62)],
            &[&a(64)],
        ),
        "interface" => (
            &["e", "eth0", "enp0s31f6.1000", &a(127)],
            &["", "a/b", "a:b", "a b", "a\tb", &a(128)],
            &[".", "..", "a\u{1b}[31mb", &"ü".repeat(127)],
        ),
        "nodeSelector{}" => (&["", "x", &a(63)], &[&a(64)], &[]),
        // Which kinds there are is compared as a whole.
        "kind" => (&["IPAddressPool"], &["", "Pod", "ipaddresspool"], &[]),
        _ => (&[], &[], &[]),
    };
    [good, bad, coarse].map(|list| list.iter().map(|text| text.to_string()).collect())
}

/// The element with this number of a list or map: no two are equal.
fn element(path: &str, n: usize) -> Value {
    match path.rsplit('.').next().unwrap() {
        "allowedPrefixes" => json!(format!("2001:db8:{n:x}::/48")),
        "ciliumCIDRGroups" => json!({"ciliumCIDRGroupName": format!("g{n}"), "prefixIds": [0]}),
        "targets" => json!({"kind": "CiliumCIDRGroup", "name": format!("t{n}"), "prefixIds": [0]}),
        "prefixIds" => json!(n),
        "suffixes" => json!(format!("::{n:x}")),
        "ranges" => json!(format!("::{n:x}-::ffff:0")),
        "extraCIDRs" => json!(format!("10.{}.{}.0/24", n / 256, n % 256)),
        "nodeSelector" => json!("a"),
        _ => panic!("no elements are known for {path}"),
    }
}

fn probes(path: &str, schema: &Value) -> Vec<Probe> {
    let mut values = vec![json!(true), json!(1.5), json!({"?": "?"})];
    let mut probes = vec![Probe::Missing];
    let kind = schema["type"].as_str().unwrap();
    match kind {
        "integer" => {
            let bounds = ["minimum", "maximum"].map(|keyword| schema[keyword].as_i64());
            let bounds = bounds
                .into_iter()
                .flatten()
                .chain([0, i32::MAX.into(), u32::MAX.into()]);
            values.extend(bounds.flat_map(|bound| [bound - 1, bound, bound + 1]).map(Value::from));
            values.extend([json!("7"), json!([7])]);
        }
        "string" => {
            let [good, bad, coarse] = texts(path);
            assert!(!good.is_empty() && !bad.is_empty(), "no texts are known for {path}");
            values.extend([good, bad, coarse].concat().into_iter().map(Value::from));
            values.extend([json!(7), json!(["a"])]);
        }
        _ => values.extend([json!(7), json!("a"), json!(["?"])]),
    }
    if kind == "array" || schema.get("additionalProperties").is_some() {
        let max = schema["maxItems"]
            .as_u64()
            .or(schema["maxProperties"].as_u64())
            .unwrap_or(0);
        let max = usize::try_from(max).unwrap();
        probes.extend([0, 1, max, max + 1, 1000].map(Probe::Count));
        // A label may have any text.
        values.retain(|value| kind == "array" || !value.is_object());
    }
    if kind == "array" {
        probes.push(Probe::Twice);
    }
    probes.extend(values.into_iter().map(Probe::Value));
    probes
}

/// The sample with a probe in the place of a field; `None` if that cannot be.
fn with(kind: &str, path: &str, schema: &Value, probe: &Probe) -> Option<Value> {
    let mut object = sample(kind);
    match probe {
        Probe::Missing if !remove_field(&mut object, path) => return None,
        Probe::Missing => {}
        Probe::Value(value) => put(&mut object, path, value.clone()),
        Probe::Count(count) if schema["type"] == "array" => {
            put(&mut object, path, (0..*count).map(|n| element(path, n)).collect());
        }
        Probe::Count(count) => {
            let map = (0..*count).map(|n| (format!("l{n}"), element(path, n))).collect();
            put(&mut object, path, Value::Object(map));
        }
        Probe::Twice => put(&mut object, path, json!([element(path, 1), element(path, 1)])),
    }
    Some(object)
}

#[test]
fn schemas_and_readers_accept_the_same_specs() {
    for kind in [CONFIG, NODE_CONFIG] {
        assert!(
            schema_accepts(kind, &sample(kind)),
            "{:?}",
            validate(&schema(kind), &sample(kind))
        );
        assert!(reader_accepts(kind, &sample(kind)));
        for (path, schema) in fields("spec", &schema(kind)["properties"]["spec"]) {
            for probe in probes(&path, &schema) {
                let Some(object) = with(kind, &path, &schema, &probe) else {
                    continue;
                };
                let accepted = (schema_accepts(kind, &object), reader_accepts(kind, &object));
                let expected = match accepted_by_one(&path, &probe) {
                    Some(by) => (by == By::Schema, by == By::Reader),
                    None => (accepted.0, accepted.0),
                };
                assert_eq!(
                    accepted, expected,
                    "accepted by schema and reader: {probe:?} in the place of {path}"
                );
            }
        }
    }
}

/// Both accept the valid texts; otherwise both could refuse everything.
#[test]
fn valid_texts_are_accepted() {
    for kind in [CONFIG, NODE_CONFIG] {
        for (path, schema) in fields("spec", &schema(kind)["properties"]["spec"]) {
            let is_text = schema["type"] == "string";
            for text in is_text.then(|| texts(&path)).into_iter().flat_map(|[good, ..]| good) {
                let object = with(kind, &path, &schema, &Probe::Value(json!(text))).unwrap();
                assert!(
                    schema_accepts(kind, &object) && reader_accepts(kind, &object),
                    "{path}: {text}"
                );
            }
        }
    }
}

#[test]
fn the_kinds_of_targets_are_those_of_the_schema() {
    let fields = fields("spec", &schema(CONFIG)["properties"]["spec"]);
    let (_, schema) = fields.iter().find(|(path, _)| path == "spec.targets[].kind").unwrap();
    assert_eq!(schema["enum"], json!(KINDS.each_ref().map(|kind| kind.name)));
}

#[test]
fn schemas_and_readers_have_the_same_fields() {
    for kind in [CONFIG, NODE_CONFIG] {
        let asked = asked_for(|| assert!(reader_accepts(kind, &sample(kind))));
        let refused = REFUSED.map(|field| format!("spec.ciliumCIDRGroups[].{field}"));
        let mut expected: BTreeSet<String> = if kind == CONFIG {
            refused.into()
        } else {
            BTreeSet::new()
        };
        let fields = fields("spec", &schema(kind)["properties"]["spec"]);
        let fields = fields.into_iter().map(|(path, _)| path);
        expected.extend(fields.filter(|path| path.contains('.') && !path.ends_with([']', '}'])));
        assert_eq!(asked, expected, "{kind}");
    }
    for field in REFUSED {
        let mut object = sample(CONFIG);
        let value = object["spec"]["targets"][usize::from(field != "ranges")][field].clone();
        object["spec"]["ciliumCIDRGroups"][0][field] = value;
        assert!(
            !reader_accepts(CONFIG, &object) && !schema_accepts(CONFIG, &object),
            "{field}"
        );
    }
}

/// Each field of the spec and the status means something: without it, the object is read as another.
#[test]
fn every_field_is_read() {
    for kind in [CONFIG, NODE_CONFIG] {
        for top in ["spec", "status"] {
            for (path, _) in fields(top, &schema(kind)["properties"][top]) {
                let mut object = sample(kind);
                if !path.contains('.') || !remove_field(&mut object, &path) {
                    continue;
                }
                let is_alike = match kind {
                    CONFIG => is_read_alike::<Config>(&object, &sample(kind)),
                    _ => is_read_alike::<NodeConfig>(&object, &sample(kind)),
                };
                assert!(!is_alike, "{path} is not read");
            }
        }
    }
}

/// A new field of these types does not compile here until it is in the list, and then has to be in the schema.
#[test]
fn every_field_of_a_status_is_in_the_schema() {
    let Config {
        metadata: _,
        spec: _,
        status,
    } = serde_json::from_value(sample(CONFIG)).unwrap();
    let NodeConfig {
        metadata: _,
        spec: _,
        status: nodes,
    } = serde_json::from_value(sample(NODE_CONFIG)).unwrap();
    let ConfigStatus {
        observed_generation: _,
        delegated_prefixes: _,
        prefix: _,
        failing: _,
        conditions,
    } = status;
    let NodeConfigStatus { nodes } = nodes;
    let NodeEntry {
        prefixes: _,
        observed_time: _,
        ignores_routers: _,
        message: _,
    } = &nodes["zone"];
    let fields = |kind: &str, path: &str| -> BTreeSet<String> {
        let fields = fields("status", &schema(kind)["properties"]["status"]);
        let (_, schema) = fields.into_iter().find(|(known, _)| known == path).unwrap();
        schema["properties"].as_object().unwrap().keys().cloned().collect()
    };
    let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
    let status = names(&[
        "observedGeneration",
        "delegatedPrefixes",
        "prefix",
        "failing",
        "conditions",
    ]);
    assert_eq!(fields(CONFIG, "status"), status);
    assert_eq!(fields(NODE_CONFIG, "status"), names(&["nodes"]));
    let entry = names(&["prefixes", "observedTime", "ignoresRouters", "message"]);
    assert_eq!(fields(NODE_CONFIG, "status.nodes{}"), entry);
    let keys =
        |condition: &Condition| -> BTreeSet<String> { json!(condition).as_object().unwrap().keys().cloned().collect() };
    assert_eq!(fields(CONFIG, "status.conditions[]"), keys(&conditions[0]));
    let conditions = &schema(CONFIG)["properties"]["status"]["properties"]["conditions"];
    let required: Vec<String> = serde_json::from_value(conditions["items"]["required"].clone()).unwrap();
    assert_eq!(
        BTreeSet::from_iter(required),
        keys(&Condition::default()),
        "k6u always writes these"
    );
    let nodes = &schema(NODE_CONFIG)["properties"]["status"]["properties"]["nodes"];
    assert_eq!(
        nodes["additionalProperties"]["properties"]["prefixes"]["maxItems"],
        MAX_PREFIXES
    );
}
