//! Channel names: what a name says before anybody looks into a store.
//!
//! Owns the reading of a name (private prefix, namespace, user list) and the rules a client's name must keep.
//! The server API bypasses the second half (client-protocol section 15.2), never the first.

use std::sync::Arc;

use tidegate_protocol::ErrorCode;

use crate::namespace::{ChannelConfig, NamespaceOptions};

/// A name that was looked up.
#[derive(Debug, Clone)]
pub struct Resolved<'a> {
    pub options: &'a Arc<NamespaceOptions>,
    /// The name of the namespace; empty for names without one.
    pub namespace: &'a str,
    /// Begins with the private prefix.
    pub is_private: bool,
    /// The name after prefix and namespace.
    rest: &'a str,
    /// The list after the last user boundary, where the namespace reads it so.
    users: Option<&'a str>,
    user_separator: char,
}

/// Why a name cannot be used, with a sentence for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error("bad request: the channel name is empty")]
    Empty,
    #[error("bad request: the channel name is too long")]
    TooLong,
    #[error("unknown channel: its namespace is not defined")]
    UnknownNamespace,
    #[error("bad request: channel names are printable ASCII")]
    NotPrintable,
    #[error("bad request: the channel name does not match the pattern of its namespace")]
    Pattern,
}

impl BadName {
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::UnknownNamespace => ErrorCode::UnknownChannel,
            Self::Empty | Self::TooLong | Self::NotPrintable | Self::Pattern => {
                ErrorCode::BadRequest
            }
        }
    }
}

impl ChannelConfig {
    /// Finds the namespace of `name`, as the server API does: no rule but that it exists, and that the name is
    /// neither empty nor too long.
    ///
    /// # Errors
    /// See [`BadName`].
    pub fn resolve<'a>(&'a self, name: &'a str) -> Result<Resolved<'a>, BadName> {
        if name.is_empty() {
            return Err(BadName::Empty);
        }
        if name.len() > self.max_name_bytes {
            return Err(BadName::TooLong);
        }
        let (is_private, bare) = match name.strip_prefix(self.private_prefix) {
            Some(bare) => (true, bare),
            None => (false, name),
        };
        let (namespace, rest, options) = match bare.split_once(self.namespace_boundary) {
            Some((namespace, rest)) => {
                let options = self
                    .namespaces
                    .get(namespace)
                    .ok_or(BadName::UnknownNamespace)?;
                (namespace, rest, options)
            }
            None => ("", bare, &self.without_namespace),
        };
        let users = options
            .allow_user_limited_channels
            .then(|| bare.rsplit_once(self.user_boundary))
            .flatten()
            .map(|(_, users)| users);
        Ok(Resolved {
            options,
            namespace,
            is_private,
            rest,
            users,
            user_separator: self.user_separator,
        })
    }

    /// The name of a user's personal channel.
    pub fn personal(&self, namespace: &str, user: &str) -> String {
        let mut name = String::with_capacity(namespace.len() + user.len() + 2);
        if !namespace.is_empty() {
            name.push_str(namespace);
            name.push(self.namespace_boundary);
        }
        name.push(self.user_boundary);
        name.push_str(user);
        name
    }

    /// [`ChannelConfig::resolve`] and the rules for names that clients choose.
    ///
    /// # Errors
    /// See [`BadName`].
    pub fn resolve_for_client<'a>(&'a self, name: &'a str) -> Result<Resolved<'a>, BadName> {
        let resolved = self.resolve(name)?;
        if !name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(BadName::NotPrintable);
        }
        let fits = resolved
            .options
            .channel_regex
            .as_ref()
            .is_none_or(|pattern| pattern.is_match(resolved.rest));
        if fits {
            Ok(resolved)
        } else {
            Err(BadName::Pattern)
        }
    }
}

impl Resolved<'_> {
    /// Whether the name says who may subscribe.
    pub fn is_user_limited(&self) -> bool {
        self.users.is_some()
    }

    /// Whether the name's list holds `user`. An anonymous client is in no list.
    pub fn lists(&self, user: &str) -> bool {
        !user.is_empty()
            && self.users.is_some_and(|users| {
                users
                    .split(self.user_separator)
                    .any(|listed| listed == user)
            })
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    fn config() -> ChannelConfig {
        let mut config = ChannelConfig::default();
        let chat = NamespaceOptions {
            allow_user_limited_channels: true,
            ..NamespaceOptions::default()
        };
        let numbers = NamespaceOptions {
            channel_regex: Some(Regex::new("^[0-9]+$").unwrap()),
            ..NamespaceOptions::default()
        };
        config.namespaces.insert("chat".into(), Arc::new(chat));
        config
            .namespaces
            .insert("numbers".into(), Arc::new(numbers));
        config
    }

    #[track_caller]
    fn check(name: &str, expected: Result<(&str, bool), BadName>) {
        let config = config();
        let found = config
            .resolve_for_client(name)
            .map(|resolved| (resolved.namespace, resolved.is_private));
        assert_eq!(found, expected, "{name:?}");
    }

    #[test]
    fn names_are_read_as_the_reference_reads_them() {
        check("news", Ok(("", false)));
        check("chat:room", Ok(("chat", false)));
        check("$chat:room", Ok(("chat", true)));
        check("chat:a:b", Ok(("chat", false)));
        check("$news", Ok(("", true)));
        check("other:room", Err(BadName::UnknownNamespace));
        check(":room", Err(BadName::UnknownNamespace));
        check("", Err(BadName::Empty));
        check("chat:böse", Err(BadName::NotPrintable));
        check("chat:\0", Err(BadName::NotPrintable));
        check("chat:\n", Err(BadName::NotPrintable));
        check("numbers:12", Ok(("numbers", false)));
        check("numbers:1x", Err(BadName::Pattern));
        check("$numbers:12", Ok(("numbers", true)));
        check(&"x".repeat(255), Ok(("", false)));
        check(&"x".repeat(256), Err(BadName::TooLong));
    }

    #[test]
    fn user_limited_names_admit_the_listed_users_only() {
        #[track_caller]
        fn check(name: &str, user: &str, expected: Option<bool>) {
            let config = config();
            let resolved = config.resolve(name).unwrap();
            let listed = resolved.is_user_limited().then(|| resolved.lists(user));
            assert_eq!(listed, expected, "{name:?} for {user:?}");
        }
        check("chat:dialog#42,43", "42", Some(true));
        check("chat:dialog#42,43", "43", Some(true));
        check("chat:dialog#42,43", "4", Some(false));
        check("chat:dialog#42,43", "", Some(false));
        check("chat:dialog#", "", Some(false));
        check("chat:a#42#43", "42", Some(false));
        check("chat:a#42#43", "43", Some(true));
        check("chat:dialog", "42", None);
        // The namespace does not read the boundary.
        check("dialog#42", "42", None);
    }
}
