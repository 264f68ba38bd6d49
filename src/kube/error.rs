//! What went wrong with a request: what was asked, what came back, whether to try again.

use std::fmt;
use std::time::Duration;

use super::refusal::Refusal;

/// A request that did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The method.
    pub verb: &'static str,
    /// The path, without the query.
    pub path: String,
    /// What came back.
    pub cause: Cause,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The service account's files cannot be used, so nothing was asked.
    Account(String),
    /// No whole answer came: the connection failed.
    NoAnswer(String),
    /// No whole answer came in time.
    TimedOut(String),
    /// The answer is not what the API answers.
    Unclear(String),
    /// The API server refused.
    Refused(Refusal),
}

impl Error {
    /// A response that makes no sense, and why.
    pub fn unclear(verb: &'static str, path: &str, what: String) -> Self {
        Error {
            verb,
            path: path.into(),
            cause: Cause::Unclear(what),
        }
    }

    /// As if the API server had answered that it does not serve this.
    pub fn absent_api(verb: &'static str, path: &str) -> Self {
        let refusal = Refusal {
            status: 404,
            reason: String::new(),
            message: "not served".into(),
            retry_after: None,
            names_object: false,
        };
        Error {
            verb,
            path: path.into(),
            cause: Cause::Refused(refusal),
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

    /// 404 for one object of an API that is served.
    pub fn is_absent_object(&self) -> bool {
        self.has_status(404) && self.refusal().is_some_and(|r| r.names_object)
    }

    /// 404 for the whole resource: its API is not served (a plain text body says so).
    pub fn is_absent_api(&self) -> bool {
        self.has_status(404) && !self.is_absent_object()
    }

    /// 409: the object changed since it was read, or exists by now.
    pub fn is_conflict(&self) -> bool {
        self.has_status(409)
    }

    /// 401: the token is not accepted.
    pub fn is_unauthorized(&self) -> bool {
        self.has_status(401)
    }

    /// No response came in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self.cause, Cause::TimedOut(_))
    }

    /// Nothing reaches the API server, whatever it is about; a response that is late is another matter.
    pub fn is_transport(&self) -> bool {
        matches!(self.cause, Cause::Account(_) | Cause::NoAnswer(_))
    }

    /// 403 by RBAC. Webhooks and admission policies refuse by 403 as well, in other words (Kubernetes,
    /// apimachinery/pkg/api/errors `NewForbidden`, apiserver/pkg/endpoints/handlers/responsewriters).
    pub fn is_forbidden_by_rbac(&self) -> bool {
        let says_so = |r: &Refusal| r.message.contains("is forbidden: User ") && r.message.contains(" cannot ");
        self.has_status(403) && self.refusal().is_some_and(says_so)
    }

    /// The API server just learned of a CRD and sets up its storage: normal right after that.
    pub fn is_initializing(&self) -> bool {
        self.has_status(429) && self.refusal().is_some_and(|r| r.message.contains("(re)initializing"))
    }

    /// Whether the server is overloaded or broken, and must not be asked again soon.
    pub fn wants_rest(&self) -> bool {
        self.refusal().is_some_and(|r| r.status == 429 || r.status >= 500)
    }

    /// What sort of trouble this is, whichever request met it: for telling it once.
    pub fn kind(&self) -> String {
        match &self.cause {
            Cause::Account(what) => what.clone(),
            // What is wrong with a certificate, without the times that rustls names.
            Cause::NoAnswer(what) if what.contains("certificate") => what.split(':').take(3).collect(),
            Cause::NoAnswer(_) | Cause::TimedOut(_) => "no answer".into(),
            Cause::Unclear(_) => format!("unclear {}", self.path),
            Cause::Refused(refusal) if refusal.status == 429 || refusal.status >= 500 => refusal.status.to_string(),
            Cause::Refused(refusal) => format!("{} {}", refusal.status, self.path),
        }
    }

    /// How long to wait, if the server says so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(|r| r.retry_after)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refusal = match &self.cause {
            Cause::Account(what) => return write!(f, "the service account cannot be used: {what}"),
            Cause::NoAnswer(what) | Cause::TimedOut(what) => {
                return write!(
                    f,
                    "{} {}: no response from the API server: {what}",
                    self.verb, self.path
                );
            }
            Cause::Unclear(what) => return write!(f, "{} {}: unexpected response: {what}", self.verb, self.path),
            Cause::Refused(refusal) => refusal,
        };
        write!(f, "{} {}:", self.verb, self.path)?;
        let status = refusal.status.to_string();
        // A body in plain text may begin with the status: "404 page not found".
        if !refusal.message.starts_with(&status) {
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

    fn refused(verb: &'static str, path: &str, status: u16, message: &str, names_object: bool) -> Error {
        Error {
            verb,
            path: path.into(),
            cause: Cause::Refused(Refusal {
                status,
                reason: String::new(),
                message: message.into(),
                retry_after: None,
                names_object,
            }),
        }
    }

    #[test]
    fn a_missing_right_is_told_from_what_admission_refuses() {
        let path = "/apis/cilium.io/v2/ciliumcidrgroups/lan";
        let rbac = "ciliumcidrgroups.cilium.io \"lan\" is forbidden: User \"system:serviceaccount:kube-system:k6u\" \
                    cannot get resource \"ciliumcidrgroups\" in API group \"cilium.io\" at the cluster scope";
        assert_eq!(
            refused("GET", path, 403, rbac, true).to_string(),
            format!("GET {path}: 403 {rbac}; grant k6u this right (manifests/ has it)")
        );
        let webhook = "x is forbidden: ValidatingAdmissionPolicy 'p' denied request: User may not";
        assert_eq!(
            refused("GET", path, 403, webhook, true).to_string(),
            format!("GET {path}: 403 {webhook}")
        );
    }

    #[test]
    fn the_status_is_said_once() {
        let plain = refused("GET", "/x", 404, "404 page not found", false);
        assert_eq!(plain.to_string(), "GET /x: 404 page not found");
        assert_eq!(refused("GET", "/x", 500, "boom", false).to_string(), "GET /x: 500 boom");
    }

    #[test]
    fn an_absent_object_and_an_absent_api_differ() {
        let object = refused("GET", "/x", 404, "ciliumcidrgroups.cilium.io \"x\" not found", true);
        let api = refused("GET", "/x", 404, "404 page not found", false);
        assert!(object.is_absent_object() && !object.is_absent_api());
        assert!(api.is_absent_api() && !api.is_absent_object());
    }

    #[test]
    fn storage_that_is_set_up_is_told_from_overload() {
        assert!(refused("GET", "/x", 429, "storage is (re)initializing", false).is_initializing());
        assert!(!refused("GET", "/x", 429, "too many requests", false).is_initializing());
        assert!(refused("GET", "/x", 429, "", false).wants_rest());
        assert!(refused("GET", "/x", 503, "", false).wants_rest());
        assert!(!refused("GET", "/x", 409, "", false).wants_rest());
    }
}
