//! The start: CRDs, an empty cluster, an upgrade from an earlier release.

use std::time::Duration;

use k6u::kube::Client;
use k6u::resources::crds::{Crds, Deployment};
use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::server::Cilium;
use k6u_testkit::apiserver::store::{Key, Store};
use k6u_testkit::site::{
    ADDRESS, CONFIG, CONFIG_NAME, CONFIGS, CRDS, GROUP, NODE, NODE_CONFIG, NODE_CONFIGS, SOON, Site, WEBHOOK, at_once,
    refusal, requests, writes,
};
use serde_json::{Value, json};

use crate::Scenario;
use crate::clockwork::{Clockwork, INTERVAL};
use crate::publication::publications;

pub const ALL: &[Scenario] = scenarios![
    the_server_loses_all_objects,
    crds_that_are_not_established_for_half_a_minute,
    an_api_server_that_initializes_for_long,
    crds_that_are_never_established,
    crds_replaced_by_those_of_0_3_while_k6u_runs,
    crds_that_cannot_be_updated,
    crds_refused_for_a_moment,
    suspect_crds_are_applied_once_a_minute,
    crds_of_a_newer_release,
    crds_are_tried_again_after_an_hour,
    both_crds_are_deleted,
    one_crd_is_deleted,
    first_start_on_an_empty_cluster,
    crd_rights_missing_but_crds_installed,
    crd_rights_missing_and_no_crds,
    upgrade_from_0_3,
    discovery_and_crds_are_refused,
    crd_refusals_whose_text_differs_each_time,
];

fn the_server_loses_all_objects() {
    let (site, node) = Site::settled(1);
    let ours = |key: &Key| !key.group.is_empty() && !key.name.contains("cilium");
    site.server.store().objects.retain(|key, _| !ours(key));
    node.wait_log("CustomResourceDefinitions: somebody deleted them, and all ", SOON);
    // k6u deploys its CRDs again by itself.
    let crd = |store: &Store| {
        store
            .objects
            .keys()
            .find(|key| key.name == "ip6updatenodeconfigs.apps.fuwafuwatime.moe")
            .cloned()
    };
    assert!(site.server.wait(SOON, crd).is_some());
    site.wait_rounds(1);
    site.server.create(CONFIG);
    let node_config = NODE_CONFIG.replace("eth0", &site.interface.name);
    site.server.create(&node_config);
    site.wait_lan("2001:db8:1234:567");
    node.wait_log("CustomResourceDefinitions: recovered after", SOON);
}

fn crds_that_are_not_established_for_half_a_minute() {
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.interface.add(ADDRESS);
    site.server.store().establish_after = Duration::from_secs(30);
    let node = site.run(1);
    node.wait_log("WARN  API server: the API server does not serve", SOON);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(node.complaints().len(), 1, "{:#?}", node.complaints());
    let written = writes(&site.server.store());
    assert!(
        written.iter().all(|line| line.contains("customresourcedefinitions")),
        "{written:?}"
    );
    site.server.advance_clock(Duration::from_secs(30));
    node.wait_log("API server: recovered after", SOON);
    site.install();
    site.wait_lan("2001:db8:1234:567");
    assert_eq!(node.complaints().len(), 1, "{:#?}", node.complaints());
}

/// 429 is normal right after a CRD was created. After a while it counts as a failure, and k6u waits for Retry-After.
fn an_api_server_that_initializes_for_long() {
    let site = Site::with_address(ADDRESS);
    let Fault::Answer(answer) = refusal(429, "TooManyRequests", "storage is (re)initializing", "") else {
        unreachable!("it is an answer");
    };
    site.server.inject(Plan::on(
        &format!("GET {NODE_CONFIGS}"),
        usize::MAX,
        Fault::Answer(answer.with("Retry-After", "30")),
    ));
    let pauses = Clockwork::new(&site).run(Duration::from_secs(600));
    let all_wait = pauses.iter().all(|pause| *pause >= Duration::from_secs(30));
    assert!(all_wait && pauses.len() >= 9, "{pauses:?}");
}

