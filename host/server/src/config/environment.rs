//! The process environment, behind a trait: the only place that reads it, so that tests pass a map.

use std::collections::BTreeMap;

/// Prefix of every variable that is ours.
pub const PREFIX: &str = "TIDEGATE_";

/// Prefix of the variables that Centrifugo reads and we do not.
const CENTRIFUGO_PREFIX: &str = "CENTRIFUGO_";

/// Variables of the command line rather than of the configuration.
const COMMAND_LINE: &[&str] = &[
    "TIDEGATE_CONFIG",
    "TIDEGATE_URL",
    "TIDEGATE_API_KEY",
    "TIDEGATE_ADMIN_URL",
    "TIDEGATE_ADMIN_KEY",
];

/// Where environment variables come from.
pub trait Environment {
    /// All variables whose name starts with [`PREFIX`] or is Centrifugo's.
    fn all(&self) -> BTreeMap<String, String>;

    /// One variable; empty counts as not set.
    fn lookup(&self, name: &str) -> Option<String> {
        self.all().remove(name).filter(|value| !value.is_empty())
    }

    /// The variables that set configuration keys; an empty one counts as not set.
    fn variables(&self) -> Vec<(String, String)> {
        self.all()
            .into_iter()
            .filter(|(name, value)| {
                !value.is_empty()
                    && name.starts_with(PREFIX)
                    && !COMMAND_LINE.contains(&name.as_str())
                    && !is_service_link(name)
            })
            .collect()
    }

    /// Names of the variables that set keys of Centrifugo and nothing here.
    fn centrifugo_variables(&self) -> Vec<String> {
        let all = self.all().into_iter();
        all.filter(|(name, value)| {
            !value.is_empty() && name.starts_with(CENTRIFUGO_PREFIX) && !is_service_link(name)
        })
        .map(|(name, _)| name)
        .collect()
    }
}

/// What to set in place of a variable of Centrifugo, by the rule that both have: prefix, then the key's path.
pub(super) fn in_place_of(name: &str) -> String {
    let rest = name.strip_prefix(CENTRIFUGO_PREFIX).unwrap_or(name);
    format!("{PREFIX}{rest}")
}

/// Kubernetes gives every pod the addresses of services; of one named `tidegate` they have our prefix.
fn is_service_link(name: &str) -> bool {
    let rest = name
        .strip_prefix(PREFIX)
        .or_else(|| name.strip_prefix(CENTRIFUGO_PREFIX))
        .unwrap_or(name);
    let is_port = |text: &str| text.starts_with(|char: char| char.is_ascii_digit());
    rest == "PORT"
        || rest.ends_with("SERVICE_HOST")
        || rest.ends_with("SERVICE_PORT")
        || rest.contains("SERVICE_PORT_")
        || rest
            .rsplit_once("PORT_")
            .is_some_and(|(_, port)| is_port(port))
}

/// The real one.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn all(&self) -> BTreeMap<String, String> {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(PREFIX) || name.starts_with(CENTRIFUGO_PREFIX))
            .collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn all(&self) -> BTreeMap<String, String> {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_command_line_and_of_service_links_are_not_keys() {
        let names = [
            "TIDEGATE_ADMIN_KEY",
            "TIDEGATE_PORT",
            "TIDEGATE_SERVICE_HOST",
            "TIDEGATE_PORT_8000_TCP_ADDR",
            "TIDEGATE_HTTP_SERVER_PORT",
        ];
        let environment: BTreeMap<String, String> = names
            .iter()
            .map(|name| ((*name).to_owned(), "1".to_owned()))
            .collect();
        let variables = environment.variables();
        assert_eq!(
            variables,
            [("TIDEGATE_HTTP_SERVER_PORT".to_owned(), "1".to_owned())]
        );
        assert_eq!(
            environment.lookup("TIDEGATE_ADMIN_KEY").as_deref(),
            Some("1")
        );
    }
}
