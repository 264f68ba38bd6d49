//! Three nodes of one site, with one API server.

use crate::apiserver::store::{Key, Store};
use crate::machine::namespace::Interface;
use serde_json::{Value, json};

use crate::site::{CONFIG_NAME, NODE, NODE_CONFIGS, Running, SOON, Site};

/// Three nodes, each a process by default, and the interfaces that they watch.
pub struct Trio<N = Running> {
    /// The site that they share.
    pub site: Site,
    /// The interface of each node, or one for all.
    pub interfaces: Vec<Interface>,
    /// The nodes, in the order of [`NAMES`].
    pub nodes: Vec<N>,
}

/// The objects in which the nodes publish.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    /// One object for each node, with an interface of its own.
    PerNode,
    /// One object for all nodes, with one interface.
    Shared,
}

/// The names of the nodes.
pub const NAMES: [&str; 3] = [NODE, "node2.example.com", "node3.example.com"];

impl Trio {
    /// Runs a process for each node. All see the same delegated prefix, through different links of it, and each
    /// publishes in an object of its own.
    pub fn start(interval: u32) -> Self {
        Trio::on(Site::new(), interval)
    }

    /// The same on an existing site.
    pub fn on(site: Site, interval: u32) -> Self {
        Trio::of(site, Layout::PerNode).with_processes(interval)
    }

    /// Runs a process for each node. All watch the same interface, and publish in the same object.
    pub fn sharing(interval: u32) -> Self {
        Trio::of(Site::new(), Layout::Shared).with_processes(interval)
    }

    fn with_processes(mut self, interval: u32) -> Self {
        for name in NAMES {
            let node = self.run(name, interval);
            self.nodes.push(node);
        }
        self.site.wait_lan("2001:db8:1234:567");
        self.site.wait_reason(CONFIG_NAME, "Updated");
        for name in NAMES {
            assert!(
                self.site.server.wait(SOON, |store| published(store, name)).is_some(),
                "{name} did not publish"
            );
        }
        self
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
}

impl<N> Trio<N> {
    /// The site with its node configs and interfaces, before k6u runs on a node.
    pub fn of(site: Site, layout: Layout) -> Self {
        let selectors = match layout {
            Layout::PerNode => NAMES.map(|name| json!({"kubernetes.io/hostname": name})).to_vec(),
            Layout::Shared => vec![json!({})],
        };
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
        trio
    }

    /// Renumbers all links from one delegated prefix to another, each given up to its last hex digit.
    pub fn renumber(&self, from: &str, to: &str) {
        for at in 0..self.interfaces.len() {
            self.renumber_link(at, from, to);
        }
    }

    /// Renumbers one link.
    pub fn renumber_link(&self, at: usize, from: &str, to: &str) {
        self.interfaces[at].add(&format!("{to}{at}::10"));
        self.interfaces[at].remove(&format!("{from}{at}::10"));
    }
}

/// The entry of a node.
pub fn published(store: &Store, node: &str) -> Option<Value> {
    NAMES.iter().find_map(|name| {
        let config = store
            .objects
            .get(&Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", name))?;
        Some(config["status"]["nodes"][node].clone()).filter(Value::is_object)
    })
}
