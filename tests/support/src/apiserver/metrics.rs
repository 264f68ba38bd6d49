//! The metrics of custom resources in kube-state-metrics, as far as manifests/monitoring needs them.
//!
//! The rules are those of kube-state-metrics (pkg/customresourcestate/registry_factory.go), for the two types Gauge
//! and Info. A configuration with anything else is refused.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Labels of a series by their names.
pub type Labels = BTreeMap<String, String>;
type Path = Vec<String>;

/// A sample: the metric's name, labels and value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
}

/// A CustomResourceStateMetrics file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    #[serde(rename = "kind")]
    _kind: String,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    resources: Vec<Resource>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Resource {
    group_version_kind: GroupVersionKind,
    metric_name_prefix: String,
    labels_from_path: BTreeMap<String, Path>,
    metrics: Vec<Metric>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metric {
    name: String,
    #[serde(rename = "help")]
    _help: String,
    each: Each,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(tag = "type")]
enum Each {
    Gauge { gauge: Source },
    Info { info: Source },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Source {
    path: Path,
    labels_from_path: BTreeMap<String, Path>,
    label_from_key: String,
    value_from: Path,
}

impl Configuration {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Errors of YAML, and fields that this module does not know.
    pub fn read(text: &str) -> Result<Self, serde_yaml::Error> {
        serde_yaml::from_str(text)
    }

    /// The samples of these objects.
    pub fn samples<'a>(&self, objects: impl Iterator<Item = &'a Value> + Clone) -> Vec<Sample> {
        let mut samples = Vec::new();
        for resource in &self.spec.resources {
            let of_kind = |object: &&Value| object["kind"] == resource.group_version_kind.kind.as_str();
            for object in objects.clone().filter(of_kind) {
                for metric in &resource.metrics {
                    samples.extend(resource.samples(metric, object));
                }
            }
        }
        samples
    }
}

impl Resource {
    fn samples(&self, metric: &Metric, object: &Value) -> Vec<Sample> {
        let mut base = Labels::new();
        let GroupVersionKind { group, version, kind } = &self.group_version_kind;
        for (name, value) in [("group", group), ("version", version), ("kind", kind)] {
            base.insert(format!("customresource_{name}"), value.clone());
        }
        add_labels(object, &self.labels_from_path, &mut base);
        let values = match &metric.each {
            Each::Gauge { gauge } => gauge.gauges(object),
            Each::Info { info } => info.infos(object).into_iter().map(|labels| (labels, 1.0)).collect(),
        };
        let sample = |(labels, value): (Labels, f64)| {
            let mut all = base.clone();
            all.extend(labels);
            Sample {
                name: format!("{}_{}", self.metric_name_prefix, metric.name),
                labels: all,
                value,
            }
        };
        values.into_iter().map(sample).collect()
    }
}

impl Source {
    fn gauges(&self, object: &Value) -> Vec<(Labels, f64)> {
        let at = get(object, &self.path);
        match at {
            Value::Object(map) => map
                .iter()
                .filter_map(|(key, each)| self.keyed_gauge(at, key, each))
                .collect(),
            Value::Array(list) => list.iter().filter_map(|each| self.gauge(each)).collect(),
            _ => self.gauge(at).into_iter().collect(),
        }
    }

    fn keyed_gauge(&self, parent: &Value, key: &str, each: &Value) -> Option<(Labels, f64)> {
        let is_itself = matches!(&self.value_from[..], [only] if only == key);
        let value = if is_itself { each } else { get(each, &self.value_from) };
        let mut labels = Labels::new();
        if !key.is_empty() && !self.label_from_key.is_empty() {
            labels.insert(self.label_from_key.clone(), key.into());
        }
        add_labels(each, &self.labels_from_path, &mut labels);
        add_labels(parent, &self.labels_from_path, &mut labels);
        Some((labels, number(value)?))
    }

    fn gauge(&self, each: &Value) -> Option<(Labels, f64)> {
        let mut labels = Labels::new();
        add_labels(each, &self.labels_from_path, &mut labels);
        Some((labels, number(get(each, &self.value_from))?))
    }

    fn infos(&self, object: &Value) -> Vec<Labels> {
        let at = get(object, &self.path);
        let labels = |each: &Value, key: &str| {
            let mut labels = Labels::new();
            if !key.is_empty() && !self.label_from_key.is_empty() {
                labels.insert(self.label_from_key.clone(), key.into());
            }
            add_labels(each, &self.labels_from_path, &mut labels);
            labels
        };
        let mut all: Vec<Labels> = match at {
            Value::Object(map) => map.iter().map(|(key, each)| labels(each, key)).collect(),
            Value::Array(list) => list.iter().map(|each| labels(each, "")).collect(),
            _ => Vec::new(),
        };
        if !at.is_array() {
            all.push(labels(at, ""));
        }
        all.retain(|labels| !labels.is_empty());
        all
    }
}

/// The value at a path; null if there is none.
fn get<'a>(value: &'a Value, path: &Path) -> &'a Value {
    path.iter().fold(value, |at, part| match at {
        Value::Array(list) => part
            .parse::<usize>()
            .ok()
            .and_then(|index| list.get(index))
            .unwrap_or(&Value::Null),
        _ => at.as_object().map_or(&Value::Null, |map: &Map<String, Value>| {
            map.get(part).unwrap_or(&Value::Null)
        }),
    })
}

fn add_labels(from: &Value, paths: &BTreeMap<String, Path>, labels: &mut Labels) {
    for (name, path) in paths {
        let text = match get(from, path) {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        labels.insert(name.clone(), text);
    }
}

/// The number for a number, a boolean, the status of a condition, or a point in time.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Bool(is_true) => Some(f64::from(u8::from(*is_true))),
        Value::String(text) => match text.to_lowercase().as_str() {
            "true" | "yes" => Some(1.0),
            "false" | "no" | "unknown" => Some(0.0),
            _ => match OffsetDateTime::parse(text, &Rfc3339) {
                Ok(time) => Some(time.unix_timestamp() as f64),
                Err(_) => text.parse().ok(),
            },
        },
        _ => None,
    }
}
