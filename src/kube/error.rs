//! Failed requests: the request, the reason, and whether to try again.

use std::fmt;
use std::time::Duration;

use super::refusal::Refusal;

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The method.
    pub verb: &'static str,
    /// The path, without the query.
    pub path: String,
    /// The reason.
    pub cause: Cause,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The service account's files cannot be used, so nothing was sent.
    Account(String),
    /// No connection could be made: the name, TCP or TLS.
    Unreachable(String),
    /// The request was sent, but its response broke off.
    NoAnswer(String),
    /// The request was sent, but no complete response came in time.
    TimedOut(String),
    /// The response makes no sense.
    Malformed(String),
    /// The API server refused.
    Refused(Refusal),
}

/// The part of an error that is the same on all nodes and in all tries: no ports, times or request ids.
/// Its text is part of the text of every error of this kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// [`Cause::Account`], with its text, which names the file.
    Account(String),
    /// No connection, because of a certificate.
    Certificate,
    /// No connection or no complete response, for any other reason.
    NoResponse,
    /// [`Cause::Malformed`].
    Malformed,
    /// [`Cause::Refused`], with status and reason.
    Refused(u16, String),
}

/// The body that Go's net/http sends for a path without a handler.
const NOT_SERVED: &str = "404 page not found";

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorKind::Account(what) => f.write_str(what),
            ErrorKind::Certificate => f.write_str("certificate"),
            ErrorKind::NoResponse => f.write_str("no response from the API server"),
            ErrorKind::Malformed => f.write_str("unexpected response"),
            ErrorKind::Refused(status, reason) if reason.is_empty() => write!(f, "{status}"),
            ErrorKind::Refused(status, reason) => write!(f, "{status} {reason}"),
        }
    }
}

impl Error {
    /// A response that makes no sense, and why.
    pub fn malformed(verb: &'static str, path: &str, what: String) -> Self {
        Error {
            verb,
            path: path.into(),
            cause: Cause::Malformed(what),
        }
    }

    /// The error of an API server that does not serve this path.
    pub fn absent_api(verb: &'static str, path: &str) -> Self {
        Error {
            verb,
            path: path.into(),
            cause: Cause::Refused(Refusal {
                status: 404,
                message: NOT_SERVED.into(),
                ..Refusal::default()
            }),
        }
    }

    fn refusal(&self) -> Option<&Refusal> {
        match &self.cause {
            Cause::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    fn has_status(&self, status: u16) -> bool {
        self.refusal().is_some_and(|r| r.status == status)
    }

    /// 404 for one object of an API that is served, by the API server itself.
    ///
    /// The API server answers in plain text where an API is not served, and with a Status object where it is. That
    /// names the object, unless an aggregated API server made it.
    pub fn is_absent_object(&self) -> bool {
        let is_object = |r: &Refusal| r.is_status && !r.is_denied_by_webhook() && !r.names_namespace;
        self.has_status(404) && self.refusal().is_some_and(is_object)
    }

    /// 404 for the namespace of an object that was to be created.
    pub fn is_absent_namespace(&self) -> bool {
        self.has_status(404) && self.refusal().is_some_and(|r| r.names_namespace)
    }

    /// 404 for the whole resource: its API is not served. An incomplete body does not count.
    pub fn is_absent_api(&self) -> bool {
        let is_api = |r: &Refusal| !r.is_status && r.message.starts_with(NOT_SERVED);
        self.has_status(404) && self.refusal().is_some_and(is_api)
    }

    /// 409: the object changed since it was read, or exists by now.
    pub fn is_conflict(&self) -> bool {
        self.has_status(409)
    }

    /// 401 by the API server: the token is not accepted.
    pub fn is_unauthorized(&self) -> bool {
        self.has_status(401)
    }

    /// The request was sent, but no response came in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self.cause, Cause::TimedOut(_))
    }

    /// No connection can be made, so that other requests would fail as well.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.cause, Cause::Account(_) | Cause::Unreachable(_))
    }

    /// 403 by RBAC. Webhooks and admission policies answer 403 with other messages (Kubernetes,
    /// apimachinery/pkg/api/errors `NewForbidden`, apiserver/pkg/endpoints/handlers/responsewriters).
    pub fn is_forbidden_by_rbac(&self) -> bool {
        let says_so = |r: &Refusal| r.message.contains("is forbidden: User ") && r.message.contains(" cannot ");
        self.has_status(403) && self.refusal().is_some_and(says_so)
    }

    /// 429 while the API server sets up the storage of a new CRD, which is normal.
    pub fn is_initializing(&self) -> bool {
        self.has_status(429) && self.refusal().is_some_and(|r| r.message.contains("(re)initializing"))
    }

    /// Whether the server is overloaded or broken, so that the next request has to wait.
    pub fn is_overloaded(&self) -> bool {
        self.refusal().is_some_and(|r| r.status == 429 || r.status >= 500)
    }

