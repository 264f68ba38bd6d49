//! Requests and responses.

use std::fmt::Display;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::{CryptoProvider, KeyProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use ureq::http::{HeaderValue, Method, Request, Response, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::transport::{Connector, RustlsConnector};
use ureq::{Agent, Body, config::Config};

use super::account::Account;
use super::decode::{MAX_ANSWER, decode};
use super::error::{Cause, Error};
use super::redact::{Redactor, excerpt};
use super::refusal::{MAX_REFUSAL, Refusal, retry_after};
use super::transport::{Connected, Link, NoResolver, TcpConnector};
use crate::time::Timestamp;

/// From the lookup of the name to the last byte of the response. Under a CPU limit of 8m a TLS handshake alone
/// can take a second.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// An idle connection is kept for longer than the longest UPDATE_INTERVAL, a day.
const IDLE: Duration = Duration::from_hours(48);

/// The buffer for answers: its first size, and that from which on it is not kept. With the allocator's header each of the
/// client's buffers takes whole pages.
const BUFFER: usize = 8_000;
const MAX_BUFFER: usize = 8 * BUFFER;

const JSON: &str = "application/json";
/// The API server then sends the metadata only (Kubernetes API concepts, "Metadata-only fetches").
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// The format of the body of a PATCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// JSON merge patch (RFC 7396).
    MergePatch,
    /// Server-side apply; the body may be YAML.
    Apply,
}

impl ContentType {
    fn header(self) -> &'static str {
        match self {
            ContentType::MergePatch => "application/merge-patch+json",
            ContentType::Apply => "application/apply-patch+yaml",
        }
    }
}

/// A client with the identity of this pod's service account.
#[derive(Debug)]
pub struct Client {
    api_server: String,
    account: Account,
    token: String,
    /// The header with the token.
    authorization: HeaderValue,
    session: Option<Session>,
    redactor: Redactor,
    link: Link,
    /// When the time of [`Client::within`] is over.
    until: Option<Instant>,
    /// The time that the last request had.
    time_limit: Duration,
    requests: u64,
    /// The Date of the last answer, which is read when somebody asks.
    date: Option<HeaderValue>,
    /// The body of the last answer.
    body: Vec<u8>,
    on_answer: fn(),
}

/// An agent with its connection, and the CA bundle that it trusts.
#[derive(Debug)]
struct Session {
    agent: Agent,
    ca_bundle: Vec<u8>,
}

impl Client {
    /// A client of `https://HOST:PORT`; `service_account` is the folder with `token` and `ca.crt`.
    /// Reads and connects to nothing yet.
    pub fn new(api_server: String, service_account: &Path) -> Self {
        Client {
            api_server,
            account: Account::new(service_account),
            token: String::new(),
            authorization: HeaderValue::from_static("Bearer"),
            session: None,
            redactor: Redactor::default(),
            link: Link::default(),
            until: None,
            time_limit: REQUEST_TIME,
            requests: 0,
            date: None,
            body: Vec::with_capacity(BUFFER),
            on_answer: || {},
        }
    }

    /// Adds a redactor, which gets to know the token.
    #[must_use]
    pub fn with_redactor(mut self, redactor: Redactor) -> Self {
        self.redactor = redactor;
        self
    }

    /// The redactor, which removes the token from texts.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Sets a function that is called after each response of the API server.
    #[must_use]
    pub fn on_answer(mut self, call: fn()) -> Self {
        self.on_answer = call;
        self
    }

    /// Replaces TCP and TLS by another transport, such as a simulation's, until `ca.crt` changes.
    ///
    /// # Errors
    /// [`Cause::Account`] if `ca.crt` cannot be read.
    pub fn over(mut self, connector: impl Connector) -> Result<Self, Error> {
        let ca_bundle = self.account.ca_bundle().map_err(account_error)?.to_vec();
        let agent = agent(TlsConfig::default(), connector);
        self.session = Some(Session { agent, ca_bundle });
        Ok(self)
    }

