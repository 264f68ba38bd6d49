//! Tests of the Helm chart with Helm's own library: it renders the objects of manifests/, and users' values reach k6u.
//! `make check-chart` runs them, with HELM_PYTHON being a Python that has helm-python-sdk.

#![allow(clippy::pedantic)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use k6u_testkit::apiserver::schema;
use k6u_testkit::chart::{Rights, documents, rights};
use k6u_testkit::example::{CONFIG, CRDS, GROUP, NODE_CONFIG, RBAC, cidrs_for};
use serde_json::{Value, json};

const CHART: &str = "charts/k6u";
const DAEMON_SET: &str = include_str!("../manifests/daemonset.yaml");
/// The API group of k6u's own kinds.
const GROUP_VERSION: &str = "apps.fuwafuwatime.moe/v1";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs scripts/helm.py with these arguments and this input, and returns its output.
fn helm(arguments: &[&str], input: &str) -> String {
    let python = env::var_os("HELM_PYTHON").expect("HELM_PYTHON: make check-chart sets it");
    let mut child = Command::new(python)
        .arg("scripts/helm.py")
        .args(arguments)
        .current_dir(repository())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .expect("its input");
    let output = child.wait_with_output().expect("its output");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "helm.py {arguments:?}: {text}");
    text
}

/// A request for `helm install`: release k6u in kube-system, unless the options say otherwise.
fn install(options: Value) -> Value {
    let mut request = json!({"name": "k6u", "namespace": "kube-system"});
    request
        .as_object_mut()
        .unwrap()
        .extend(options.as_object().unwrap().clone());
    request
}

fn values(values: Value) -> Value {
    install(json!({"values": values}))
}

/// The answer to each `helm install` of a chart.
fn answers(chart: &str, requests: &[Value]) -> Vec<Value> {
    let answers = helm(&["template", chart], &json!(requests).to_string());
    serde_json::from_str(&answers).expect("JSON")
}

/// The objects that each request would install, in Helm's order.
fn installed(requests: &[Value]) -> Vec<Vec<Value>> {
    answers(CHART, requests)
        .iter()
        .zip(requests)
        .map(|(answer, request)| match &answer["error"] {
            Value::Null => documents(answer["manifest"].as_str().unwrap()),
            error => panic!("{request}: {error}"),
        })
        .collect()
}

fn objects(request: Value) -> Vec<Value> {
    installed(&[request]).remove(0)
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let wanted = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects
        .iter()
        .find(wanted)
        .unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn pod(objects: &[Value]) -> Value {
    of_kind(objects, "DaemonSet")[0]["spec"]["template"]["spec"].clone()
}

/// The object in a form for comparison: without the labels that Helm adds, and with a line for each right.
fn comparable(mut object: Value) -> Value {
    for labels in [
        "/metadata/labels",
        "/spec/selector/matchLabels",
        "/spec/template/metadata/labels",
    ] {
        if let Some(labels) = object.pointer_mut(labels).and_then(Value::as_object_mut) {
            labels.retain(|name, _| name == "app.kubernetes.io/name");
        }
    }
    if let Some(rules) = object.get_mut("rules") {
        let list = |rule: &Value, field: &str| match rule[field].as_array() {
            Some(all) => all.clone(),
            None => vec![Value::Null],
        };
        let mut single = BTreeSet::new();
        for rule in rules.as_array().unwrap() {
            for group in list(rule, "apiGroups") {
                for resource in list(rule, "resources") {
                    for name in list(rule, "resourceNames") {
                        for verb in list(rule, "verbs") {
                            single.insert(json!([group, resource, name, verb]).to_string());
                        }
                    }
                }
            }
        }
        *rules = json!(single);
    }
    object
}

/// Objects by kind, namespace and name. Panics at a duplicate.
fn by_key(objects: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for object in objects {
        let metadata = &object["metadata"];
        let key = format!("{} {} {}", object["kind"], metadata["namespace"], metadata["name"]);
        assert!(
            all.insert(key.clone(), comparable(object)).is_none(),
            "{key} is there twice"
        );
    }
    all
}

fn assert_same(actual: Vec<Value>, expected: Vec<Value>) {
    let (actual, expected) = (by_key(actual), by_key(expected));
    let keys = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&actual), keys(&expected));
    for (key, object) in expected {
        assert_eq!(actual[&key], object, "{key}");
    }
}