    /// Whether the refusal lasts until somebody changes rights, rules or the object: 4xx without those that pass by
    /// themselves (401, 404, 408, 409, 425, 429). A webhook's refusal lasts with 401 and 404 as well.
    pub fn is_lasting_refusal(&self) -> bool {
        let is_lasting = |r: &Refusal| match r.status {
            401 | 404 => r.is_denied_by_webhook(),
            408 | 409 | 425 | 429 => false,
            status => (400..500).contains(&status),
        };
        self.refusal().is_some_and(is_lasting)
    }

    /// The kind of this error, for comparing it with another one of the same request.
    pub fn kind(&self) -> ErrorKind {
        match &self.cause {
            Cause::Account(what) => ErrorKind::Account(what.clone()),
            Cause::Unreachable(what) if what.contains("certificate") => ErrorKind::Certificate,
            Cause::Unreachable(_) | Cause::NoAnswer(_) | Cause::TimedOut(_) => ErrorKind::NoResponse,
            Cause::Malformed(_) => ErrorKind::Malformed,
            Cause::Refused(refusal) => ErrorKind::Refused(refusal.status, refusal.reason.clone()),
        }
    }

    /// The pause that the server asks for, a minute at most.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(|r| r.retry_after)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refusal = match &self.cause {
            Cause::Account(what) => return write!(f, "the service account cannot be used: {what}"),
            Cause::Unreachable(what) | Cause::NoAnswer(what) | Cause::TimedOut(what) => {
                return write!(
                    f,
                    "{} {}: no response from the API server: {what}",
                    self.verb, self.path
                );
            }
            Cause::Malformed(what) => return write!(f, "{} {}: unexpected response: {what}", self.verb, self.path),
            Cause::Refused(refusal) => refusal,
        };
        write!(f, "{} {}:", self.verb, self.path)?;
        let status = refusal.status.to_string();
        // A body in plain text may begin with the status: "404 page not found".
        if !refusal.reason.is_empty() || !refusal.message.starts_with(&status) {
            write!(f, " {status}")?;
        }
        for part in [&refusal.reason, &refusal.message] {
            if !part.is_empty() {
                write!(f, " {part}")?;
            }
        }
        if self.is_unauthorized() {
            f.write_str("; the token is read again for the next round")?;
        } else if self.is_forbidden_by_rbac() {
            f.write_str("; grant k6u this right (manifests/ has it)")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::Redactor;

    fn refused(status: u16, reason: &str, message: &str) -> Error {
        Error {
            verb: "GET",
            path: "/x".into(),
            cause: Cause::Refused(Refusal {
                status,
                reason: reason.into(),
                message: message.into(),
                is_status: !reason.is_empty(),
                ..Refusal::default()
            }),
        }
    }

    /// A response of an API server, as it is read.
    fn answered(status: u16, body: &str) -> Error {
        Error {
            verb: "GET",
            path: "/x".into(),
            cause: Cause::Refused(Refusal::read(status, body.as_bytes(), None, &Redactor::default())),
        }
    }

    #[test]
    fn a_missing_right_differs_from_a_refusal_by_admission() {
        let rbac = "ciliumcidrgroups.cilium.io \"lan\" is forbidden: User \"system:serviceaccount:kube-system:k6u\" \
                    cannot get resource \"ciliumcidrgroups\" in API group \"cilium.io\" at the cluster scope";
        assert_eq!(
            refused(403, "Forbidden", rbac).to_string(),
            format!("GET /x: 403 Forbidden {rbac}; grant k6u this right (manifests/ has it)")
        );
        let webhook = "x is forbidden: ValidatingAdmissionPolicy 'p' denied request: User may not";
        assert_eq!(
            refused(403, "Forbidden", webhook).to_string(),
            format!("GET /x: 403 Forbidden {webhook}")
        );
    }

    #[test]
    fn the_status_is_said_once() {
        assert_eq!(
            refused(404, "", "404 page not found").to_string(),
            "GET /x: 404 page not found"
        );
        assert_eq!(refused(500, "", "boom").to_string(), "GET /x: 500 boom");
    }

    #[test]
    fn an_absent_object_and_an_absent_api_differ() {
        let object = answered(
            404,
            r#"{"kind":"Status","reason":"NotFound","message":"ciliumcidrgroups.cilium.io \"absent\" not found",
            "details":{"name":"absent","group":"cilium.io","kind":"ciliumcidrgroups"}}"#,
        );
        assert!(object.is_absent_object() && !object.is_absent_api());
        let api = answered(404, "404 page not found\n");
        assert!(api.is_absent_api() && !api.is_absent_object());
        assert!(Error::absent_api("GET", "/x").is_absent_api());
    }

    #[test]
    fn a_status_without_a_name_is_no_absent_api() {
        for details in ["", r#","details":{}"#, r#","details":null"#] {
            let body = format!(r#"{{"kind":"Status","reason":"NotFound","message":"not found"{details}}}"#);
            let error = answered(404, &body);
            assert!(error.is_absent_object() && !error.is_absent_api(), "{details}");
        }
    }

    #[test]
    fn a_404_that_broke_off_says_nothing() {
        for body in [
            "",
            r#"{"kind":"Status","reason":"NotFound","mess"#,
            "404",
            "<html>nginx</html>",
        ] {
            let error = answered(404, body);
            assert!(!error.is_absent_object() && !error.is_absent_api(), "{body}");
        }
    }

    #[test]
    fn an_absent_namespace_is_no_absent_object() {
        let error = answered(
            404,
            r#"{"kind":"Status","reason":"NotFound","message":"namespaces \"dns\" not found",
            "details":{"name":"dns","kind":"namespaces"}}"#,
        );
        assert!(error.is_absent_namespace() && !error.is_absent_object() && !error.is_absent_api());
    }

    #[test]
    fn initializing_storage_differs_from_overload() {
        assert!(refused(429, "", "storage is (re)initializing").is_initializing());
        assert!(!refused(429, "", "too many requests").is_initializing());
        assert!(refused(429, "", "").is_overloaded());
        assert!(refused(503, "", "").is_overloaded());
        assert!(!refused(409, "", "").is_overloaded());
    }

    #[test]
    fn refusals_that_last() {
        let denied = "admission webhook \"guard.example.com\" denied the request: not on Fridays";
        for (status, message) in [
            (403, ""),
            (422, ""),
            (400, denied),
            (401, denied),
            (404, denied),
            (418, denied),
        ] {
            assert!(refused(status, "X", message).is_lasting_refusal(), "{status} {message}");
        }
        for status in [401, 404, 408, 409, 429, 500, 503, 504] {
            assert!(!refused(status, "X", "").is_lasting_refusal(), "{status}");
        }
        for cause in [
            Cause::Account(String::new()),
            Cause::Unreachable(String::new()),
            Cause::NoAnswer(String::new()),
            Cause::TimedOut(String::new()),
            Cause::Malformed(String::new()),
        ] {
            let error = Error {
                verb: "GET",
                path: "/x".into(),
                cause,
            };
            assert!(!error.is_lasting_refusal(), "{error}");
        }
    }

    #[test]
    fn a_kind_is_in_the_text_of_its_errors_and_without_what_differs() {
        let failed = |cause| Error {
            verb: "GET",
            path: "/x".into(),
            cause,
        };
        for (one, other) in [
            (
                refused(
                    500,
                    "InternalError",
                    "failed calling webhook: read tcp 10.0.0.1:40001: connection reset",
                ),
                refused(
                    500,
                    "InternalError",
                    "failed calling webhook: read tcp 10.0.0.1:40002: connection reset",
                ),
            ),
            (refused(404, "NotFound", "404 not found"), refused(404, "NotFound", "x")),
            (
                failed(Cause::TimedOut("timed out after 10 s".into())),
                failed(Cause::NoAnswer("connection reset".into())),
            ),
            (
                failed(Cause::Unreachable("certificate expired: verification time 1".into())),
                failed(Cause::Unreachable("certificate expired: verification time 2".into())),
            ),
            (
                failed(Cause::Malformed("column 7".into())),
                failed(Cause::Malformed("column 8".into())),
            ),
            (
                failed(Cause::Account("token is empty".into())),
                failed(Cause::Account("token is empty".into())),
            ),
        ] {
            assert_eq!(one.kind(), other.kind());
            for error in [one, other] {
                let kind = error.kind().to_string();
                assert!(error.to_string().contains(&kind), "{error}: {kind}");
            }
        }
        assert_ne!(refused(500, "A", "").kind(), refused(500, "B", "").kind());
        assert_ne!(refused(500, "A", "").kind(), refused(503, "A", "").kind());
    }

    /// A real kube-apiserver answers with a Status object where an API is served, and in plain text where it is not.
    #[test]
    fn recorded_404s() {
        let recordings = include_str!("../../tests/support/recordings.json");
        let recordings: serde_json::Value = serde_json::from_str(recordings).unwrap();
        let mut seen = [0, 0];
        for exchange in recordings["exchanges"].as_array().unwrap() {
            let (title, response) = (exchange["title"].as_str().unwrap(), &exchange["response"]);
            if response["status"] != 404 {
                continue;
            }
            let body = match &response["body"] {
                serde_json::Value::String(text) => text.clone(),
                body => body.to_string(),
            };
            let error = answered(404, &body);
            assert_eq!(error.is_absent_api(), title.contains("not served"), "{title}");
            assert_eq!(error.is_absent_object(), title.contains("does not exist"), "{title}");
            seen[usize::from(error.is_absent_api())] += 1;
        }
        assert_eq!(seen, [2, 3]);
    }
}
