//! Functions that read input from outside, and check what must hold for any input. The fuzz targets look for an input
//! that breaks them; the test of the seeds tries known inputs.

use std::io;
use std::time::Duration;

use k6u::cidr::{Cidr, Item};
use k6u::kube::Redactor;
use k6u::kube::decode::{MAX_KEPT, decode};
use k6u::kube::objects::{ApiResources, Crd, List, Object};
use k6u::kube::refusal::{MAX_REFUSAL, Refusal, retry_after};
use k6u::node::announcements::Announcements;
use k6u::node::netlink::parse;
use k6u::node::select::{Look, MAX_PREFIXES, Observation, Watch};
use k6u::prefix::Prefix;
use k6u::preview::{self, Interfaces};
use k6u::reconcile::condition;
use k6u::reconcile::plan;
use k6u::resources::config::Config;
use k6u::resources::node_config::{NodeConfig, NodeEntry};
use k6u::resources::targets::{Held, KINDS, MAX_ITEMS, Stored};
use k6u::time::Timestamp;

const NOW: Timestamp = Timestamp(1_800_000_000);
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl";

/// Decodes a body as each type of answer of the API server, and plans with the objects in it.
pub fn answers(body: &[u8]) {
    fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Option<T> {
        decode(body).ok()
    }
    for kind in &KINDS {
        if let Some(Ok(held)) = read::<Stored>(body).map(|stored| Held::read(kind, stored)) {
            let list = &held.list;
            assert!(list.len() <= MAX_KEPT / 32);
            assert!(!list.to_string().is_empty());
            assert!(list.items().is_sorted());
        }
    }
    let _ = read::<Crd>(body).map(|crd| crd.is_established());
    let _ = read::<ApiResources>(body);
    let _ = read::<Object>(body);
    let configs: Vec<Config> =
        read::<List<Config>>(body).map_or_else(Vec::new, |list| list.items.into_iter().flatten().collect());
    let mut node_configs: Vec<NodeConfig> =
        read::<List<NodeConfig>>(body).map_or_else(Vec::new, |list| list.items.into_iter().flatten().collect());
    follow(&configs, &node_configs);
    let sees = NodeEntry {
        prefixes: vec!["2001:db8:1234:5671::/64".parse().expect("a prefix")],
        ..NodeEntry::default()
    };
    for config in &mut node_configs {
        config.status.nodes.insert("node1.example.com".into(), sees.clone());
    }
    follow(&configs, &node_configs);
    refusal(body);
}

/// Plans for these objects, and makes the reports.
fn follow(configs: &[Config], node_configs: &[NodeConfig]) {
    let observed = plan::Observed {
        node_configs,
        ..plan::Observed::default()
    };
    let planned = plan::plan(configs, &observed);
    assert_eq!(planned.verdicts.len(), configs.len());
    for (config, verdict) in configs.iter().zip(&planned.verdicts) {
        let delegated = &verdict.delegated;
        assert_eq!(
            verdict.keep.is_none(),
            !delegated.is_empty(),
            "written without a prefix"
        );
        let specs = config.spec.as_ref().map_or(&[][..], |spec| &spec.targets);
        for target in &verdict.targets {
            let spec = specs.iter().find(|spec| spec.key == target.key);
            let parts = &spec.expect("it is asked for").parts;
            assert!(!delegated.is_empty() || parts.is_constant());
            let inside = |part| delegated.iter().any(|d| d.contains(part));
            let is_wanted = |item: &Item| match item {
                Item::Cidr(cidr) if parts.extra.contains(cidr) => true,
                Item::Cidr(cidr) => matches!(cidr, Cidr::V6(part) if inside(*part)),
                Item::Range(range) => [range.first(), range.last()]
                    .map(|end| Prefix::of(end, 128))
                    .into_iter()
                    .all(inside),
            };
            assert!(
                target.items.iter().all(is_wanted),
                "an item outside of the delegated prefixes: {target:?} {delegated:?}"
            );
            assert!(target.items.len() <= MAX_ITEMS);
            assert!(target.items.is_sorted());
            assert_eq!(target.key.kind.has_records(), target.record.is_some());
        }
        let judgement = condition::judge(verdict, &[], &planned.remarks());
        let shown = condition::Delegated {
            written: delegated.clone(),
            observed: Some(delegated.clone()),
        };
        if let Some(change) = condition::change(config, &judgement, &shown, NOW) {
            assert!(change.events.iter().all(|event| event.note.len() <= 1024));
            change.patch.to_string();
        }
    }
}