/// CRDs whose names are taken are never established. k6u slows down, and writes nothing each second.
fn crds_that_are_never_established() {
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.server.store().establish_after = Duration::from_secs(86_400);
    let pauses = Clockwork::new(&site).run(Duration::from_secs(600));
    // Ten quick rounds, and as many with growing pauses.
    assert!(pauses.len() < 160, "{} rounds in ten minutes: {pauses:?}", pauses.len());
    assert!(pauses.iter().skip(20).all(|pause| *pause >= INTERVAL / 2), "{pauses:?}");
}

/// The schema of 0.3 drops what nodes publish. k6u applies its own CRDs again within two minutes.
fn crds_replaced_by_those_of_0_3_while_k6u_runs() {
    let site = Site::with_address(ADDRESS);
    let mut node = Clockwork::start(&site);
    node.rounds(12);
    site.wait_reason(CONFIG_NAME, "Updated");
    site.server
        .apply_crds(include_str!("../data/crds-0.3.yaml"), "update_crds");
    site.renumber();
    let before = publications(&site);
    node.rounds(12);
    let published = publications(&site) - before;
    site.wait_lan("2001:db8:9876:543");
    site.wait_reason(CONFIG_NAME, "Updated");
    assert!(published <= 5, "{published} publications in two minutes");
}

fn crds_that_cannot_be_updated() {
    let apply = "PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/";
    let refusals = [
        refusal(400, "BadRequest", "strict decoding error: unknown field", "x"),
        refusal(422, "Invalid", "x is invalid: a rule is too expensive", "x"),
        refusal(403, "Forbidden", "admission webhook \"guard\" denied the request", "x"),
    ];
    at_once(refusals, |refused| {
        let site = Site::with_address(ADDRESS);
        site.server.inject(Plan::on(apply, usize::MAX, refused));
        let node = site.run(1);
        site.wait_lan("2001:db8:1234:567");
        site.wait_reason(CONFIG_NAME, "Updated");
        site.wait_rounds(4);
        let complaints = node.wait_complaints(1);
        assert!(
            complaints[0].contains("CustomResourceDefinitions: they may be those of another release"),
            "{complaints:?}"
        );
        assert_eq!(requests(&site.server.store(), apply).len(), 1, "once an hour");
        // Another version of k6u tries at once.
        drop(node);
        site.server.heal();
        let node = site.run(1);
        node.wait_log("the CRDs of this release are deployed", SOON);
    });
    // If the CRDs are not served, k6u cannot work.
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.server
        .inject(Plan::on(apply, 2, refusal(500, "InternalError", WEBHOOK, "x")));
    let node = site.run(1);
    node.wait_log("API server: PATCH /apis/apiextensions.k8s.io/", SOON);
    node.wait_log("API server: recovered", SOON);
}

/// One temporary refusal must not leave the CRDs of 0.3 in place for an hour: their schema drops what nodes publish.
fn crds_refused_for_a_moment() {
    let apply = "PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/";
    for fault in [
        refusal(429, "TooManyRequests", "too many requests", "x"),
        refusal(500, "InternalError", WEBHOOK, "x"),
        refusal(503, "ServiceUnavailable", "shutting down", "x"),
        refusal(504, "Timeout", "context deadline exceeded", "x"),
        Fault::CutAt(0),
    ] {
        let site = Site::bare("127.0.0.1", Some(Cilium::Both));
        site.server
            .apply_crds(include_str!("../data/crds-0.3.yaml"), "update_crds");
        site.server.create(&NODE_CONFIG.replace("eth0", &site.interface.name));
        site.server.create(CONFIG);
        site.interface.add(ADDRESS);
        site.server.inject(Plan::on(apply, 1, fault.clone()));
        let mut node = Clockwork::of(&site, NODE, Duration::from_secs(1));
        node.run(Duration::from_secs(60));
        assert_eq!(
            node.count("the CRDs of this release are deployed"),
            1,
            "{:#?}",
            node.log()
        );
        node.run(Duration::from_secs(70));
        site.wait_lan("2001:db8:1234:567");
        site.wait_reason(CONFIG_NAME, "Updated");
        let published = requests(&site.server.store(), &format!("PATCH {NODE_CONFIGS}/")).len();
        assert!(published <= 10, "{published} publications: {fault:?}");
    }
}

