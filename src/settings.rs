//! The environment variables. Nothing else in k6u reads the environment.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

/// Where the kubelet mounts the service account (Kubernetes, "Accessing the API from a Pod").
const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `NODE_NAME`: the name of this node's Node object.
    pub node_name: String,
    /// `UPDATE_INTERVAL`: from one round to the next, 1 s to 86400 s.
    pub interval: Duration,
    /// `POD_NAMESPACE/POD_NAME`: the reporter of Events.
    pub reporter: String,
    /// `https://HOST:PORT` of the API server.
    pub api_server: String,
    /// `SERVICE_ACCOUNT_DIR`: holds `token` and `ca.crt`.
    pub service_account: PathBuf,
}

/// A variable that is missing or has a bad value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSetting {
    name: &'static str,
    value: Option<String>,
    accepted: &'static str,
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?} is not accepted: ", self.name)?,
            None => write!(f, "{} is not set: ", self.name)?,
        }
        write!(f, "it must be {}", self.accepted)
    }
}

impl std::error::Error for BadSetting {}

impl Settings {
    /// Reads the settings through `variable`, which gives a variable's value if it is set.
    /// `hostname` stands in for `POD_NAME`.
    ///
    /// # Errors
    /// The first variable that is missing or bad.
    pub fn read(
        variable: impl Fn(&str) -> Option<String>,
        hostname: impl FnOnce() -> String,
    ) -> Result<Self, BadSetting> {
        let node_name = checked(
            &variable,
            "NODE_NAME",
            "the name of this node (in a pod: fieldRef spec.nodeName)",
            None,
            |v| is_subdomain(v).then(|| v.to_string()),
        )?;
        let interval = checked(
            &variable,
            "UPDATE_INTERVAL",
            "a whole number of seconds from 1 to 86400",
            Some("10"),
            |v| digits(v, 1, 86_400).map(Duration::from_secs),
        )?;
        let namespace = checked(
            &variable,
            "POD_NAMESPACE",
            "the name of a namespace",
            Some("kube-system"),
            |v| is_subdomain(v).then(|| v.to_string()),
        )?;
        let pod = match set(&variable, "POD_NAME") {
            None => hostname(),
            Some(_) => checked(&variable, "POD_NAME", "the name of a pod", None, |v| {
                is_subdomain(v).then(|| v.to_string())
            })?,
        };
        let host = checked(
            &variable,
            "KUBERNETES_SERVICE_HOST",
            "the API server's IP address or DNS name, without scheme or port (Kubernetes sets it in every pod)",
            None,
            url_host,
        )?;
        let port = checked(
            &variable,
            "KUBERNETES_SERVICE_PORT",
            "the API server's TCP port, 1 to 65535 (Kubernetes sets it in every pod)",
            None,
            |v| digits(v, 1, 65_535),
        )?;
        let service_account = checked(
            &variable,
            "SERVICE_ACCOUNT_DIR",
            "an absolute path to a folder with token and ca.crt",
            Some(SERVICE_ACCOUNT_DIR),
            |v| v.starts_with('/').then(|| PathBuf::from(v)),
        )?;
        Ok(Settings {
            node_name,
            interval,
            reporter: format!("{namespace}/{pod}"),
            api_server: format!("https://{host}:{port}"),
            service_account,
        })
    }
}

/// `RUST_LOG`, an env_logger filter: a level, or `target=level`, several with commas between them.
///
/// # Errors
/// If a part is neither. env_logger itself would take a misspelt level for a module's name, and log nothing.
pub fn log_filter(variable: impl Fn(&str) -> Option<String>) -> Result<String, BadSetting> {
    checked(
        &variable,
        "RUST_LOG",
        "a level (off, error, warn, info, debug, trace), or k6u=LEVEL, or several with commas between them",
        Some("info"),
        |v| v.split(',').all(is_log_directive).then(|| v.to_string()),
    )
}

fn is_log_directive(part: &str) -> bool {
    let level = match part.split_once('=') {
        Some((target, level)) if target.starts_with(|c: char| c.is_ascii_alphabetic()) => level,
        Some(_) => return false,
        None => part,
    };
    level.parse::<LevelFilter>().is_ok()
}

/// The value of a variable. An empty one counts as not set: a manifest with a forgotten value has that.
fn set(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variable(name).filter(|value| !value.is_empty())
}

