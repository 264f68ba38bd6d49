//! The test kit of k6u's tests, demo and benchmark: a Kubernetes API server, the machine that k6u runs on, and the
//! sites that most tests use.

#![allow(clippy::pedantic)]

pub mod apiserver;
pub mod chart;
pub mod example;
pub mod golden;
pub mod machine;
pub mod site;
pub mod skip;
pub mod trio;
