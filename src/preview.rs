//! The offline mode: YAML in, YAML out. It uses no cluster and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::kube::decode::{Bounded, decode};
use crate::node::address::Address;
use crate::node::announcements::Announcements;
use crate::node::observe::Observer;
use crate::node::select::{DEFAULT_STALE_AFTER, Look, Observation, Watch};
use crate::prefix::{Prefix, join};
use crate::reconcile::condition::{self, Judgement};
use crate::reconcile::plan::{self, Reason};
use crate::resources::GROUP;
use crate::resources::config::{Config, all_allowed_prefixes};
use crate::resources::node_config::{NodeConfig, NodeConfigStatus, NodeEntry};
use crate::resources::schema;
use crate::resources::targets::DesiredTarget;

/// The network interfaces of this machine.
pub trait Interfaces {
    /// Observes one interface, as [`Host::observe`](crate::node::Host::observe) does.
    ///
    /// # Errors
    /// When the kernel does not answer.
    fn observe(&mut self, watch: &Watch, allowed: Option<&[Prefix]>) -> io::Result<Observation>;

    /// The names of the interfaces with a prefix.
    ///
    /// # Errors
    /// When the kernel does not answer.
    fn with_prefix(&mut self) -> io::Result<Vec<String>>;
}

impl Interfaces for Observer {
    fn observe(&mut self, watch: &Watch, allowed: Option<&[Prefix]>) -> io::Result<Observation> {
        Observer::observe(self, watch, allowed, Duration::ZERO)
    }

    fn with_prefix(&mut self) -> io::Result<Vec<String>> {
        self.interfaces_with_prefix()
    }
}

/// A file's name and text.
pub type File = (String, String);

/// The result of a preview.
#[derive(Debug, Default)]
pub struct Preview {
    /// The targets as YAML documents.
    pub yaml: String,
    /// Explanations, one a line.
    pub notes: String,
    /// Whether the API server would accept every object, and every config would be Ready.
    pub ready: bool,
}

/// Plans for the objects in `files`, with the given addresses or, without any, this machine's.
///
/// # Errors
/// One sentence that points at file, document and field.
pub fn preview(files: &[File], addresses: &[Ipv6Addr], interfaces: &mut dyn Interfaces) -> Result<Preview, String> {
    let mut objects = Objects::default();
    for (name, text) in files {
        objects.read(name, text)?;
    }
    if objects.configs.is_empty() {
        return Err("there is no IP6UpdateConfig in what was read, so there is nothing to preview".into());
    }
    let mut preview = Preview {
        notes: objects.notes,
        ..Preview::default()
    };
    let node_configs = objects.node_configs;
    let allowed = all_allowed_prefixes(&objects.configs);
    let seen = if addresses.is_empty() {
        look_around(&node_configs, allowed.as_deref(), interfaces, &mut preview.notes)?
    } else {
        let seen = given(addresses, allowed.as_deref());
        explain("the command line", &seen, &mut preview.notes);
        BTreeMap::from([("command-line".to_string(), ("command-line".to_string(), seen))])
    };

    // This machine stands in for the nodes: entries in the files do not count.
    let mut node_configs = Vec::new();
    for (name, (interface, observation)) in &seen {
        let stand_in = json!({"metadata": {"name": name}, "spec": {"interface": interface}});
        let mut config: NodeConfig = decoded(name, &stand_in)?;
        let entry = NodeEntry {
            prefixes: observation.prefixes.clone(),
            message: observation.message(interface),
            ..NodeEntry::default()
        };
        config.status.nodes.insert("this machine".into(), entry);
        node_configs.push(config);
    }
    let observed = plan::Observed {
        node_configs: &node_configs,
        ..plan::Observed::default()
    };
    let plan = plan::plan(&objects.configs, &observed);
    preview.ready = !objects.is_refused;
    for (config, verdict) in objects.configs.iter().zip(&plan.verdicts) {
        let Judgement { reason, message, .. } = condition::judge(verdict, &[], &[]);
        preview.ready &= reason == Reason::Updated;
        line(
            &mut preview.notes,
            &format!("IP6UpdateConfig {}: {reason}: {message}", config.metadata.name),
        );
    }
    for target in plan.targets() {
        preview.yaml += &document(target).map_err(|e| e.to_string())?;
    }
    Ok(preview)
}