    /// Reads the token, which rotates, and the CA; a new CA starts a new connection.
    ///
    /// # Errors
    /// [`Cause::Account`] if a file is missing or malformed.
    pub fn read_account(&mut self) -> Result<(), Error> {
        let token = self.account.token().map_err(account_error)?;
        if self.token != token {
            self.authorization = bearer(token)?;
            self.redactor.set_token(token);
            self.token = token.into();
        }
        let ca_bundle = self.account.ca_bundle().map_err(account_error)?;
        if self.session.as_ref().is_none_or(|s| s.ca_bundle != ca_bundle) {
            let ca_bundle = ca_bundle.to_vec();
            let certificates = self.account.certificates(&ca_bundle).map_err(account_error)?;
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::Specific(Arc::new(certificates)))
                .unversioned_rustls_crypto_provider(Arc::new(crypto_provider()))
                .build();
            self.session = Some(Session {
                agent: agent(
                    tls,
                    TcpConnector::new(self.link.clone())
                        .chain(RustlsConnector::default())
                        .chain(Connected(self.link.clone())),
                ),
                ca_bundle,
            });
        }
        Ok(())
    }

    /// Reads one object or list.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Error> {
        self.request(Call::get(path, JSON))
    }

    /// Reads the metadata of one object.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn get_metadata<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Error> {
        self.request(Call::get(path, METADATA_ONLY))
    }

    /// Creates an object; `path` is that of its list.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn create(&mut self, path: &str, object: &impl Serialize) -> Result<(), Error> {
        let body = encode("POST", path, object)?;
        self.write::<IgnoredAny>("POST", path, METADATA_ONLY, (JSON, &body))
            .map(drop)
    }

    /// Creates an object and returns it as it is stored.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn create_returning<T: DeserializeOwned>(&mut self, path: &str, object: &impl Serialize) -> Result<T, Error> {
        let body = encode("POST", path, object)?;
        self.write("POST", path, JSON, (JSON, &body))
    }

    /// Changes an object by a merge patch.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn merge_patch(&mut self, path: &str, patch: &impl Serialize) -> Result<(), Error> {
        let body = encode("PATCH", path, patch)?;
        self.patch(path, ContentType::MergePatch, &body)
    }

    /// Changes an object by a merge patch and returns it as it is stored.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn merge_patch_returning<T: DeserializeOwned>(
        &mut self,
        path: &str,
        patch: &impl Serialize,
    ) -> Result<T, Error> {
        let body = encode("PATCH", path, patch)?;
        self.write("PATCH", path, JSON, (ContentType::MergePatch.header(), &body))
    }

    /// Changes an object by a patch that is already encoded.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn patch(&mut self, path: &str, content_type: ContentType, body: &[u8]) -> Result<(), Error> {
        self.write::<IgnoredAny>("PATCH", path, METADATA_ONLY, (content_type.header(), body))
            .map(drop)
    }

    /// Limits the time of all requests that `requests` makes. Without time left nothing is sent.
    pub fn within<R>(&mut self, limit: Duration, requests: impl FnOnce(&mut Self) -> R) -> R {
        let (before, until) = (self.until, Instant::now() + limit);
        self.until = Some(before.map_or(until, |before| before.min(until)));
        let result = requests(self);
        self.until = before;
        result
    }

    /// The time that a request has if it is sent now.
    fn time_left(&self) -> Duration {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        self.until.map_or(REQUEST_TIME, left).min(REQUEST_TIME)
    }

    /// The API server's time in its last response; `None` before the first.
    pub fn server_time(&self) -> Option<Timestamp> {
        Timestamp::from_http_date(self.date.as_ref()?.to_str().ok()?)
    }

    /// The number of requests sent so far, repeated ones included.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The number of connections opened so far.
    pub fn connections(&self) -> u64 {
        self.link.opened()
    }

    /// Sends a write. It asks the API server to give up after half of the request's time, so that a write that k6u
    /// takes for failed is not carried out later.
    fn write<T: DeserializeOwned>(
        &mut self,
        verb: &'static str,
        path: &str,
        accept: &'static str,
        body: (&'static str, &[u8]),
    ) -> Result<T, Error> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}timeout={}", go_duration(self.time_left() / 2));
        self.request(Call {
            verb,
            path: &path,
            accept,
            body: Some(body),
        })
    }

    fn request<T: DeserializeOwned>(&mut self, call: Call) -> Result<T, Error> {
        let answer = self.exchange(call);
        let malformed = |e| call.failed(Cause::Malformed(clean(&self.redactor, &e)));
        let value = answer.and_then(|()| decode(&self.body).map_err(malformed));
        if self.body.capacity() > MAX_BUFFER {
            self.body = Vec::with_capacity(BUFFER);
        }
        value
    }

    /// Sends a request and reads the body of its answer.
    fn exchange(&mut self, call: Call) -> Result<(), Error> {
        self.time_limit = self.time_left();
        if self.time_limit.is_zero() {
            return Err(call.failed(Cause::TimedOut("there was no time left for it".into())));
        }
        let deadline = Instant::now() + self.time_limit;
        let opened = self.link.opened();
        let first = self.try_once(call, deadline);
        let on_old_connection = opened > 0 && self.link.opened() == opened;
        match first {
            // An idle connection may have been closed unnoticed. One that is open but does not answer is a failure, and
            // a POST may have been carried out: neither is sent twice.
            Err(Error {
                cause: Cause::NoAnswer(_),
                ..
            }) if on_old_connection && call.verb != "POST" => self.try_once(call, deadline),
            other => other,
        }
    }

    fn try_once(&mut self, call: Call, deadline: Instant) -> Result<(), Error> {
        let mut response = self.send(call, deadline)?;
        self.read_body(&mut response, MAX_ANSWER + 1).map_err(|e| {
            call.failed(if is_timeout(&e) {
                Cause::TimedOut(self.out_of_time())
            } else {
                Cause::NoAnswer(clean(&self.redactor, &e))
            })
        })
    }

    /// Reads the start of a body into the buffer.
    fn read_body(&mut self, response: &mut Response<Body>, max: usize) -> io::Result<()> {
        self.body.clear();
        let mut reader = response.body_mut().with_config().reader().take(max as u64);
        let start = reader.by_ref().take(MAX_BUFFER as u64).read_to_end(&mut self.body)?;
        if start == MAX_BUFFER {
            // A buffer that grows takes twice as much for a moment. What is not used of this one takes no memory.
            self.body.reserve_exact(max.saturating_sub(start));
            reader.read_to_end(&mut self.body)?;
        }
        Ok(())
    }

    /// Sends a request and returns the response, if its status is no error.
    fn send(&mut self, call: Call, deadline: Instant) -> Result<Response<Body>, Error> {
        let malformed = |what: &dyn Display| call.failed(Cause::Malformed(clean(&self.redactor, what)));
        let Some(session) = &self.session else {
            return Err(call.failed(Cause::Account("it was not read yet".into())));
        };
        let mut request = Request::builder()
            .method(Method::from_bytes(call.verb.as_bytes()).map_err(|e| malformed(&e))?)
            .uri(
                format!("{}{}", self.api_server, call.path)
                    .parse::<Uri>()
                    .map_err(|e| malformed(&e))?,
            )
            .header(header::ACCEPT, call.accept)
            .header(header::AUTHORIZATION, self.authorization.clone());
        self.requests += 1;
        self.link.start_request(deadline);
        let sent = match call.body {
            Some((content_type, bytes)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                session.agent.run(request.body(bytes).map_err(|e| malformed(&e))?)
            }
            None => session.agent.run(request.body(()).map_err(|e| malformed(&e))?),
        };
        let mut response = sent.map_err(|e| {
            let is_timeout = matches!(e, ureq::Error::Timeout(_));
            let what = if is_timeout {
                self.out_of_time()
            } else {
                clean(&self.redactor, &explain(&e))
            };
            call.failed(match is_timeout {
                _ if self.link.is_connecting() || is_refused(&e) => Cause::Unreachable(what),
                true => Cause::TimedOut(what),
                false => Cause::NoAnswer(what),
            })
        })?;
        (self.on_answer)();
        self.date = response.headers_mut().remove(header::DATE).or(self.date.take());
        if response.status().as_u16() >= 300 {
            return Err(call.failed(Cause::Refused(self.refusal(&mut response))));
        }
        Ok(response)
    }

    /// Reads a response whose status is an error.
    fn refusal(&mut self, response: &mut Response<Body>) -> Refusal {
        let status = response.status().as_u16();
        let wait = header_of(response, header::RETRY_AFTER).and_then(|value| retry_after(value, self.server_time()));
        // A body that breaks off says less, but the status stands.
        let _ = self.read_body(response, MAX_REFUSAL);
        Refusal::read(status, &self.body, wait, &self.redactor)
    }

    fn out_of_time(&self) -> String {
        format!(
            "timed out after {} s",
            (self.time_limit.as_secs_f64() * 10.0).round() / 10.0
        )
    }
}

