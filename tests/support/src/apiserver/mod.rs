//! A Kubernetes API server over real TLS that fails on demand.

pub mod api;
pub mod certificates;
pub mod fault;
pub mod http;
pub mod kinds;
pub mod metrics;
pub mod rbac;
pub mod route;
pub mod schema;
pub mod server;
pub mod store;
