//! What is refused for one object stays that object's trouble.

use std::time::Duration;

use k6u_testkit::fault::{Fault, Plan};
use k6u_testkit::http::Response;
use k6u_testkit::server::{Cilium, cidrs};
use serde_json::{Value, json};

use crate::Scenario;
use crate::site::{CONFIG, CONFIG_NAME, CRDS, GROUP, NODE_CONFIG, NODE_CONFIGS, SOON, Site, requests};

pub const ALL: &[Scenario] = &[];
