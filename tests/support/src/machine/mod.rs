//! The machine that k6u runs on: a namespace with real interfaces, routers and address clients on the other
//! side of a link, and k6u as a child process.

pub mod advertisement;
pub mod client;
pub mod confine;
pub mod init;
pub mod link;
pub mod namespace;
pub mod node;
pub mod router;
pub mod system;
