//! Three nodes on three links of one site: a process and an interface for each, one API server.

use k6u_testkit::namespace::Interface;
use k6u_testkit::store::{Key, Store};
use serde_json::{Value, json};

use crate::site::{CONFIG_NAME, NODE, NODE_CONFIGS, Running, SOON, Site};

/// Three nodes with an interface each, which their node configs select.
pub struct Trio {
    pub site: Site,
    pub interfaces: [Interface; 3],
    pub nodes: Vec<Running>,
}

/// Their names.
pub const NAMES: [&str; 3] = [NODE, "node2.example.com", "node3.example.com"];

impl Trio {
    /// All see the same delegated prefix, through different links of it.
    pub fn start(interval: u32) -> Self {
        Trio::on(Site::new(), interval)
    }

    /// The same on a site that is there already.
    pub fn on(site: Site, interval: u32) -> Self {
        site.server
            .admin("DELETE", &format!("{NODE_CONFIGS}/ip6-update-node1"), "", &Value::Null);
        let interfaces = [Interface::new(), Interface::new(), Interface::new()];
        for (at, (interface, name)) in interfaces.iter().zip(NAMES).enumerate() {
            if name != NODE {
                site.server.add_node(name);
            }
            interface.add(&format!("2001:db8:1234:567{at}::10"));
            let node_config = json!({"apiVersion": "apps.fuwafuwatime.moe/v1", "kind": "IP6UpdateNodeConfig",
                "metadata": {"name": name}, "spec": {"nodeSelector": {"kubernetes.io/hostname": name},
                "interface": interface.name}});
            site.server
                .admin("POST", NODE_CONFIGS, "application/json", &node_config);
        }
        let mut trio = Trio {
            site,
            interfaces,
            nodes: Vec::new(),
        };
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
}

/// What a node published in the node config of its own name.
pub fn published(store: &Store, node: &str) -> Option<Value> {
    let config = store
        .objects
        .get(&Key::new("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", node))?;
    Some(config["status"]["nodes"][node].clone()).filter(Value::is_object)
}