fn crds_of(site: &Site) -> (Client, Crds) {
    let mut client = Client::new(format!("https://{}", site.server.address), &site.account.folder);
    client.read_account().unwrap();
    (client, Crds::default())
}

fn crd(site: &Site) -> Value {
    let name = "ip6updateconfigs.apps.fuwafuwatime.moe";
    site.object("apiextensions.k8s.io", "customresourcedefinitions", name)
        .expect("the CRD")
}

/// A write that is not stored as it was sent makes the CRDs suspect. k6u then applies them again, once a minute.
fn suspect_crds_are_applied_once_a_minute() {
    let site = Site::new();
    let (mut client, mut crds) = crds_of(&site);
    let mut deploy = |crds: &mut Crds, seconds| crds.deploy(&mut client, Duration::from_secs(seconds), 1.0).unwrap();
    assert_eq!(deploy(&mut crds, 100), Deployment::Established);
    let ours = crd(&site)["spec"].clone();
    let older = include_str!("../data/crds-0.3.yaml");
    site.server.apply_crds(older, "update_crds");
    assert_ne!(crd(&site)["spec"], ours);
    assert_eq!(deploy(&mut crds, 1000), Deployment::Unchanged, "they are not suspect");
    crds.suspect();
    assert_eq!(deploy(&mut crds, 1000), Deployment::Established);
    assert_eq!(crd(&site)["spec"]["versions"], ours["versions"]);
    site.server.apply_crds(older, "update_crds");
    crds.suspect();
    assert_eq!(deploy(&mut crds, 1059), Deployment::Unchanged, "once a minute");
    assert_eq!(deploy(&mut crds, 1060), Deployment::Established);
    assert_eq!(crd(&site)["spec"]["versions"], ours["versions"]);
    assert_eq!(
        deploy(&mut crds, 2000),
        Deployment::Unchanged,
        "they are not suspect any more"
    );
}

/// A pod of an older release that starts again, in the middle of an upgrade or after it.
fn crds_of_a_newer_release() {
    let site = Site::with_address(ADDRESS);
    let release = format!("apps.fuwafuwatime.moe/release: {:?}", env!("CARGO_PKG_VERSION"));
    assert_eq!(CRDS.matches(&release).count(), 2);
    let newer = CRDS
        .replace(&release, "apps.fuwafuwatime.moe/release: \"1000.0.0\"")
        .replace(
            "description: The reason in one word.",
            "description: Of a newer release.",
        );
    site.server.apply_crds(&newer, "k6u");
    let before = crd(&site);
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_reason(CONFIG_NAME, "Updated");
    site.wait_rounds(3);
    assert_eq!(crd(&site), before);
    assert_eq!(
        node.count("is of k6u 1000.0.0, newer than this one"),
        2,
        "once for each"
    );
    assert_eq!(node.complaints(), [""; 0]);
    let apply = "PATCH /apis/apiextensions.k8s.io/";
    assert_eq!(requests(&site.server.store(), apply), [""; 0]);
    drop(node);
    // An older one, or one without such an annotation, is replaced.
    for older in [&release.replace(env!("CARGO_PKG_VERSION"), "0.3.9"), "x: y"] {
        site.server.apply_crds(
            &newer.replace("apps.fuwafuwatime.moe/release: \"1000.0.0\"", older),
            "k6u",
        );
        let (mut client, mut crds) = crds_of(&site);
        assert_eq!(
            crds.deploy(&mut client, Duration::ZERO, 1.0),
            Ok(Deployment::Established)
        );
        let text = crd(&site).to_string();
        assert!(
            text.contains("The reason in one word.") && !text.contains("Of a newer release."),
            "{older}"
        );
        assert_eq!(
            crd(&site)["metadata"]["annotations"]["apps.fuwafuwatime.moe/release"],
            env!("CARGO_PKG_VERSION")
        );
    }
}