fn checked<T>(
    variable: &impl Fn(&str) -> Option<String>,
    name: &'static str,
    accepted: &'static str,
    default: Option<&str>,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, BadSetting> {
    let value = set(variable, name).or_else(|| default.map(str::to_string));
    match value.as_deref().and_then(read) {
        Some(checked) => Ok(checked),
        None => Err(BadSetting { name, value, accepted }),
    }
}

fn digits(text: &str, lowest: u64, highest: u64) -> Option<u64> {
    let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())??;
    (lowest..=highest).contains(&number).then_some(number)
}

/// The host part of a URL: an IPv6 address goes in brackets (RFC 3986 section 3.2.2).
fn url_host(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => Some(format!("[{address}]")),
        Ok(IpAddr::V4(address)) => Some(address.to_string()),
        Err(_) => {
            // DNS takes capitals, and a dot at the end, which certificates do not have.
            let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
            is_subdomain(&name).then_some(name)
        }
    }
}

/// Whether this is a DNS subdomain name (RFC 1123), the form of node and pod names.
pub fn is_subdomain(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let get = |name: &str| {
            let all = [
                ("NODE_NAME", "node1.example.com"),
                ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
                ("KUBERNETES_SERVICE_PORT", "443"),
            ];
            let found = variables.iter().chain(&all).find(|(n, _)| *n == name);
            found.map(|(_, value)| value.to_string())
        };
        Settings::read(get, || "pod-from-hostname".into()).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.node_name, "node1.example.com");
        assert_eq!(settings.interval, Duration::from_secs(10));
        assert_eq!(settings.reporter, "kube-system/pod-from-hostname");
        assert_eq!(settings.api_server, "https://10.96.0.1:443");
        assert_eq!(settings.service_account, PathBuf::from(SERVICE_ACCOUNT_DIR));
    }

    #[test]
    fn hosts() {
        for (host, url) in [
            ("fd00::1", "https://[fd00::1]:443"),
            ("[fd00::1]", "https://[fd00::1]:443"),
            ("192.0.2.1", "https://192.0.2.1:443"),
            ("api.example.com", "https://api.example.com:443"),
            ("API.example.com", "https://api.example.com:443"),
            ("api.example.com.", "https://api.example.com:443"),
        ] {
            assert_eq!(read(&[("KUBERNETES_SERVICE_HOST", host)]).unwrap().api_server, url);
        }
        for host in [
            "http://127.0.0.1",
            "a/b",
            "a:1",
            "user@host",
            "fd00::1%eth0",
            "a b",
            ".",
            "a..",
            ".a",
        ] {
            assert!(read(&[("KUBERNETES_SERVICE_HOST", host)]).is_err(), "{host}");
        }
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        assert_eq!(
            read(&[("UPDATE_INTERVAL", "")]).unwrap().interval,
            Duration::from_secs(10)
        );
        assert!(
            read(&[("NODE_NAME", "")])
                .unwrap_err()
                .starts_with("NODE_NAME is not set: it must be ")
        );
    }

    #[test]
    fn bad_values_are_named() {
        for (name, bad) in [
            (
                "UPDATE_INTERVAL",
                vec!["0", "86401", "-1", "1.5", "+5", "ten", "10s", "99999999999999999999"],
            ),
            ("KUBERNETES_SERVICE_PORT", vec!["0", "65536", "https"]),
            ("NODE_NAME", vec!["Node1", "a_b", "-a", "a..b", "a/b"]),
            ("POD_NAMESPACE", vec!["kube system"]),
            ("SERVICE_ACCOUNT_DIR", vec!["relative/path"]),
        ] {
            for value in bad {
                let message = read(&[(name, value)]).unwrap_err();
                let start = format!("{name}={value:?} is not accepted: it must be ");
                assert!(message.starts_with(&start) && !message.contains('\n'), "{message}");
            }
        }
    }

    #[test]
    fn intervals_at_both_ends() {
        assert_eq!(
            read(&[("UPDATE_INTERVAL", "1")]).unwrap().interval,
            Duration::from_secs(1)
        );
        assert_eq!(
            read(&[("UPDATE_INTERVAL", "86400")]).unwrap().interval,
            Duration::from_secs(86_400)
        );
    }

    #[test]
    fn log_filters() {
        let filter = |value: &'static str| log_filter(|_| Some(value.to_string()));
        for good in ["info", "off", "k6u=debug", "warn,k6u::apply=trace", "INFO"] {
            assert_eq!(filter(good).unwrap(), good);
        }
        for bad in ["verbose", "k6u=loud", "=info", "info,", "info,,warn"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
        assert_eq!(log_filter(|_| None).unwrap(), "info");
    }
}
