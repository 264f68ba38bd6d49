//! Alternative names of interfaces (`ip link property add`).

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::site::{CONFIG, CONFIG_NAME, NODE, NODE_CONFIG, NODE_CONFIGS, SOON, Site};
use crate::{Scenario, binary};

pub const ALL: &[Scenario] = scenarios![
    an_interface_by_an_alternative_name,
    preview_takes_alternative_names,
    an_interface_with_three_hundred_names
];

/// Alternative names for an interface: one that a plain name could be, and one that is too long for that.
fn names(site: &Site) -> [String; 2] {
    let name = &site.interface.name;
    [
        format!("uplink-{name}"),
        format!("{name}-that-udev-named-by-its-slot-enp135s0f1v3d1np1"),
    ]
}

fn an_interface_by_an_alternative_name() {
    for at in 0..2 {
        let site = Site::with_address("2001:db8:1234:5671::10");
        let name = &names(&site)[at];
        site.interface.add_name(name).expect("an alternative name");
        let path = format!("{NODE_CONFIGS}/ip6-update-node1");
        site.patch(&path, json!({"spec": {"interface": name}}));
        let node = site.run(1);
        site.wait_lan("2001:db8:1234:567");
        // A change of the address wakes it, whichever name it knows.
        site.interface.add("2001:db8:9876:5431::10");
        site.interface.remove("2001:db8:1234:5671::10");
        site.wait_lan("2001:db8:9876:543");
        let entry = site
            .object("apps.fuwafuwatime.moe", "ip6updatenodeconfigs", "ip6-update-node1")
            .unwrap();
        let entry = &entry["status"]["nodes"][NODE];
        assert_eq!(entry["prefixes"], json!(["2001:db8:9876:5431::/64"]));
        assert_eq!(entry["message"].as_str().unwrap_or_default(), "");
        node.wait_log(&format!("{name}: prefixes "), SOON);
        site.wait_reason(CONFIG_NAME, "Updated");
        assert_eq!(node.complaints(), [""; 0]);
    }
}

fn preview_takes_alternative_names() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let folder = &site.account.folder;
    for name in &names(&site) {
        site.interface.add_name(name).expect("an alternative name");
        fs::write(folder.join("config.yaml"), CONFIG).expect("a file");
        fs::write(folder.join("node.yaml"), NODE_CONFIG.replace("eth0", name)).expect("a file");
        let mut preview = Command::new(binary());
        preview.env_clear().current_dir(folder);
        let output = preview
            .args(["preview", "config.yaml", "node.yaml"])
            .output()
            .expect("k6u starts");
        let (yaml, notes) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{notes}");
        assert!(yaml.contains("2001:db8:1234:5670::/64"), "{yaml}");
        assert!(notes.contains(name.as_str()), "{notes}");
    }
}

/// glibc's getifaddrs never returns where an interface has as many.
pub const NEEDS_MUSL: &str = "an_interface_with_three_hundred_names";

/// All of them are in the kernel's answer, whatever is asked for.
fn an_interface_with_three_hundred_names() {
    let site = Site::with_address("2001:db8:1234:5671::10");
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    for number in 0..300 {
        let name = format!("{number:03}-{}", "x".repeat(120));
        site.interface.add_name(&name).expect("an alternative name");
    }
    site.interface.add("2001:db8:9876:5431::10");
    site.interface.remove("2001:db8:1234:5671::10");
    site.wait_lan("2001:db8:9876:543");
    assert_eq!(node.complaints(), [""; 0]);
}
