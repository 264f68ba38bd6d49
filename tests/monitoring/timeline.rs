//! The series that kube-state-metrics exports for a cluster, sampled once a minute.

use std::collections::BTreeMap;

use k6u_testkit::apiserver::metrics::{Configuration, Labels, Sample};
use k6u_testkit::apiserver::store::Store;
use serde_json::Value;
use time::OffsetDateTime;

const CONFIGURATION: &str = include_str!("../../manifests/monitoring/kube-state-metrics.yaml");

/// Every series with its values, minute by minute.
pub struct Timeline {
    configuration: Configuration,
    /// The time that is 0 on promtool's clock.
    start: OffsetDateTime,
    minutes: usize,
    series: BTreeMap<String, Vec<Option<f64>>>,
    /// The objects of each minute and their samples, for comparison with kube-state-metrics itself.
    pub scrapes: Vec<(Vec<Value>, Vec<Sample>)>,
}

impl Timeline {
    pub fn new(start: OffsetDateTime) -> Self {
        Timeline {
            configuration: Configuration::read(CONFIGURATION).expect("a configuration that is understood"),
            start,
            minutes: 0,
            series: BTreeMap::new(),
            scrapes: Vec::new(),
        }
    }

    /// Takes samples of the objects.
    pub fn scrape(&mut self, store: &Store) {
        let objects: Vec<Value> = store.objects.values().cloned().collect();
        let samples = self.configuration.samples(objects.iter());
        let all = samples.iter().cloned().chain(objects.iter().filter_map(node_info));
        for Sample {
            name,
            labels,
            mut value,
        } in all
        {
            if name.ends_with("_timestamp_seconds") {
                value -= self.start.unix_timestamp() as f64;
            }
            let values = self.series.entry(series(&name, labels)).or_default();
            values.resize(self.minutes, None);
            values.push(Some(value));
        }
        self.scrapes.push((objects, samples));
        self.minutes += 1;
    }

    /// The number of series of this name in each minute.
    pub fn count(&self, name: &str) -> Vec<usize> {
        let of_name = |sample: &&Sample| sample.name == name;
        let count = |(_, samples): &(_, Vec<Sample>)| samples.iter().filter(of_name).count();
        self.scrapes.iter().map(count).collect()
    }

    /// Each series with its values as promtool writes them. Prometheus marks a series that ends as stale.
    pub fn series(&self) -> impl Iterator<Item = (&String, String)> {
        self.series.iter().map(|(name, values)| {
            let mut values = values.clone();
            values.resize(self.minutes, None);
            let mut before = None;
            let mut words = Vec::new();
            for value in values {
                words.push(match (before, value) {
                    (_, Some(value)) => value.to_string(),
                    (Some(_), None) => "stale".into(),
                    (None, None) => "_".into(),
                });
                before = value;
            }
            (name, words.join(" "))
        })
    }
}

/// One of kube-state-metrics' own metrics.
fn node_info(object: &Value) -> Option<Sample> {
    let name = object["metadata"]["name"]
        .as_str()
        .filter(|_| object["kind"] == "Node")?;
    Some(Sample {
        name: "kube_node_info".into(),
        labels: Labels::from([("node".into(), name.into())]),
        value: 1.0,
    })
}

/// The series as Prometheus stores it: with labels for the target that it scraped, and without empty labels.
fn series(name: &str, mut labels: Labels) -> String {
    labels.insert("job".into(), "kube-state-metrics".into());
    labels.insert("instance".into(), "[2001:db8::1]:8080".into());
    labels.retain(|_, value| !value.is_empty());
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
    format!("{name}{{{}}}", labels.join(", "))
}