fn base() -> Vec<Value> {
    [documents(RBAC), documents(DAEMON_SET)].concat()
}

fn component(kind: &str) -> Vec<Value> {
    let folder = repository().join("manifests/components").join(kind.to_lowercase());
    documents(&fs::read_to_string(folder.join("rbac.yaml")).expect("rbac.yaml"))
}

#[test]
fn the_chart_installs_what_kustomize_installs() {
    assert_same(objects(values(json!({}))), base());
}

#[test]
fn each_switch_grants_what_its_component_grants() {
    let kinds: Vec<String> = rights(repository()).into_iter().map(|rights| rights.kind).collect();
    assert!(kinds.len() >= 4, "{kinds:?}");
    let switch = |kind: &String| install(json!({"set": [format!("targetRights.{kind}.enabled=true")]}));
    let one_each: Vec<Value> = kinds.iter().map(switch).collect();
    for (kind, objects) in kinds.iter().zip(installed(&one_each)) {
        assert_same(objects, [base(), component(kind)].concat());
    }
    let all: Vec<String> = kinds
        .iter()
        .map(|kind| format!("targetRights.{kind}.enabled=true"))
        .collect();
    let mut expected = base();
    kinds.iter().for_each(|kind| expected.extend(component(kind)));
    assert_same(objects(install(json!({"set": all}))), expected);
}

#[test]
fn a_kind_with_namespaces_may_be_written_in_those_of_the_values() {
    for Rights { kind, namespace, .. } in rights(repository()) {
        let switch = |more: &str| install(json!({"set": [format!("targetRights.{kind}.enabled=true"), more]}));
        let own = format!("targetRights.{kind}.namespaces={{web,shop}}");
        let answer = answers(CHART, &[switch(&own)]).remove(0);
        let Some(default) = namespace else {
            let error = answer["error"].as_str().expect("an error");
            assert!(error.contains(&kind) && error.contains("namespaces"), "{error}");
            continue;
        };
        let mut expected = base();
        for namespace in ["web", "shop"] {
            expected.extend(component(&kind).into_iter().map(|mut object| {
                assert_eq!(object["metadata"]["namespace"], default.as_str());
                object["metadata"]["namespace"] = json!(namespace);
                object
            }));
        }
        assert_same(documents(answer["manifest"].as_str().unwrap()), expected);
    }
}

/// The command of the README, as it is written there.
fn readme_command() -> Value {
    let readme = include_str!("../README.md");
    let lines = readme.lines().skip_while(|line| !line.starts_with("    helm install "));
    let mut command = String::new();
    for line in lines {
        command += line.trim().trim_end_matches('\\');
        if !line.ends_with('\\') {
            break;
        }
    }
    let mut words = command.split_whitespace().map(|word| word.trim_matches('\''));
    assert_eq!([words.next(), words.next()], [Some("helm"), Some("install")]);
    let (name, chart) = (words.next().unwrap(), words.next().unwrap());
    assert_eq!(chart, CHART);
    let mut request = json!({"name": name, "set": [], "set-json": []});
    while let Some(option) = words.next() {
        let value = json!(words.next().expect("a value"));
        match option {
            "-n" => request["namespace"] = value,
            "--set" => request["set"].as_array_mut().unwrap().push(value),
            "--set-json" => request["set-json"].as_array_mut().unwrap().push(value),
            other => panic!("{other} in {command}"),
        }
    }
    request
}