fn document(target: &DesiredTarget) -> serde_yaml::Result<String> {
    Ok(format!("---\n{}", serde_yaml::to_string(&target.newest_object())?))
}

fn line(notes: &mut String, text: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(notes, "{text}");
}

/// The objects that were read.
#[derive(Default)]
struct Objects {
    configs: Vec<Config>,
    node_configs: Vec<NodeConfig>,
    /// The kinds and names of all.
    names: BTreeSet<(String, String)>,
    notes: String,
    /// The API server would refuse one of them.
    is_refused: bool,
}

impl Objects {
    fn read(&mut self, file: &str, text: &str) -> Result<(), String> {
        for (at, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
            let place = format!("{file}, document {}", at + 1);
            let value = Bounded::deserialize(document)
                .map_err(|e| format!("{place}: {e}"))?
                .value;
            self.take(&place, &value)?;
        }
        Ok(())
    }

    fn take(&mut self, place: &str, value: &Value) -> Result<(), String> {
        if value.is_null() {
            return Ok(());
        }
        // `kubectl get -o yaml` writes this for more than one object.
        if let (Some("List"), Value::Array(items)) = (value["kind"].as_str(), &value["items"]) {
            for (at, item) in items.iter().enumerate() {
                self.take(&format!("{place}, items[{at}]"), item)?;
            }
            return Ok(());
        }
        let version = format!("{GROUP}/v1");
        let kind = value["kind"].as_str().unwrap_or_default();
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        if kind != "IP6UpdateConfig" && kind != "IP6UpdateNodeConfig" {
            let kind = if kind.is_empty() {
                "a document without kind"
            } else {
                kind
            };
            line(&mut self.notes, &format!("{place}: {kind} is not k6u's, skipped"));
            return Ok(());
        }
        if value["apiVersion"] != version {
            return Err(format!(
                "{place}: apiVersion is {}, but it must be {version}",
                value["apiVersion"]
            ));
        }
        if name.is_empty() {
            return Err(format!("{place}: metadata.name is missing"));
        }
        let object = format!("{place}: {kind} {name}");
        if !self.names.insert((kind.to_string(), name.to_string())) {
            return Err(format!("{object} is there twice"));
        }
        for problem in schema::problems(kind, value) {
            self.is_refused = true;
            line(
                &mut self.notes,
                &format!("{object}: the API server refuses it: {problem}"),
            );
        }
        if kind == "IP6UpdateConfig" {
            let config: Config = decoded(&object, value)?;
            if let Err(bad) = &config.spec {
                return Err(format!("{object}: {}", bad.problems.join("; ")));
            }
            self.configs.push(config);
        } else {
            let mut config: NodeConfig = decoded(&object, value)?;
            if let Err(problem) = &config.spec.watch {
                return Err(format!("{object}: {problem}"));
            }
            config.status = NodeConfigStatus::default();
            self.node_configs.push(config);
        }
        Ok(())
    }
}

/// Decodes an object from the text of a value, exactly as from a response of the API server.
fn decoded<T: DeserializeOwned>(object: &str, value: &Value) -> Result<T, String> {
    decode(value.to_string().as_bytes()).map_err(|e| format!("{object}: {e}"))
}

/// Interface and observation, by the name of the node config.
type Seen = BTreeMap<String, (String, Observation)>;

/// The observation of an interface with these addresses.
fn given(addresses: &[Ipv6Addr], allowed: Option<&[Prefix]>) -> Observation {
    let addresses: Vec<Address> = addresses.iter().map(|ip| Address::permanent(*ip)).collect();
    let mut past = Announcements::default();
    let look = Look {
        addresses: &past.date(0, &addresses, 0),
        watch: &watch_of("command-line"),
        allowed,
        kernel_slaac: true,
        now: 0,
    };
    look.select(&look.judge(&past.subnets), Vec::new())
}

/// The rules for an interface that no IP6UpdateNodeConfig names.
fn watch_of(interface: &str) -> Watch {
    Watch {
        interface: interface.into(),
        stale_after: DEFAULT_STALE_AFTER,
        keep_deprecated: 0,
    }
}