/// One request.
#[derive(Clone, Copy)]
struct Call<'a> {
    verb: &'static str,
    /// With the query.
    path: &'a str,
    accept: &'static str,
    /// The content type, and the body.
    body: Option<(&'static str, &'a [u8])>,
}

impl<'a> Call<'a> {
    fn get(path: &'a str, accept: &'static str) -> Self {
        Call {
            verb: "GET",
            path,
            accept,
            body: None,
        }
    }

    fn failed(&self, cause: Cause) -> Error {
        Error {
            verb: self.verb,
            path: self.path.split('?').next().unwrap_or(self.path).to_string(),
            cause,
        }
    }
}

/// ring, without the part that loads private keys: k6u has none.
fn crypto_provider() -> CryptoProvider {
    CryptoProvider {
        key_provider: &NoKeys,
        ..ring::default_provider()
    }
}

#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General(
            "k6u identifies itself by a token, not by a key".into(),
        ))
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|e| account_error(e.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn account_error(what: String) -> Error {
    Error {
        verb: "",
        path: String::new(),
        cause: Cause::Account(what),
    }
}

fn agent(tls: TlsConfig, connector: impl Connector) -> Agent {
    let config = Config::builder()
        .tls_config(tls)
        .https_only(true)
        // The API server is a neighbour: HTTPS_PROXY must not get the token.
        .proxy(None)
        // A redirect would carry the token to wherever it points.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(concat!("k6u/", env!("CARGO_PKG_VERSION")))
        .max_idle_connections(1)
        .max_idle_connections_per_host(1)
        .max_idle_age(IDLE)
        .max_response_header_size(16_000)
        .input_buffer_size(16_000)
        .output_buffer_size(8_000)
        .build();
    Agent::with_parts(config, connector, NoResolver)
}

fn encode(verb: &'static str, path: &str, value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|e| Error::malformed(verb, path, e.to_string()))
}

fn header_of(response: &Response<Body>, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// A text from outside, for a log line.
fn clean(redactor: &Redactor, what: &dyn Display) -> String {
    excerpt(&redactor.clean(&what.to_string()))
}

/// A time as Go's time.ParseDuration reads it.
fn go_duration(time: Duration) -> String {
    // 0 is no limit.
    match time.as_millis().max(1) {
        millis if millis % 1000 == 0 => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}

/// Whether reading the body failed because the request's time was over.
fn is_timeout(error: &io::Error) -> bool {
    let source = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(source, Some(ureq::Error::Timeout(_)))
}

/// Whether nothing listens there. A transport without connections notices that only when it sends.
fn is_refused(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused)
}

/// Describes a failed connection, and what to check.
fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "the host name of KUBERNETES_SERVICE_HOST cannot be resolved".into(),
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            "connection refused (is the API server running?)".into()
        }
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            "the connection was closed before the response was complete".into()
        }
        other => {
            let text = other.to_string();
            if text.contains("invalid peer certificate") {
                format!("{text} (does ca.crt belong to this API server, and is this node's clock right?)")
            } else {
                text
            }
        }
    }
}
