//! A client for the part of the Kubernetes REST API that a small operator needs: JSON over
//! HTTP/1.1 and TLS, one request at a time, on one connection.
//!
//! It knows how Kubernetes talks, not what k6u is for.

mod account;
mod client;
pub mod decode;
mod error;
pub mod objects;
pub mod redact;
pub mod refusal;
mod transport;

pub use client::{Client, ContentType};
pub use error::{Cause, Error, ErrorKind};
pub use redact::Redactor;