/// The hour takes no time: `deploy` takes the time as an argument.
fn crds_are_tried_again_after_an_hour() {
    let site = Site::new();
    let apply = "PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/";
    site.server
        .inject(Plan::on(apply, 1, refusal(422, "Invalid", "x is invalid", "x")));
    let mut client = Client::new(format!("https://{}", site.server.address), &site.account.folder);
    client.read_account().unwrap();
    let mut crds = Crds::default();
    let mut deploy = |seconds| crds.deploy(&mut client, Duration::from_secs(seconds), 1.0).unwrap();
    let first = deploy(100);
    assert!(
        matches!(&first, Deployment::NotApplied { text, .. } if text.contains("x is invalid")),
        "{first:?}"
    );
    assert_eq!(deploy(100 + 3599), Deployment::Unchanged);
    assert_eq!(deploy(100 + 3600), Deployment::Established);
    assert_eq!(deploy(100 + 7200), Deployment::Unchanged);
    let applied = requests(&site.server.store(), apply).len();
    assert_eq!(applied, 1 + 2, "one that was refused, and both");
}

fn both_crds_are_deleted() {
    let (site, node) = Site::settled(1);
    // A new node removes nothing from a list for a while, and for longer if rounds fail.
    site.wait_rounds(4);
    site.server
        .store()
        .objects
        .retain(|key, _| !key.group.contains("fuwafuwatime") && !key.name.contains("fuwafuwatime"));
    node.wait_log("all IP6UpdateConfigs and IP6UpdateNodeConfigs went with them", SOON);
    node.wait_log("CustomResourceDefinitions: recovered", SOON);
    site.server.create(&NODE_CONFIG.replace("eth0", &site.interface.name));
    site.server.create(CONFIG);
    site.renumber();
    site.wait_lan("2001:db8:9876:543");
    // NoPrefix may be reported as well, while there is no node config.
    let mut complaints = node.complaints();
    complaints.retain(|line| !line.contains("NoPrefix"));
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    assert!(complaints[0].contains(": 404 page not found"), "{complaints:?}");
}

fn one_crd_is_deleted() {
    let (site, node) = Site::settled(1);
    site.server
        .store()
        .objects
        .retain(|key, _| key.resource != "ip6updateconfigs" && !key.name.starts_with("ip6updateconfigs."));
    node.wait_log("all IP6UpdateConfigs went with them", SOON);
    node.wait_log("CustomResourceDefinitions: recovered", SOON);
    site.server.create(CONFIG);
    site.wait_reason(CONFIG_NAME, "Updated");
    node.wait_complaints(1);
}

fn first_start_on_an_empty_cluster() {
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    {
        let mut store = site.server.store();
        store.establish_after = Duration::from_millis(300);
        store.initialize_for = SOON;
    }
    site.interface.add(ADDRESS);
    let node = site.run(1);
    node.wait_log("the CRDs of this release are deployed", SOON);
    let busy = |store: &Store| store.log.iter().any(|logged| logged.status == 429).then_some(());
    assert!(
        site.server.wait(SOON, busy).is_some(),
        "no request reached the server while it was busy"
    );
    site.server.store().initialize_for = Duration::ZERO;
    node.wait_log("no IP6UpdateNodeConfig selects node node1.example.com", SOON);
    site.server.create(&NODE_CONFIG.replace("eth0", &site.interface.name));
    node.wait_log("an IP6UpdateNodeConfig selects node node1.example.com now", SOON);
    site.server.create(CONFIG);
    site.wait_lan("2001:db8:1234:567");
    let condition = site.wait_reason(CONFIG_NAME, "Updated");
    assert_eq!(condition["status"], "True");
    // An API that is being set up causes no complaint.
    assert_eq!(node.complaints(), [""; 0]);
    node.wait_log(
        "IP6UpdateConfig ip6-update-config is Ready: 1 target up to date with",
        SOON,
    );
}

fn crd_rights_missing_but_crds_installed() {
    let site = Site::with_address(ADDRESS);
    site.revoke("patch", "customresourcedefinitions");
    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    site.wait_rounds(3);
    let complaint = &node.wait_complaints(1)[0];
    assert!(complaint.contains("kubectl apply --server-side"), "{complaint}");
    assert!(
        complaint.contains("cannot patch resource \"customresourcedefinitions\" in API group \"apiextensions.k8s.io\""),
        "{complaint}"
    );
}

fn crd_rights_missing_and_no_crds() {
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.interface.add(ADDRESS);
    site.revoke("create", "customresourcedefinitions");
    let node = site.run(1);
    let complaint = &node.wait_complaints(1)[0];
    assert!(complaint.contains("grant k6u this right"), "{complaint}");
    site.install();
    site.wait_lan("2001:db8:1234:567");
    node.wait_log("API server: recovered after", SOON);
}