/// Reads a body as that of a refusal; 0xff in it stands for the token.
fn refusal(body: &[u8]) {
    let parts: Vec<&[u8]> = body.split(|byte| *byte == 0xff).collect();
    let mut echoed = parts.join(TOKEN.as_bytes());
    echoed.truncate(MAX_REFUSAL);
    let redactor = Redactor::default();
    redactor.set_token(TOKEN);
    let refusal = Refusal::read(403, &echoed, None, &redactor);
    for text in [&refusal.message, &refusal.reason] {
        assert!(!text.contains(TOKEN), "the token: {text:?}");
        assert!(
            text.chars().count() <= 515 && !text.contains(char::is_control),
            "{text:?}"
        );
    }
}

/// Parses a datagram from the kernel, and selects prefixes from the addresses in it.
pub fn netlink(datagram: &[u8]) {
    let mut addresses = Vec::new();
    if parse(datagram, 7, &mut addresses).is_err() {
        return;
    }
    let allowed = ["2001:db8::/32".parse().expect("a prefix")];
    for (stale_after, allowed) in [(0, None), (1800, None), (1800, Some(&allowed[..]))] {
        let watch = Watch {
            interface: "eth0".into(),
            stale_after,
            keep_deprecated: 60,
        };
        let mut past = Announcements::default();
        let look = Look {
            addresses: &past.date(1, &addresses, 0),
            watch: &watch,
            allowed,
            kernel_slaac: true,
            now: 0,
        };
        let seen = look.select(&look.judge(&past.subnets), Vec::new());
        assert!(seen.prefixes.len() <= MAX_PREFIXES);
        assert!(seen.prefixes.is_sorted());
        let is_global = |prefix: &k6u::prefix::Prefix| prefix.to_string().starts_with(['2', '3']);
        assert!(seen.prefixes.iter().all(is_global), "{:?}", seen.prefixes);
        assert!(seen.message("eth0").len() < 4096);
        assert!(seen.is_like(&seen));
    }
}

/// Runs `k6u preview` on a file.
pub fn yaml(text: &str) {
    struct NoMachine;
    impl Interfaces for NoMachine {
        fn observe(&mut self, _: &Watch, _: Option<&[Prefix]>) -> io::Result<Observation> {
            Ok(Observation::default())
        }
        fn with_prefix(&mut self) -> io::Result<Vec<String>> {
            Ok(Vec::new())
        }
    }
    let address = ["2001:db8:1234:5671::10".parse().expect("an address")];
    for addresses in [&address[..], &[]] {
        let files = [("a.yaml".to_string(), text.to_string())];
        if let Err(problem) = preview::preview(&files, addresses, &mut NoMachine) {
            assert!(!problem.is_empty());
        }
    }
}

/// Parses the headers Retry-After and Date, and a time as objects have it.
pub fn headers(text: &str) {
    for now in [None, Some(NOW)] {
        let refusal = Refusal::read(503, b"", retry_after(text, now), &Redactor::default());
        assert!(refusal.retry_after.is_none_or(|wait| wait <= Duration::from_secs(60)));
    }
    for time in [Timestamp::from_http_date(text), Timestamp::from_rfc3339(text)]
        .into_iter()
        .flatten()
    {
        let written = time.to_string();
        // A year has four digits in RFC 3339.
        if written.len() == "2026-11-23T05:28:45Z".len() {
            assert_eq!(Timestamp::from_rfc3339(&written), Some(time), "{text:?}");
        }
    }
}
