//! What k6u's tests, demo and benchmark stand on: a Kubernetes API server over real TLS that can be
//! told to fail, network interfaces in a namespace of the process's own, and k6u as a child process.

pub mod api;
pub mod certificates;
pub mod client;
pub mod confine;
pub mod example;
pub mod fault;
pub mod http;
pub mod kinds;
pub mod metrics;
pub mod namespace;
pub mod node;
pub mod rbac;
pub mod route;
pub mod router;
pub mod schema;
pub mod server;
pub mod store;
pub mod system;