fn upgrade_from_0_3() {
    let site = Site::bare("127.0.0.1", Some(Cilium::Both));
    site.server.apply_crds(CRDS_OF_0_3, "update_crds");
    site.server.create(&NODE_CONFIG.replace("eth0", &site.interface.name));
    site.server.create(CONFIG);
    let condition = |message: &str| {
        json!({"type": "Ready", "status": "True", "reason": "Updated", "message": message,
            "lastTransitionTime": "2025-06-01T00:00:00Z"})
    };
    let status = json!({"status": {"conditions": [condition("a"), condition("b"), condition("c")]}});
    for (list, name) in [
        ("ip6updateconfigs", CONFIG_NAME),
        ("ip6updatenodeconfigs", "ip6-update-node1"),
    ] {
        site.patch(
            &format!("/apis/apps.fuwafuwatime.moe/v1/{list}/{name}/status"),
            status.clone(),
        );
    }
    let spec_before = site
        .object("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME)
        .unwrap()["spec"]
        .clone();
    site.interface.add(ADDRESS);

    let node = site.run(1);
    site.wait_lan("2001:db8:1234:567");
    let settled = |config: &Value| {
        config["status"]["conditions"]
            .as_array()
            .is_some_and(|list| list.len() == 1)
    };
    let store = |store: &Store| {
        let key = Key::new("apps.fuwafuwatime.moe", "ip6updateconfigs", CONFIG_NAME);
        store.objects.get(&key).filter(|config| settled(config)).cloned()
    };
    let config = site.server.wait(SOON, store).expect("one condition is left");
    assert_eq!(config["spec"], spec_before);
    // It was Ready before and still is: this is no transition.
    assert_eq!(
        config["status"]["conditions"][0]["lastTransitionTime"],
        "2025-06-01T00:00:00Z"
    );
    assert_eq!(node.complaints(), [""; 0]);
    let crd = site.object(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "ip6updateconfigs.apps.fuwafuwatime.moe",
    );
    assert_eq!(crd.unwrap()["spec"]["names"]["shortNames"], json!(["ip6uc"]));
    assert!(CRDS.contains("shortNames: [ip6uc]"));
}

/// The CRDs of 0.3: prefixIds as uint8, no printer columns, no rules.
const CRDS_OF_0_3: &str = include_str!("../data/crds-0.3.yaml");

fn discovery_and_crds_are_refused() {
    let site = Site::with_address(ADDRESS);
    site.revoke("patch", "customresourcedefinitions");
    site.server.inject(Plan::on(
        "GET /apis/apps.fuwafuwatime.moe/v1$",
        usize::MAX,
        refusal(
            403,
            "Forbidden",
            "forbidden: User \"x\" cannot get path \"/apis/apps.fuwafuwatime.moe/v1\"",
            "x",
        ),
    ));
    let node = site.run(1);
    std::thread::sleep(Duration::from_secs(30));
    let reported = node.complaints();
    let lists = requests(&site.server.store(), &format!("GET {CONFIGS}")).len();
    let entry = k6u_testkit::site::entry(&site.server.store(), NODE);
    assert!(
        lists > 0 && entry.is_some(),
        "in 30 s k6u read its configs {lists} times, its entry is {entry:?}; the group is {:?}: {reported:#?}",
        site.group(GROUP)
    );
}

fn crd_refusals_whose_text_differs_each_time() {
    let site = Site::with_address(ADDRESS);
    for port in 40_000..41_000 {
        let text = format!("failed calling webhook: read tcp 10.0.0.1:{port}: connection reset by peer");
        site.server.inject(Plan::on(
            "PATCH /apis/apiextensions.k8s.io",
            1,
            refusal(500, "InternalError", &text, "ip6updateconfigs.apps.fuwafuwatime.moe"),
        ));
    }
    let node = site.run(1);
    site.wait_reason(CONFIG_NAME, "Updated");
    std::thread::sleep(Duration::from_secs(25));
    let complaints = node.complaints();
    assert!(complaints.len() <= 1, "{complaints:#?}");
}
