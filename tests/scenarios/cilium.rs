//! The versions of Cilium.

use k6u_testkit::apiserver::server::{Cilium, upgrade_cilium};
use serde_json::Value;

use crate::Scenario;
use crate::site::{CONFIG_NAME, GROUP, SOON, Site, requests};

pub const ALL: &[Scenario] = scenarios![
    cilium_1_17_serves_v2alpha1_only,
    cilium_1_18_serves_both,
    a_later_cilium_serves_v2_only,
    cilium_is_upgraded_meanwhile,
    cilium_is_not_there_yet
];

fn served(cilium: Cilium, version: &str) -> (Site, crate::site::Running) {
    let site = Site::bare("127.0.0.1", Some(cilium));
    site.install();
    site.interface.add("2001:db8:1234:5671::10");
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_rounds(2);
    let group = site.group(GROUP).unwrap();
    assert_eq!(group["apiVersion"], format!("cilium.io/{version}"));
    assert_eq!(group["metadata"]["labels"]["app.kubernetes.io/managed-by"], "k6u");
    let asked = requests(
        &site.server.store(),
        &format!("GET /apis/cilium.io/{version}/ciliumcidrgroups/"),
    );
    let all = requests(&site.server.store(), "GET /apis/cilium.io/").len();
    assert!(
        asked.len() >= 2 && all <= asked.len() + 2,
        "{all} requests, {} of them for the group",
        asked.len()
    );
    assert_eq!(node.complaints(), [""; 0]);
    (site, node)
}

fn cilium_1_17_serves_v2alpha1_only() {
    served(Cilium::V2Alpha1, "v2alpha1");
}

fn cilium_1_18_serves_both() {
    served(Cilium::Both, "v2");
}

fn a_later_cilium_serves_v2_only() {
    served(Cilium::V2, "v2");
}

fn cilium_is_upgraded_meanwhile() {
    let (site, node) = served(Cilium::V2Alpha1, "v2alpha1");
    upgrade_cilium(&site.server, Cilium::V2);
    site.wait_rounds(3);
    site.interface.add("2001:db8:9876:5431::10");
    site.interface.remove("2001:db8:1234:5671::10");
    site.wait_lan("2001:db8:9876:543");
    assert_eq!(node.complaints(), [""; 0], "an upgrade is no trouble");
}

fn cilium_is_not_there_yet() {
    let site = Site::bare("127.0.0.1", None);
    site.install();
    site.interface.add("2001:db8:1234:5671::10");
    let node = site.run(1);
    let condition = site.wait_reason(CONFIG_NAME, "UpdateFailed");
    assert!(
        condition["message"]
            .as_str()
            .unwrap()
            .contains("install Cilium 1.14 or newer"),
        "{condition}"
    );
    assert_eq!(condition["status"], Value::from("False"));
    site.wait_rounds(2);
    upgrade_cilium(&site.server, Cilium::Both);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    node.wait_log("CiliumCIDRGroup ip6-local-lan: recovered after", SOON);
}
