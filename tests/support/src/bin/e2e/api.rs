//! Output of kubectl, validation by the schemas, and RBAC.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use k6u_testkit::example::{GROUP, NODE};

use crate::cluster::{Cluster, PATIENCE};
use crate::{CILIUM_POLICIES, POLICIES};

pub fn kubectl_output(cluster: &mut Cluster, binary: &Path) {
    // As the README says: k6u crds | kubectl apply --server-side -f -
    let crds = Command::new(binary).arg("crds").output().expect("k6u starts");
    let crds = String::from_utf8(crds.stdout).expect("text");
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    let (applied, text) = cluster.try_kubectl(&apply, &crds);
    assert!(applied, "{text}");
    cluster.kubectl(&["-n", "kube-system", "get", "pods", "-l", "app.kubernetes.io/name=k6u"]);
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "ip6uc/ip6-update-config",
        "--timeout=30s",
    ]);
    for (kind, words) in [
        (
            "ip6uc",
            vec!["ip6-update-config", "True", "Updated", "2001:db8:9876:5430::/60"],
        ),
        ("ip6unc", vec!["ip6-update-node1", NODE, "eth0"]),
    ] {
        let table = cluster.kubectl(&["get", kind]);
        assert!(table.lines().all(|line| line.len() <= 120), "{table}");
        assert!(words.iter().all(|word| table.contains(word)), "{table}");
        assert!(!table.contains(['"', '[', '{']), "{table}");
        print!("{table}");
    }
    cluster.kubectl(&["apply", "-f", CILIUM_POLICIES]);
    let policies = "crd/ciliumnetworkpolicies.cilium.io";
    cluster.wait_established(&[policies]);
    let deadline = Instant::now() + PATIENCE;
    for example in POLICIES {
        let policy = ["apply", "--validate=strict", "-f", example];
        while !cluster.try_kubectl(&policy, "").0 {
            let (_, text) = cluster.try_kubectl(&policy, "");
            assert!(Instant::now() < deadline, "{text}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    let cnp = cluster.json(&["get", "ciliumnetworkpolicy", "web-from-lan"]);
    assert_eq!(cnp["spec"]["ingress"][0]["fromCIDRSet"][0]["cidrGroupRef"], GROUP);
    let described = cluster.kubectl(&["describe", "ip6uc", "ip6-update-config"]);
    assert!(
        // The README shows this, with the column From.
        described.contains("  k6u   2001:db8:1234:5670::/60 -> 2001:db8:9876:5430::/60"),
        "{described}"
    );
    for field in [
        "ip6uc",
        "ip6uc.spec.delegatedPrefixLength",
        "ip6uc.spec.allowedPrefixes",
        "ip6uc.spec.ciliumCIDRGroups.prefixIds",
        "ip6uc.spec.ciliumCIDRGroups.suffixes",
        "ip6uc.spec.ciliumCIDRGroups.extraCIDRs",
        "ip6uc.spec.targets",
        "ip6uc.spec.targets.kind",
        "ip6uc.spec.targets.namespace",
        "ip6uc.spec.targets.name",
        "ip6uc.spec.targets.prefixIds",
        "ip6uc.spec.targets.suffixes",
        "ip6uc.spec.targets.ranges",
        "ip6uc.spec.targets.dnsName",
        "ip6uc.spec.targets.recordTTL",
        "ip6uc.spec.targets.extraCIDRs",
        "ip6uc.status.conditions",
        "ip6unc.spec.interface",
        "ip6unc.spec.nodeSelector",
        "ip6unc.spec.staleAfterSeconds",
        "ip6unc.spec.keepDeprecatedSeconds",
        "ip6unc.status.nodes",
    ] {
        let text = cluster.kubectl(&["explain", field]);
        let description = text.split("DESCRIPTION:").nth(1).unwrap_or_default().trim();
        assert!(
            description.len() > 20 && !description.starts_with("<empty>"),
            "{field}: {text}"
        );
    }
}

pub fn schemas_refuse_invalid_objects(cluster: &mut Cluster) {
    let config = |spec: &str| {
        format!(
            "apiVersion: apps.fuwafuwatime.moe/v1\nkind: IP6UpdateConfig\nmetadata: {{name: x}}\nspec: {{{spec}}}\n"
        )
    };
    let node = |spec: &str| config(spec).replace("IP6UpdateConfig", "IP6UpdateNodeConfig");
    let group = |length: &str, ids: &str| {
        config(&format!(
            "delegatedPrefixLength: {length}, ciliumCIDRGroups: [{{ciliumCIDRGroupName: a, prefixIds: [{ids}]}}]"
        ))
    };
    let entry = |entry: &str| {
        config(&format!(
            "delegatedPrefixLength: 56, ciliumCIDRGroups: [{{ciliumCIDRGroupName: a, {entry}}}]"
        ))
    };
    let targets = |list: &str| config(&format!("delegatedPrefixLength: 56, targets: [{list}]"));
    let mut good = vec![
        entry("suffixes: ['::/56', '::1', '::1:0:0:0:10/128', '::10:0:0:0:0/60']"),
        entry("prefixIds: [0], extraCIDRs: [10.0.0.0/8, 'fd00:1::/48', '::/0']"),
        targets("{kind: CiliumLoadBalancerIPPool, name: a, suffixes: ['::1:ffff:0:0:0/112']}"),
        targets(
            "{kind: Middleware, namespace: b, name: a, prefixIds: [0]}, {kind: Middleware, namespace: c, name: a, prefixIds: [0]}",
        ),
        node("interface: eth0"),
        node("interface: eth0, staleAfterSeconds: 0, nodeSelector: {}"),
        config("delegatedPrefixLength: 56, allowedPrefixes: ['2001:db8::/32', '::/0'], ciliumCIDRGroups: []"),
        node("interface: eth0, keepDeprecatedSeconds: 7200"),
    ];
    let mut bad = vec![
        (group("0", "0"), "greater than or equal to 1"),
        (group("65", "0"), "less than or equal to 64"),
        (group("60", "-1"), "greater than or equal to 0"),
        (group("60", "1, 1"), "Duplicate value"),
        (group("60", "0.5"), "integer"),
        (
            config("delegatedPrefixLength: 60"),
            "ciliumCIDRGroups or targets is needed",
        ),
        (config("ciliumCIDRGroups: []"), "Required value"),
        (entry("extraCIDRs: [10.0.0.0/8]"), "prefixIds or suffixes is needed"),
        (entry("suffixes: ['10.0.0.0/8']"), "should match"),
        (entry("suffixes: ['::/129']"), "should match"),
        (entry("suffixes: ['::/64', '::/64']"), "Duplicate value"),
        (entry("suffixes: ['::/55']"), "shorter than delegatedPrefixLength"),
        (entry("prefixIds: [0], extraCIDRs: ['10.0.0.0/33']"), "should match"),
        (
            entry("prefixIds: [0], extraCIDRs: ['10.0.0.999/32']"),
            "must be of type cidr",
        ),
        (
            targets("{kind: IPAddressPool, name: a, prefixIds: [0]}"),
            "namespace is needed for an IPAddressPool",
        ),
        (
            targets("{kind: GlobalNetworkSet, namespace: b, name: a, prefixIds: [0]}"),
            "not allowed for the other kinds",
        ),
        (
            targets("{kind: GlobalNetworkSet, name: a, prefixIds: []}"),
            "at least one prefix id, suffix or range",
        ),
        (
            targets("{kind: GlobalNetworkSet, name: a, suffixes: ['::/55']}"),
            "shorter than delegatedPrefixLength",
        ),
        (
            targets("{kind: GlobalNetworkSet, name: a, prefixIds: [256]}"),
            "does not fit the delegated prefix",
        ),
        (
            targets("{kind: NetworkPolicy, name: a, prefixIds: [0]}"),
            "Unsupported value",
        ),
        (
            targets(
                "{kind: Middleware, namespace: b, name: a, prefixIds: [0]}, {kind: Middleware, namespace: b, name: a, prefixIds: [1]}",
            ),
            "named twice",
        ),
        (
            targets("{kind: CiliumCIDRGroup, name: a, prefixIds: [0]}").replace(
                "targets:",
                "ciliumCIDRGroups: [{ciliumCIDRGroupName: a, prefixIds: [0]}], targets:",
            ),
            "in ciliumCIDRGroups and in targets",
        ),
        (
            config("delegatedPrefixLength: 60, allowedPrefixes: ['10.0.0.0/8'], ciliumCIDRGroups: []"),
            "should match",
        ),
        (
            config("delegatedPrefixLength: 60, allowedPrefixes: ['2001:db8::'], ciliumCIDRGroups: []"),
            "should match",
        ),
        (
            node("interface: eth0, keepDeprecatedSeconds: 7201"),
            "less than or equal to 7200",
        ),
        (group("60", "0").replace("Name: a", "Name: A_b"), "should match"),
        (node("nodeSelector: {}"), "Required value"),
        (node(&format!("interface: {}", "a".repeat(128))), "Too long"),
        (node("interface: a/b"), "should match"),
        (
            node("interface: eth0, staleAfterSeconds: -1"),
            "greater than or equal to 0",
        ),
    ];
    // The CEL rule, at both ends of every length.
    for length in 1..=64u32 {
        let highest = if length == 64 { 0 } else { u64::MAX >> length };
        good.push(group(
            &length.to_string(),
            &format!("0, {highest}").replace("0, 0", "0"),
        ));
        if length > 1 {
            bad.push((
                group(&length.to_string(), &(highest + 1).to_string()),
                "does not fit the delegated prefix",
            ));
        }
    }
    for object in &good {
        let (accepted, text) = cluster.try_kubectl(&["apply", "--dry-run=server", "-f", "-"], object);
        assert!(accepted, "{object}{text}");
    }
    for (object, why) in &bad {
        let (accepted, text) = cluster.try_kubectl(&["apply", "--dry-run=server", "-f", "-"], object);
        assert!(!accepted && text.contains(why), "{object}{text}");
    }
    println!("   {} objects accepted, {} refused", good.len(), bad.len());
}

pub fn least_privilege(cluster: &mut Cluster) {
    let may = |verb: &str, resource: &str| {
        let mut arguments = vec![
            "auth",
            "can-i",
            verb,
            resource,
            "--as=system:serviceaccount:kube-system:k6u",
        ];
        if let Some(whole) = resource.strip_suffix("/status") {
            arguments[3] = whole;
            arguments.push("--subresource=status");
        }
        cluster
            .try_kubectl(&arguments, "")
            .1
            .lines()
            .any(|line| line.trim() == "yes")
    };
    for (verb, resource) in [
        ("get", "nodes"),
        ("list", "ip6updateconfigs"),
        ("patch", "ip6updatenodeconfigs/status"),
        ("patch", "ciliumcidrgroups.cilium.io"),
        ("create", "events"),
        (
            "patch",
            "customresourcedefinitions/ip6updateconfigs.apps.fuwafuwatime.moe",
        ),
    ] {
        assert!(may(verb, resource), "may not {verb} {resource}");
    }
    for (verb, resource) in [
        ("get", "secrets"),
        ("list", "nodes"),
        ("delete", "ciliumcidrgroups.cilium.io"),
        ("list", "pods"),
        ("patch", "ip6updateconfigs"),
        ("patch", "customresourcedefinitions/ciliumcidrgroups.cilium.io"),
        ("create", "clusterroles"),
    ] {
        assert!(!may(verb, resource), "may {verb} {resource}");
    }
}
