//! The API client by itself, against the API server.

use std::time::{Duration, Instant};

use k6u::kube::objects::Object;
use k6u::kube::{Client, ErrorKind};
use k6u_testkit::apiserver::fault::{Fault, Plan};
use k6u_testkit::apiserver::http::Response;
use serde_json::{Value, json};

use crate::Scenario;
use crate::faults::json_answer;
use crate::site::{GROUP, SOON, Site};

pub const ALL: &[Scenario] = scenarios![
    a_write_returns_the_object_as_it_is_stored,
    a_request_keeps_the_limit_of_its_caller,
    a_write_asks_for_half_of_its_time,
    errors_of_the_same_kind
];

const GROUPS: &str = "/apis/cilium.io/v2/ciliumcidrgroups";

fn client(site: &Site) -> Client {
    let mut client = Client::new(format!("https://{}", site.server.address), site.account.folder.clone());
    client.read_account().unwrap();
    client
}

fn group(name: &str) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": name},
        "spec": {"externalCIDRs": ["2001:db8::/64"], "unknown": 1}})
}

/// As stored is not always as sent: here the schema drops a field.
fn a_write_returns_the_object_as_it_is_stored() {
    let site = Site::new();
    let mut client = client(&site);
    let created: Value = client.create_returning(GROUPS, &group(GROUP)).unwrap();
    assert_eq!(created["spec"], json!({"externalCIDRs": ["2001:db8::/64"]}));
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{GROUPS}/{GROUP}");
    let patch = json!({"spec": {"externalCIDRs": ["2001:db8:1::/64"], "unknown": 2}});
    let patched: Value = client.merge_patch_returning(&path, &patch).unwrap();
    assert_eq!(patched["spec"], json!({"externalCIDRs": ["2001:db8:1::/64"]}));
    assert_eq!(patched["metadata"]["generation"], 2);
    assert_eq!(Some(&patched), site.group(GROUP).as_ref());
    // Those that need nothing back get the metadata only.
    let object: Object = client.merge_patch_returning(&path, &json!({})).unwrap();
    assert_eq!(object.metadata.name, GROUP);
    let sent = |line: &str| {
        let store = site.server.store();
        let logged = store.log.iter().rfind(|logged| logged.line.starts_with(line)).unwrap();
        logged.bytes.1
    };
    client.merge_patch(&path, &json!({})).unwrap();
    let less = sent("PATCH ");
    let _: Value = client.merge_patch_returning(&path, &json!({})).unwrap();
    assert!(less < sent("PATCH "), "{less} bytes");
    client.create(GROUPS, &group("other")).unwrap();
    assert!(client.create(GROUPS, &group("other")).unwrap_err().is_conflict());
}

fn a_request_keeps_the_limit_of_its_caller() {
    let site = Site::new();
    let mut client = client(&site);
    let path = format!("{GROUPS}/{GROUP}");
    let read = |client: &mut Client| client.get::<Value>(&path).unwrap_err();
    assert!(read(&mut client).is_absent_object());
    site.server.inject(Plan::on("GET ", 2, Fault::Hang));
    let begin = Instant::now();
    let error = client.within(Duration::from_millis(300), read);
    assert!(error.is_timeout() && !error.is_unreachable(), "{error}");
    assert!(error.to_string().ends_with("timed out after 0.3 s"), "{error}");
    let long = client.within(Duration::from_secs(2), |client| {
        client.within(Duration::from_secs(60), read)
    });
    assert!(long.to_string().ends_with("timed out after 2 s"), "{long}");
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    let (sent, asked) = (client.requests(), site.server.store().log.len());
    let none = client.within(Duration::ZERO, read);
    assert!(none.is_timeout(), "{none}");
    assert_eq!((client.requests(), site.server.store().log.len()), (sent, asked));
    assert!(read(&mut client).is_absent_object(), "it is back to ten seconds");
    // To connect takes time as well.
    site.server.stop();
    let refused = client.within(Duration::from_secs(1), read);
    assert!(refused.is_unreachable() && !refused.is_timeout(), "{refused}");
}

fn a_write_asks_for_half_of_its_time() {
    let site = Site::new();
    let mut client = client(&site);
    for (limit, webhook, is_stored) in [(400, 300, false), (4000, 300, true), (60_000, 7000, false)] {
        let name = format!("lan-{limit}");
        site.server
            .inject(Plan::on("POST ", 1, Fault::Webhook(Duration::from_millis(webhook))));
        let written = client.within(Duration::from_millis(limit), |client| {
            client.create(GROUPS, &group(&name))
        });
        assert_eq!(written.is_ok(), is_stored, "{limit}: {written:?}");
        if let Err(error) = written {
            assert_eq!(error.kind(), ErrorKind::Refused(504, "Timeout".into()));
            assert!(error.is_overloaded() && !error.is_lasting_refusal());
        }
        // Nor is it later.
        std::thread::sleep(Duration::from_millis(webhook));
        assert_eq!(site.group(&name).is_some(), is_stored, "{limit}");
    }
}

fn errors_of_the_same_kind() {
    let site = Site::new();
    site.create_group("x", &[]);
    let mut client = client(&site);
    let mut fails = |fault: Fault| {
        // On an old connection it is tried twice.
        site.server.inject(Plan::on("GET ", 2, fault));
        let result = client.within(SOON, |client| client.get::<Object>(&format!("{GROUPS}/x")));
        site.server.heal();
        result.unwrap_err()
    };
    let text = |status, body: &str| Fault::Answer(Response::new(status, "text/plain", body));
    for (one, other) in [
        (
            text(502, "upstream 10.0.0.1:40001"),
            text(502, "upstream 10.0.0.1:40002"),
        ),
        (Fault::CutAt(0), Fault::CutBodyAt(5)),
        (
            json_answer(&json!([1])),
            Fault::Answer(Response::new(200, "application/json", r#"{"metadata":{}"#)),
        ),
    ] {
        let (one, other) = (fails(one), fails(other));
        assert_eq!(one.kind(), other.kind(), "{one}; {other}");
        assert!(one.to_string().contains(&one.kind().to_string()), "{one}");
    }
    let absent = fails(text(404, "404 page not found\n"));
    assert!(absent.is_absent_api());
    // A Status object says that the API is served, also one that names nothing.
    let status = json!({"kind": "Status", "reason": "NotFound", "message": "not found", "code": 404});
    let unnamed = fails(Fault::Answer(Response::new(
        404,
        "application/json",
        status.to_string(),
    )));
    assert!(unnamed.is_absent_object() && !unnamed.is_absent_api());
}