/// Observes the interfaces that the node configs name.
fn look_around(
    node_configs: &[NodeConfig],
    allowed: Option<&[Prefix]>,
    interfaces: &mut dyn Interfaces,
    notes: &mut String,
) -> Result<Seen, String> {
    let no_answer = |e: io::Error| format!("the kernel does not say what addresses there are: {e}");
    let mut seen = BTreeMap::new();
    if node_configs.is_empty() {
        line(notes, "no IP6UpdateNodeConfig was read, which would name the interface");
        let (name, observation) = some_interface(allowed, interfaces, notes).map_err(no_answer)?;
        seen.insert("no-node-config".into(), (name, observation));
    }
    for config in node_configs {
        let Ok(watch) = &config.spec.watch else {
            continue;
        };
        let interface = &watch.interface;
        if config.spec.needs_labels() {
            let name = &config.metadata.name;
            line(
                notes,
                &format!("IP6UpdateNodeConfig {name}: taken as if its nodeSelector selected this machine"),
            );
        }
        let mut place = interface.clone();
        let mut observation = interfaces.observe(watch, allowed).map_err(no_answer)?;
        if observation.absent {
            line(notes, &format!("there is no interface {interface} on this machine"));
            (place, observation) = some_interface(allowed, interfaces, notes).map_err(no_answer)?;
        } else {
            explain(interface, &observation, notes);
        }
        seen.insert(config.metadata.name.clone(), (place, observation));
    }
    Ok(seen)
}

/// Observes the first interface with a prefix, instead of one that does not exist.
fn some_interface(
    allowed: Option<&[Prefix]>,
    interfaces: &mut dyn Interfaces,
    notes: &mut String,
) -> io::Result<(String, Observation)> {
    let candidates = interfaces.with_prefix()?;
    let Some(name) = candidates.first() else {
        line(
            notes,
            "no interface of this machine has a global IPv6 address; try --address 2001:db8:1234:5671::10",
        );
        return Ok(("no-interface".into(), Observation::default()));
    };
    let others = match candidates.len() {
        1 => "the only one that has".to_string(),
        n => format!("the first of {n} that have"),
    };
    line(notes, &format!("using {name} instead, {others} a global IPv6 address"));
    let seen = interfaces.observe(&watch_of(name), allowed)?;
    explain(name, &seen, notes);
    Ok((name.clone(), seen))
}

