//! Three nodes of one site: a process for each, one API server.

use k6u_testkit::apiserver::store::{Key, Store};
use k6u_testkit::machine::namespace::Interface;
use serde_json::{Value, json};

use crate::site::{CONFIG_NAME, NODE, NODE_CONFIGS, Running, SOON, Site};

/// Three nodes, and the interfaces that they watch.
pub struct Trio {
    pub site: Site,
    pub interfaces: Vec<Interface>,
    pub nodes: Vec<Running>,
}

/// Their names.
pub const NAMES: [&str; 3] = [NODE, "node2.example.com", "node3.example.com"];

impl Trio {
    /// All see the same delegated prefix, through different links of it, and publish in an object each.
    pub fn start(interval: u32) -> Self {
        Trio::on(Site::new(), interval)
    }

    /// The same on a site that is there already.
    pub fn on(site: Site, interval: u32) -> Self {
        let selectors = NAMES.map(|name| json!({"kubernetes.io/hostname": name}));
        Trio::with(site, &selectors, interval)
    }

    /// All watch the same interface, and publish in the same object.
    pub fn sharing(interval: u32) -> Self {
        Trio::with(Site::new(), &[json!({})], interval)
    }

    fn with(site: Site, selectors: &[Value], interval: u32) -> Self {
        site.server
            .admin("DELETE", &format!("{NODE_CONFIGS}/ip6-update-node1"), "", &Value::Null);
        for name in &NAMES[1..] {
            site.server.add_node(name);
        }
        let mut trio = Trio {
            site,
            interfaces: Vec::new(),
            nodes: Vec::new(),
        };
        for (at, selector) in selectors.iter().enumerate() {
            let interface = Interface::new();
            interface.add(&format!("2001:db8:1234:567{at}::10"));
            let node_config = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
                "metadata": {"name": NAMES[at]}, "spec": {"nodeSelector": selector, "interface": interface.name}});
            trio.site
                .server
                .admin("POST", NODE_CONFIGS, "application/json", &node_config);
            trio.interfaces.push(interface);
        }
        for name in NAMES {
            let node = trio.run(name, interval);
            trio.nodes.push(node);
        }
        trio.site.wait_lan("2001:db8:1234:567");
        trio.site.wait_reason(CONFIG_NAME, "Updated");
        for name in NAMES {
            assert!(
                trio.site.server.wait(SOON, |store| published(store, name)).is_some(),
                "{name} did not publish"
            );
        }
        trio
    }

    /// Runs k6u on a node.
    pub fn run(&self, name: &str, interval: u32) -> Running {
        Running(
            self.site
                .start()
                .with("NODE_NAME", name)
                .with("UPDATE_INTERVAL", &interval.to_string())
                .spawn(),
        )
    }

    /// The provider renumbers all links, from one delegated prefix to another, each up to its last hex digit.
    pub fn renumber(&self, from: &str, to: &str) {
        for at in 0..self.interfaces.len() {
            self.renumber_link(at, from, to);
        }
    }

    /// The same on one link.
    pub fn renumber_link(&self, at: usize, from: &str, to: &str) {
        self.interfaces[at].add(&format!("{to}{at}::10"));
        self.interfaces[at].remove(&format!("{from}{at}::10"));
    }
}

/// What a node published.
pub fn published(store: &Store, node: &str) -> Option<Value> {
    NAMES.iter().find_map(|name| {
        let config = store
            .objects
            .get(&Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", name))?;
        Some(config["status"]["nodes"][node].clone()).filter(Value::is_object)
    })
}
