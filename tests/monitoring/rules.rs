//! Input for promtool's tests of the rules.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k6u_testkit::skip::skip;
use serde_json::{Value, json};

use crate::timeline::Timeline;

/// An alert that fires.
pub struct Expected {
    alert: &'static str,
    labels: BTreeMap<String, String>,
}

impl Expected {
    pub fn new(alert: &'static str, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        Expected {
            alert,
            labels: labels.collect(),
        }
    }

    /// The alert as promtool expects it, with the labels and annotations of the rule.
    fn to_promtool(&self, rule: &Value) -> Value {
        let mut labels = self.labels.clone();
        for (key, value) in rule["labels"].as_object().into_iter().flatten() {
            labels.insert(key.clone(), value.as_str().expect("text").into());
        }
        let mut annotations = BTreeMap::new();
        for (key, value) in rule["annotations"].as_object().into_iter().flatten() {
            let mut text = value.as_str().expect("text").to_string();
            for (label, value) in &self.labels {
                text = text.replace(&format!("{{{{ $labels.{label} }}}}"), value);
            }
            assert!(!text.contains("{{"), "{text}");
            annotations.insert(key.clone(), text);
        }
        json!({"exp_labels": labels, "exp_annotations": annotations})
    }
}

/// The alerts that fire at each minute of a timeline.
pub struct Case<'a> {
    name: &'static str,
    timeline: &'a Timeline,
    rules: Vec<Value>,
    tests: Vec<Value>,
}

fn alerts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/monitoring/alerts.yaml")
}

impl<'a> Case<'a> {
    pub fn new(name: &'static str, timeline: &'a Timeline) -> Self {
        let text = fs::read_to_string(alerts()).expect("the rules");
        let file: Value = serde_yaml::from_str(&text).expect("YAML");
        Case {
            name,
            timeline,
            rules: file["groups"][0]["rules"].as_array().expect("rules").clone(),
            tests: Vec::new(),
        }
    }

    /// Expects these alerts in that minute, and no others.
    pub fn at(&mut self, minute: usize, firing: &[&Expected]) {
        for rule in &self.rules {
            let of_rule = firing.iter().filter(|expected| rule["alert"] == expected.alert);
            let expected: Vec<Value> = of_rule.map(|expected| expected.to_promtool(rule)).collect();
            self.tests
                .push(json!({"alertname": rule["alert"], "eval_time": format!("{minute}m"),
                "exp_alerts": expected}));
        }
    }

    /// Runs promtool. Writes its input even where promtool is missing.
    pub fn check(self) {
        let series: Vec<Value> = self
            .timeline
            .series()
            .map(|(name, values)| json!({"series": name, "values": values}))
            .collect();
        let file = json!({"rule_files": [alerts()], "evaluation_interval": "1m",
            "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": self.tests}]});
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("monitoring")
            .join(self.name);
        fs::create_dir_all(&folder).expect("a folder");
        for (minute, (objects, samples)) in self.timeline.scrapes.iter().enumerate() {
            let lines = samples
                .iter()
                .map(|sample| format!("{}{:?} {}\n", sample.name, sample.labels, sample.value));
            fs::write(folder.join(format!("{minute}.metrics")), lines.collect::<String>()).expect("a file");
            fs::write(folder.join(format!("{minute}.json")), json!(objects).to_string()).expect("a file");
        }
        let path = folder.join("alerts-test.yaml");
        fs::write(&path, serde_yaml::to_string(&file).expect("YAML")).expect("a file");
        match Command::new("promtool").args(["test", "rules"]).arg(&path).output() {
            Ok(output) => assert!(
                output.status.success(),
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(e) => skip(&format!(
                "promtool (Debian: prometheus) is needed to test the alerts: {e}"
            )),
        }
    }
}
