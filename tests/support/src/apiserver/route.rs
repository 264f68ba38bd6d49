//! The parts of a path of the Kubernetes API.

/// A path of the Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version; empty when the path names a group only.
    pub version: String,
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// The plural name of the resource; empty when the path is for discovery.
    pub resource: String,
    /// The name of the object; empty for the list.
    pub name: String,
    /// Such as `status`.
    pub subresource: String,
}

impl Route {
    /// Parses a path; `None` if it is not one of the API.
    pub fn of(path: &str) -> Option<Route> {
        let mut parts = path.strip_prefix('/')?.split('/').map(String::from);
        let group = match parts.next()?.as_str() {
            "api" => String::new(),
            "apis" => parts.next()?,
            _ => return None,
        };
        let version = parts.next().unwrap_or_default();
        let mut route = Route {
            group,
            version,
            ..Route::default()
        };
        let mut next = parts.next().unwrap_or_default();
        if next == "namespaces" {
            route.namespace = parts.next()?;
            next = parts.next().unwrap_or_default();
        }
        route.resource = next;
        route.name = parts.next().unwrap_or_default();
        route.subresource = parts.next().unwrap_or_default();
        parts.next().is_none().then_some(route)
    }

    /// `group/version`, or the version alone in the core group.
    pub fn group_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `resource.group`, as messages name it.
    pub fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.resource.clone(),
            group => format!("{}.{group}", self.resource),
        }
    }
}