/// Adds a line on the addresses that count, and on the reasons why the others do not.
fn explain(place: &str, seen: &Observation, notes: &mut String) {
    line(notes, &format!("{place}: prefixes {}", join(&seen.prefixes)));
    for (address, why) in &seen.rejected {
        line(notes, &format!("{place}: {address} left out: {why}"));
    }
    for remark in &seen.remarks {
        line(notes, &remark.text(place));
    }
    if seen.excess > 0 {
        line(notes, &seen.message(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these interfaces and addresses.
    struct Machine(Vec<(&'static str, Vec<&'static str>)>);

    impl Interfaces for Machine {
        fn observe(&mut self, watch: &Watch, allowed: Option<&[Prefix]>) -> io::Result<Observation> {
            let found = self.0.iter().find(|(name, _)| *name == watch.interface);
            let Some((_, addresses)) = found else {
                return Ok(Observation::absent());
            };
            let addresses: Vec<Ipv6Addr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            Ok(given(&addresses, allowed))
        }

        fn with_prefix(&mut self) -> io::Result<Vec<String>> {
            let names: Vec<String> = self.0.iter().map(|(name, _)| name.to_string()).collect();
            Ok(names
                .into_iter()
                .filter(|name| !self.observe(&watch_of(name), None).unwrap().prefixes.is_empty())
                .collect())
        }
    }

    const CONFIG: &str = include_str!("../manifests/examples/config.yaml");
    const NODE_CONFIG: &str = include_str!("../manifests/examples/nodeconfig.yaml");

    fn run(texts: &[&str], addresses: &[&str], machine: Machine) -> Result<Preview, String> {
        let files: Vec<File> = texts
            .iter()
            .map(|text| ("f.yaml".to_string(), text.to_string()))
            .collect();
        let addresses: Vec<Ipv6Addr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let mut machine = machine;
        preview(&files, &addresses, &mut machine)
    }

    #[test]
    fn the_example_objects() {
        let machine = Machine(vec![("eth0", vec!["2001:db8:1234:5671::10", "fe80::1"])]);
        let preview = run(&[CONFIG, NODE_CONFIG], &[], machine).unwrap();
        assert_eq!(
            preview.yaml,
            "---\napiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata:\n  labels:\n    \
             app.kubernetes.io/managed-by: k6u\n  name: ip6-local-lan\nspec:\n  externalCIDRs:\n  \
             - 2001:db8:1234:5670::/64\n  - 2001:db8:1234:5671::/64\n  - 2001:db8:1234:5672::/64\n"
        );
        assert!(preview.ready);
        assert!(
            preview.notes.contains("eth0: prefixes 2001:db8:1234:5671::/64\n"),
            "{}",
            preview.notes
        );
        assert!(
            preview
                .notes
                .contains("eth0: fe80::1 left out: not global unicast (2000::/3)\n")
        );
    }

    #[test]
    fn an_address_replaces_the_interfaces() {
        let preview = run(&[CONFIG], &["2001:db8:1234:5671::10"], Machine(vec![])).unwrap();
        assert!(preview.yaml.contains("- 2001:db8:1234:5672::/64\n"));
    }

    #[test]
    fn preview_selects_as_the_agent_does() {
        let config = CONFIG.replace("spec:", "spec:\n  allowedPrefixes: [2001:db8::/32]");
        let machine = || Machine(vec![("eth0", vec!["2001:db8:1234:5671::10", "2a00:bad::10"])]);
        let preview = run(&[&config, NODE_CONFIG], &[], machine()).unwrap();
        assert!(
            preview.notes.contains("eth0: prefixes 2001:db8:1234:5671::/64\n"),
            "{}",
            preview.notes
        );
        assert!(
            preview
                .notes
                .contains("eth0: 2a00:bad::10 left out: outside every allowedPrefixes")
        );
        let alone = run(&[&config], &["2a00:bad::10"], machine()).unwrap();
        assert!(!alone.ready && alone.yaml.is_empty(), "{}", alone.notes);
        assert!(
            run(&[CONFIG, NODE_CONFIG], &[], machine())
                .unwrap()
                .yaml
                .contains("- 2a00:bad:")
        );
    }

    #[test]
    fn a_missing_interface_is_replaced() {
        let machine = Machine(vec![("lo", vec!["::1"]), ("wlan0", vec!["2001:db8:1234:5671::10"])]);
        let preview = run(&[CONFIG, NODE_CONFIG], &[], machine).unwrap();
        assert!(preview.yaml.contains("5670::/64"));
        assert!(
            preview
                .notes
                .contains("there is no interface eth0 on this machine\nusing wlan0 instead, the only one")
        );
    }

    #[test]
    fn no_prefix_gives_no_group() {
        let preview = run(&[CONFIG, NODE_CONFIG], &[], Machine(vec![("eth0", vec!["fd00::1"])])).unwrap();
        assert_eq!(preview.yaml, "");
        assert!(!preview.ready);
    }

    #[test]
    fn errors_point_at_file_document_and_field() {
        let fails = |text: &str| run(&["kind: Other", text], &["2001:db8::1"], Machine(vec![])).unwrap_err();
        let good = "apiVersion: apps.fuwafuwatime.moe/v1\nkind: IP6UpdateConfig\nmetadata: {name: a}\n";
        assert_eq!(
            fails(&format!(
                "{CONFIG}\n---\n{good}spec: {{delegatedPrefixLength: 65, ciliumCIDRGroups: []}}"
            )),
            "f.yaml, document 2: IP6UpdateConfig a: spec.delegatedPrefixLength is 65, but it must be a whole number \
             from 1 to 64"
        );
        assert_eq!(
            fails("apiVersion: v1\nkind: IP6UpdateConfig"),
            "f.yaml, document 1: apiVersion is \"v1\", but it must be apps.fuwafuwatime.moe/v1"
        );
        assert!(fails("a: [").starts_with("f.yaml, document 1: "));
        assert!(fails("kind: Pod").contains("there is no IP6UpdateConfig"));
        assert!(
            fails(&NODE_CONFIG.replace("eth0", "a/b")).contains("IP6UpdateNodeConfig ip6-update-node1: spec.interface")
        );
    }

    #[test]
    fn a_list_as_kubectl_writes_it() {
        let list = r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "apps.fuwafuwatime.moe/v1",
            "kind": "IP6UpdateConfig", "metadata": {"name": "a"}, "spec": {"delegatedPrefixLength": 56,
            "ciliumCIDRGroups": [{"ciliumCIDRGroupName": "lan", "prefixIds": [255]}]}}]}"#;
        let preview = run(&[list], &["2001:db8:0:ab01::1"], Machine(vec![])).unwrap();
        assert!(preview.yaml.ends_with("- 2001:db8:0:abff::/64\n"), "{}", preview.yaml);
    }

    #[test]
    fn every_kind_of_target() {
        let config = r#"{"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateConfig", "metadata": {"name": "a"},
            "spec": {"delegatedPrefixLength": 56, "targets": [
            {"kind": "CiliumLoadBalancerIPPool", "name": "lan", "suffixes": ["::1:ffff:0:0:0/112"]},
            {"kind": "Middleware", "namespace": "web", "name": "lan", "suffixes": ["::/56"], "extraCIDRs": ["10.0.0.0/8"]},
            {"kind": "DNSEndpoint", "namespace": "dns", "name": "nas", "dnsName": "nas.example.com", "suffixes": ["::10"]}
            ]}}"#;
        let preview = run(&[config], &["2001:db8:0:ab01::1"], Machine(vec![])).unwrap();
        assert_eq!(
            preview.yaml,
            "---\napiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata:\n  name: lan\nspec:\n  blocks:\n  \
             - cidr: 2001:db8:0:ab01:ffff::/112\n---\napiVersion: traefik.io/v1alpha1\nkind: Middleware\nmetadata:\n  \
             name: lan\n  namespace: web\nspec:\n  ipAllowList:\n    sourceRange:\n    - 10.0.0.0/8\n    \
             - 2001:db8:0:ab00::/56\n---\napiVersion: externaldns.k8s.io/v1alpha1\nkind: DNSEndpoint\nmetadata:\n  \
             labels:\n    app.kubernetes.io/managed-by: k6u\n  name: nas\n  namespace: dns\nspec:\n  endpoints:\n  \
             - dnsName: nas.example.com\n    recordType: AAAA\n    targets:\n    - 2001:db8:0:ab00::10\n"
        );
        let bad = config.replace("::1:ffff:0:0:0/112", "::1:ffff:0:0:1/112");
        assert_eq!(
            run(&[&bad], &["2001:db8::1"], Machine(vec![])).unwrap_err(),
            "f.yaml, document 1: IP6UpdateConfig a: spec.targets[0].suffixes[0] is \"::1:ffff:0:0:1/112\", but the bits \
             behind its length must be 0: ::1:ffff:0:0:0/112 fits"
        );
    }
    #[test]
    fn refusals_by_the_schema_are_reported() {
        for (old, new, problem) in [
            (
                "prefixIds: [0, 1, 2]",
                "prefixIds: [0, 1, 1]",
                "spec.ciliumCIDRGroups[0].prefixIds[2] is 1, but the list has it already",
            ),
            (
                "prefixIds: [0, 1, 2]",
                "prefixIds: [0]\n    suffix: [\"::1\"]",
                "spec.ciliumCIDRGroups[0].suffix is not a field of the object",
            ),
            (
                "spec:",
                "spec:\n  allowedPrefix: [\"2a00::/16\"]",
                "spec.allowedPrefix is not a field of the object",
            ),
        ] {
            let config = CONFIG.replace(old, new);
            assert_ne!(config, CONFIG);
            let preview = run(&[&config], &["2001:db8:1234:5671::10"], Machine(vec![])).unwrap();
            assert!(!preview.ready, "{new}");
            let line = format!("IP6UpdateConfig ip6-update-config: the API server refuses it: {problem}\n");
            assert!(preview.notes.contains(&line), "{}", preview.notes);
        }
    }
}