#[test]
fn the_readme_command_installs_everything() {
    let all = objects(readme_command());
    let own: Vec<Value> = all
        .iter()
        .filter(|object| object["apiVersion"] == GROUP_VERSION)
        .cloned()
        .collect();
    assert_eq!(own.len(), 2);
    // After the rights and the DaemonSet, as Helm installs them.
    assert_eq!(own, all[all.len() - 2..]);
    // The specs of the examples for kustomize, for every node.
    let mut node_config = documents(NODE_CONFIG).remove(0);
    node_config["spec"].as_object_mut().unwrap().remove("nodeSelector");
    assert_eq!(
        named(&own, "IP6UpdateConfig", "k6u")["spec"],
        documents(CONFIG)[0]["spec"]
    );
    assert_eq!(named(&own, "IP6UpdateNodeConfig", "k6u")["spec"], node_config["spec"]);
    assert_stored_as_written(&own);

    // k6u accepts the objects and computes the group.
    let yaml: String = own.iter().map(|object| format!("---\n{object}\n")).collect();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chart.yaml");
    fs::write(&file, yaml).unwrap();
    let preview = Command::new(env!("CARGO_BIN_EXE_k6u"))
        .args(["preview", "--address", "2001:db8:1234:5671::10"])
        .arg(file)
        .output()
        .unwrap();
    let written = documents(&String::from_utf8(preview.stdout).unwrap());
    let group = named(&written, "CiliumCIDRGroup", GROUP);
    assert_eq!(group["spec"]["externalCIDRs"], json!(cidrs_for("2001:db8:1234:567")));
}

/// The CRDs accept the objects, with every field.
fn assert_stored_as_written(objects: &[Value]) {
    let crds = documents(CRDS);
    for object in objects {
        let is_its = |crd: &&Value| crd["spec"]["names"]["kind"] == object["kind"];
        let crd = crds.iter().find(is_its).expect("a CRD");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut unknown = Vec::new();
        schema::prune(schema, &mut object.clone(), "", &mut unknown);
        assert_eq!(unknown, [""; 0], "{object}");
        assert_eq!(schema::validate(schema, object), [], "{object}");
    }
}

#[test]
fn objects_of_any_content_arrive_as_they_are_written() {
    let spec = json!({
        "delegatedPrefixLength": 32,
        "allowedPrefixes": ["2001:db8::/32", "fd00::/8"],
        "ciliumCIDRGroups": [
            // Beyond what a careless template prints as 4.294967295e+09.
            {"ciliumCIDRGroupName": "one", "prefixIds": [0, 1_000_000, 4_294_967_295_u32]},
            {"ciliumCIDRGroupName": "two", "suffixes": ["::/56", "::1:0:0:0:10"], "extraCIDRs": ["192.168.0.0/16"]},
        ],
        "targets": [
            {"kind": "IPAddressPool", "namespace": "metallb-system", "name": "lan", "suffixes": ["::1:ffff:0:0:0/112"]},
        ],
    });
    let nodes = json!([
        {"name": "uplink-a", "interface": "eth0", "nodeSelector": {"kubernetes.io/hostname": "1", "site": "true"}},
        {"name": "uplink-b", "interface": "wan@b", "staleAfterSeconds": 604_800},
    ]);
    let shorthand = json!({
        "delegatedPrefixLength": 32,
        "ciliumCIDRGroups": spec["ciliumCIDRGroups"],
    });
    let [whole, short] = installed(&[
        values(json!({"config": spec, "nodeConfigs": nodes})),
        values(shorthand.clone()),
    ])
    .try_into()
    .unwrap();
    assert_eq!(named(&whole, "IP6UpdateConfig", "k6u")["spec"], spec);
    assert_eq!(named(&short, "IP6UpdateConfig", "k6u")["spec"], shorthand);
    let found = of_kind(&whole, "IP6UpdateNodeConfig");
    assert_eq!(found.len(), 2);
    for mut node in nodes.as_array().unwrap().clone() {
        let name = node.as_object_mut().unwrap().remove("name").unwrap();
        assert_eq!(
            named(&whole, "IP6UpdateNodeConfig", name.as_str().unwrap())["spec"],
            node
        );
    }
    let own = |object: &&Value| object["apiVersion"] == GROUP_VERSION;
    assert_stored_as_written(&whole.iter().filter(own).cloned().collect::<Vec<_>>());
    assert!(of_kind(&short, "IP6UpdateNodeConfig").is_empty());
}

#[test]
fn a_typing_error_is_refused_with_the_name_of_the_field() {
    let group = r#"ciliumCIDRGroups=[{"ciliumCIDRGroupName":"lan","prefixIds":[0]}]"#;
    // --set, --set-json, and what the error has to contain.
    let cases: [(&[&str], &[&str], &[&str]); 47] = [
        (&["interfaces=eth0"], &[], &["'interfaces' not allowed"]),
        (&["interface=12"], &[], &["/interface", "want string"]),
        (&["interface=eth/0"], &[], &["/interface", "eth/0"]),
        (&["interface="], &[], &["/interface"]),
        (
            &["interface=eth0"],
            &[r#"nodeConfigs=[{"name":"a","interface":"b"}]"#],
            &["interface", "nodeConfigs"],
        ),
        (&[], &[r#"nodeConfigs={"name":"a"}"#], &["/nodeConfigs", "want array"]),
        (
            &[],
            &[r#"nodeConfigs=[{"interface":"eth0"}]"#],
            &["/nodeConfigs/0", "'name'"],
        ),
        (
            &[],
            &[r#"nodeConfigs=[{"name":"a"}]"#],
            &["/nodeConfigs/0", "'interface'"],
        ),
        (
            &[],
            &[r#"nodeConfigs=[{"name":"A","interface":"b"}]"#],
            &["/nodeConfigs/0/name"],
        ),
        (
            &[],
            &[r#"nodeConfigs=[{"name":"a","interface":"b","node":"c"}]"#],
            &["/nodeConfigs/0", "'node'"],
        ),
        (
            &[],
            &[r#"nodeConfigs=[{"name":"a","interface":"b","nodeSelector":{"c":true}}]"#],
            &["/nodeConfigs/0/nodeSelector/c", "want string"],
        ),
        (
            &[],
            &[r#"nodeConfigs=[{"name":"a","interface":"b","staleAfterSeconds":"30m"}]"#],
            &["/nodeConfigs/0/staleAfterSeconds", "want integer"],
        ),
        (
            &["delegatedPrefixLenght=60"],
            &[group],
            &["'delegatedPrefixLenght' not allowed"],
        ),
        (
            &["delegatedPrefixLength=65"],
            &[group],
            &["/delegatedPrefixLength", "64"],
        ),
        (
            &["delegatedPrefixLength=/60"],
            &[group],
            &["/delegatedPrefixLength", "want integer"],
        ),
        (&["delegatedPrefixLength=60"], &[], &["'ciliumCIDRGroups' required"]),
        (&[], &[group], &["'delegatedPrefixLength' required"]),
        (
            &["delegatedPrefixLength=60", "ciliumCIDRGroups=lan"],
            &[],
            &["/ciliumCIDRGroups", "want array"],
        ),
        (
            &["delegatedPrefixLength=60"],
            &[r#"ciliumCIDRGroups=[{"name":"lan","prefixIds":[0]}]"#],
            &["/ciliumCIDRGroups/0", "'name' not allowed", "'ciliumCIDRGroupName'"],
        ),
        (
            &["delegatedPrefixLength=60"],
            &[r#"ciliumCIDRGroups=[{"ciliumCIDRGroupName":"lan","prefixIds":["0"]}]"#],
            &["/ciliumCIDRGroups/0/prefixIds/0", "want integer"],
        ),
        (
            &["delegatedPrefixLength=60", "config.delegatedPrefixLength=60"],
            &[group],
            &["config", "delegatedPrefixLength"],
        ),
        (
            &["config.delegatedPrefixLenght=60"],
            &[],
            &["/config", "'delegatedPrefixLenght' not allowed"],
        ),
        (
            &["config.ciliumCIDRGroups=lan"],
            &[],
            &["/config/ciliumCIDRGroups", "want array"],
        ),
        (&["config=60"], &[], &["/config", "want object"]),
        (
            &["config.delegatedPrefixLength=60"],
            &[r#"config.targets=[{"kind":"IPAdressPool","name":"lan"}]"#],
            &["/config/targets/0/kind", "'IPAddressPool'"],
        ),
        (
            &["targetRights.IPAdressPool.enabled=true"],
            &[],
            &["/targetRights", "'IPAdressPool' not allowed"],
        ),
        (&["targetRights.IPAddressPool=true"], &[], &["IPAddressPool"]),
        (
            &["targetRights.IPAddressPool.enabled=yes"],
            &[],
            &["/targetRights/IPAddressPool/enabled", "want boolean"],
        ),
        (
            &["targetRights.IPAddressPool.namespace=a"],
            &[],
            &["/targetRights/IPAddressPool", "'namespace' not allowed"],
        ),
        (
            &["targetRights.IPAddressPool.namespaces=a"],
            &[],
            &["/targetRights/IPAddressPool/namespaces", "want array"],
        ),
        (
            &[],
            &["targetRights.IPAddressPool.namespaces=[]"],
            &["/targetRights/IPAddressPool/namespaces"],
        ),
        (&["updateInterval=0"], &[], &["/updateInterval"]),
        (&["updateInterval=10s"], &[], &["/updateInterval", "want integer"]),
        (&["logLevel=verbose"], &[], &["/logLevel", "verbose"]),
        (&["image=k6u:1"], &[], &["image"]),
        (
            &["image.pullpolicy=Always"],
            &[],
            &["/image", "'pullpolicy' not allowed"],
        ),
        (
            &["image.pullPolicy=always"],
            &[],
            &["/image/pullPolicy", "'IfNotPresent'"],
        ),
        (&["image.digest=sha256:12"], &[], &["/image/digest"]),
        (&["image.repository="], &[], &["/image/repository"]),
        (&["resources.limit.cpu=1"], &[], &["/resources", "'limit' not allowed"]),
        (
            &[],
            &[r#"tolerations=[{"key":"a","effects":"NoSchedule"}]"#],
            &["/tolerations/0", "'effects' not allowed"],
        ),
        (
            &["imagePullSecrets[0]=mine"],
            &[],
            &["/imagePullSecrets/0", "want object"],
        ),
        (
            &["serviceAccount.annotation.a=b"],
            &[],
            &["/serviceAccount", "'annotation' not allowed"],
        ),
        (&["serviceAccount.create=false"], &[], &["serviceAccount.name"]),
        (
            &["extraEnv[0].name=UPDATE_INTERVAL"],
            &[],
            &["extraEnv", "UPDATE_INTERVAL"],
        ),
        (&["fullnameOverride=K6u"], &[], &["/fullnameOverride"]),
        (&["podLabels.a=1"], &[], &["/podLabels/a", "want string"]),
    ];
    let requests: Vec<Value> = cases
        .iter()
        .map(|(set, set_json, _)| install(json!({"set": set, "set-json": set_json})))
        .collect();
    for ((set, set_json, expected), answer) in cases.iter().zip(answers(CHART, &requests)) {
        let error = answer["error"].as_str();
        let error = error.unwrap_or_else(|| panic!("{set:?} {set_json:?} is not refused"));
        for part in *expected {
            assert!(error.contains(part), "{set:?} {set_json:?}: no {part} in: {error}");
        }
    }
}

#[test]
fn values_reach_the_pod() {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let given = json!({
        "image": {"repository": "localhost:5000/k6u", "tag": "1.0", "digest": "", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "mine"}],
        "resources": {"limits": {"cpu": 1, "memory": "32Mi"}, "requests": null},
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"k6u": "yes"},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "site", "operator": "In", "values": ["a"]}]},
        ]}}},
        "priorityClassName": "mine",
        "podAnnotations": {"a.example.com/b": "true"},
        "podLabels": {"team": "network", "app.kubernetes.io/name": "something-else"},
        "updateInterval": 86_400,
        "logLevel": "k6u=debug,warn",
        "extraEnv": [
            {"name": "KUBERNETES_SERVICE_HOST", "value": "fd00::1"},
            {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        ],
        "serviceAccount": {"name": "runner", "annotations": {"a": "b"}},
    });
    let [set, by_digest, tag_and_digest, bare] = installed(&[
        values(given.clone()),
        values(json!({"image": {"digest": digest}})),
        values(json!({"image": {"digest": digest, "tag": "1.0"}})),
        // As a part of another chart, with what belongs to that one.
        values(json!({
            "tolerations": [], "priorityClassName": "", "resources": null, "podLabels": null, "image": {"tag": null},
            "global": {"imageRegistry": "localhost"}, "enabled": true,
        })),
    ])
    .try_into()
    .unwrap();
    let template = &of_kind(&set, "DaemonSet")[0]["spec"]["template"];
    for field in [
        "imagePullSecrets",
        "tolerations",
        "nodeSelector",
        "affinity",
        "priorityClassName",
    ] {
        assert_eq!(template["spec"][field], given[field], "{field}");
    }
    assert_eq!(template["metadata"]["annotations"], given["podAnnotations"]);
    // The selector's labels are not the user's.
    assert_eq!(
        template["metadata"]["labels"],
        json!({"team": "network", "app.kubernetes.io/name": "k6u", "app.kubernetes.io/instance": "k6u"})
    );
    let container = &template["spec"]["containers"][0];
    assert_eq!(container["image"], "localhost:5000/k6u:1.0");
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["resources"], json!({"limits": {"cpu": 1, "memory": "32Mi"}}));
    let env = container["env"].as_array().unwrap();
    let variable = |name: &str| env.iter().find(|variable| variable["name"] == name).unwrap();
    assert_eq!(variable("UPDATE_INTERVAL")["value"], "86400");
    assert_eq!(variable("RUST_LOG")["value"], "k6u=debug,warn");
    assert_eq!(env[env.len() - 2..], given["extraEnv"].as_array().unwrap()[..]);
    assert_eq!(template["spec"]["serviceAccountName"], "runner");
    assert_eq!(
        named(&set, "ServiceAccount", "runner")["metadata"]["annotations"],
        json!({"a": "b"})
    );

    let image = |objects: &[Value]| pod(objects)["containers"][0]["image"].clone();
    let repository = pod(&base())["containers"][0]["image"]
        .as_str()
        .unwrap()
        .rsplit_once(':')
        .unwrap()
        .0
        .to_string();
    assert_eq!(image(&by_digest), format!("{repository}@{digest}"));
    assert_eq!(image(&tag_and_digest), format!("{repository}:1.0@{digest}"));
    assert_eq!(image(&bare), pod(&base())["containers"][0]["image"]);
    for field in ["tolerations", "priorityClassName"] {
        assert_eq!(pod(&bare).get(field), None, "{field}");
    }
    assert_eq!(pod(&bare)["containers"][0].get("resources"), None);
}

#[test]
fn bindings_and_selectors_match_under_any_name() {
    let all: Vec<String> = rights(repository())
        .iter()
        .map(|rights| format!("targetRights.{}.enabled=true", rights.kind))
        .collect();
    let with = |name: &str, namespace: &str, more: &[&str]| {
        let set: Vec<&str> = all.iter().map(String::as_str).chain(more.iter().copied()).collect();
        json!({"name": name, "namespace": namespace, "set": set})
    };
    let cases = [
        (with("k6u", "kube-system", &[]), "k6u", "k6u"),
        (with("site", "network", &[]), "site-k6u", "site-k6u"),
        (with("my-k6u", "network", &[]), "my-k6u", "my-k6u"),
        (with("site", "network", &["nameOverride=ip6"]), "site-ip6", "site-ip6"),
        (
            with("site", "network", &["fullnameOverride=updater"]),
            "updater",
            "updater",
        ),
        (
            with("site", "network", &["serviceAccount.name=runner"]),
            "site-k6u",
            "runner",
        ),
        (
            with(
                "k6u",
                "network",
                &["serviceAccount.create=false", "serviceAccount.name=mine"],
            ),
            "k6u",
            "mine",
        ),
    ];
    let requests: Vec<Value> = cases.iter().map(|(request, ..)| request.clone()).collect();
    for ((request, name, account), objects) in cases.iter().zip(installed(&requests)) {
        let namespace = &request["namespace"];
        let daemon_set = named(&objects, "DaemonSet", name);
        assert_eq!(daemon_set["metadata"]["namespace"], *namespace);
        let spec = &daemon_set["spec"];
        assert_eq!(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]);
        assert_eq!(spec["template"]["spec"]["serviceAccountName"], *account);
        let accounts = of_kind(&objects, "ServiceAccount");
        assert_eq!(accounts.len(), usize::from(*account != "mine"), "{request}");
        for found in accounts {
            assert_eq!(found["metadata"]["name"], *account);
            assert_eq!(found["metadata"]["namespace"], *namespace);
        }
        let bindings: Vec<&Value> = objects
            .iter()
            .filter(|object| object["kind"].as_str().unwrap().ends_with("Binding"))
            .collect();
        // k6u itself has two: one for the cluster, one for the namespace of its Events.
        assert_eq!(bindings.len(), all.len() + 2);
        for binding in bindings {
            let role = &binding["roleRef"];
            let found = named(&objects, role["kind"].as_str().unwrap(), role["name"].as_str().unwrap());
            assert_eq!(found["metadata"]["namespace"], binding["metadata"]["namespace"]);
            let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": namespace});
            assert_eq!(binding["subjects"], json!([subject]));
        }
    }
}

#[test]
fn notes_name_commands_and_missing_rights() {
    let pool = |namespace: &str| json!({"kind": "IPAddressPool", "namespace": namespace, "name": "lan", "suffixes": ["::1/128"]});
    let config = json!({
        "delegatedPrefixLength": 60,
        "targets": [
            pool("metallb-system"),
            pool("elsewhere"),
            {"kind": "GlobalNetworkSet", "name": "lan", "prefixIds": [0]},
            {"kind": "CiliumCIDRGroup", "name": "lan", "prefixIds": [0]},
        ],
    });
    let requests = [
        readme_command(),
        values(json!({})),
        values(json!({"config": config, "targetRights": {"IPAddressPool": {"enabled": true}}})),
        values(json!({"config": config, "targetRights": {
            "GlobalNetworkSet": {"enabled": true},
            "IPAddressPool": {"enabled": true, "namespaces": ["metallb-system", "elsewhere"]},
        }})),
    ];
    let notes: Vec<String> = answers(CHART, &requests)
        .iter()
        .map(|answer| {
            answer["notes"]
                .as_str()
                .unwrap_or_else(|| panic!("{answer}"))
                .to_string()
        })
        .collect();
    let [all, none, few, enough] = &notes[..] else {
        unreachable!()
    };
    for shown in [
        "kubectl -n kube-system rollout status daemonset/k6u",
        "kubectl get ip6uc k6u",
        "kubectl describe ip6uc k6u",
        "kubectl get ciliumcidrgroup ip6-local-lan",
        "kubectl get ip6unc",
    ] {
        assert!(all.contains(shown), "{all}");
    }
    assert!(!all.contains("No IP6Update"), "{all}");
    assert!(none.contains("No IP6UpdateConfig is in the values"), "{none}");
    assert!(none.contains("No IP6UpdateNodeConfig is in the values"), "{none}");
    assert_eq!(few.matches("WARNING").count(), 2, "{few}");
    assert!(
        few.contains("GlobalNetworkSets: set targetRights.GlobalNetworkSet.enabled=true"),
        "{few}"
    );
    assert!(few.contains("IPAddressPools in the namespace elsewhere"), "{few}");
    assert_eq!(enough.matches("WARNING").count(), 0, "{enough}");
}

#[test]
fn helm_lints_and_packages_the_chart() {
    assert!(!helm(&["lint", CHART], "").contains("templates/"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chart");
    let package = Command::new("scripts/package-chart.sh")
        .arg(env::var_os("HELM_PYTHON").unwrap())
        .arg(folder)
        .current_dir(repository())
        .output()
        .unwrap();
    let archive = String::from_utf8(package.stdout).unwrap();
    let archive = archive.trim();
    assert!(
        archive.ends_with(concat!("k6u-", env!("CARGO_PKG_VERSION"), ".tgz")),
        "{archive}"
    );
    let files = Command::new("tar")
        .args(["-xOzf", archive, "k6u/crds/crds.yaml"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(files.stdout).unwrap(), CRDS);
    let answer = |chart: &str| answers(chart, &[readme_command()]).remove(0);
    let (packaged, folder) = (answer(archive), answer(CHART));
    for part in ["manifest", "notes"] {
        assert!(
            packaged[part].is_string() && packaged[part] == folder[part],
            "{packaged}"
        );
    }
}

/// null removes a default in Helm, and is the value of an empty key in YAML.
#[test]
fn a_kind_with_namespaces_is_refused_without_them() {
    for Rights { kind, namespace, .. } in rights(repository()) {
        let request = values(json!({"targetRights": {&kind: {"enabled": true, "namespaces": null}}}));
        let answer = answers(CHART, &[request]).remove(0);
        let error = answer["error"]
            .as_str()
            .unwrap_or_else(|| panic!("{kind} is not refused"));
        let field = match namespace {
            Some(_) => format!("targetRights.{kind}.namespaces is required"),
            None => format!("'/targetRights/{kind}': additional properties 'namespaces' not allowed"),
        };
        assert!(error.contains(&field), "{error}");
    }
}

#[test]
fn events_are_created_in_one_namespace_only() {
    let objects = objects(values(json!({})));
    let text = json!(of_kind(&objects, "ClusterRole")).to_string();
    assert!(!text.contains("\"events\""), "{text}");
    for kind in ["Role", "RoleBinding"] {
        let found = of_kind(&objects, kind);
        assert_eq!(found.len(), 1, "{kind}");
        assert_eq!(found[0]["metadata"]["namespace"], "default", "{kind}");
    }
}

/// YAML reads these as numbers, booleans or null.
#[test]
fn names_arrive_as_texts() {
    let node_configs = ["1", "no", "on", "1e3", "0x1f", "null"].map(|name| json!({"name": name, "interface": "eth0"}));
    let requests = [
        values(json!({"nodeConfigs": node_configs})),
        values(json!({"fullnameOverride": "6", "interface": "eth0"})),
        values(json!({"priorityClassName": "1"})),
        values(json!({"serviceAccount": {"name": "1"}})),
        install(json!({"name": "123", "namespace": "456", "values": {"interface": "eth0"}})),
        values(json!({"targetRights": {"IPAddressPool": {"enabled": true, "namespaces": ["1"]}}})),
    ];
    for (request, objects) in requests.iter().zip(installed(&requests)) {
        for object in &objects {
            let metadata = &object["metadata"];
            assert!(metadata["name"].is_string(), "{request}: {} {metadata}", object["kind"]);
            assert!(
                metadata["namespace"].is_null() || metadata["namespace"].is_string(),
                "{request}: {metadata}"
            );
            let labels = metadata["labels"].as_object().unwrap();
            assert!(labels.values().all(Value::is_string), "{request}: {metadata}");
        }
        assert!(pod(&objects)["priorityClassName"].is_string(), "{request}");
        assert!(pod(&objects)["serviceAccountName"].is_string(), "{request}");
    }
}
