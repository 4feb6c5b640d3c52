//! Which web pages may open a connection (threat model T3): cross-site WebSocket hijacking is stopped here.
//!
//! Owns the allow-list `client.allowed_origins` and its globs. Invariant: an origin is compared as scheme, host
//! and port together; no part of it is ever compared as a prefix or suffix.

use globset::{GlobBuilder, GlobMatcher};
use http::{HeaderMap, header};

/// The checked allow-list.
#[derive(Debug, Clone, Default)]
pub struct AllowedOrigins {
    patterns: Vec<GlobMatcher>,
    allows_all: bool,
}

/// A pattern of the allow-list that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{pattern}' is not an origin pattern: write scheme://host:port, where * stands for any text, or * alone"
)]
pub struct BadOriginPattern {
    pattern: String,
}

impl AllowedOrigins {
    /// # Errors
    /// [`BadOriginPattern`] names the first entry that can't be read.
    pub fn parse<I>(patterns: I) -> Result<Self, BadOriginPattern>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut origins = Self::default();
        for pattern in patterns {
            let pattern = pattern.as_ref().to_ascii_lowercase();
            if pattern == "*" {
                origins.allows_all = true;
                continue;
            }
            let glob = GlobBuilder::new(&pattern)
                .literal_separator(false)
                .build()
                .map_err(|_| BadOriginPattern { pattern })?;
            origins.patterns.push(glob.compile_matcher());
        }
        Ok(origins)
    }

    /// Every page may connect: worth a warning at start.
    pub fn allows_all(&self) -> bool {
        self.allows_all
    }

    /// Decides by the request's `Origin` and `Host`. Without an `Origin` it is not a browser, and passes,
    /// because no credential of ours is a cookie.
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else {
            return true;
        };
        if origins.next().is_some() {
            return false;
        }
        if self.allows_all {
            return true;
        }
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        let origin = origin.to_ascii_lowercase();
        is_host(&origin, headers)
            || self
                .patterns
                .iter()
                .any(|pattern| pattern.is_match(&origin))
    }
}

/// Whether the origin is the very host that was asked. A host that names no port stands for the scheme's.
fn is_host(origin: &str, headers: &HeaderMap) -> bool {
    let Some(host) = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
    else {
        return false;
    };
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let host = host.to_ascii_lowercase();
    let without_port = |text: &str| text.strip_suffix(default_port).unwrap_or(text).to_owned();
    !host.is_empty() && without_port(authority) == without_port(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(patterns: &[&str], host: &str, origin: Option<&str>, expected: bool) {
        let origins = AllowedOrigins::parse(patterns).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        assert_eq!(
            origins.allows(&headers),
            expected,
            "{patterns:?} {host} {origin:?}"
        );
    }

    #[test]
    fn t3_without_an_origin_anybody_passes() {
        check(&[], "example.com", None, true);
        check(&["https://app.example.com"], "example.com", None, true);
    }

    #[test]
    fn t3_an_origin_equal_to_the_host_passes() {
        check(&[], "example.com", Some("https://example.com"), true);
        check(&[], "example.com", Some("http://EXAMPLE.com"), true);
        check(
            &[],
            "example.com:8000",
            Some("http://example.com:8000"),
            true,
        );
        check(&[], "example.com:443", Some("https://example.com"), true);
        check(&[], "example.com:8000", Some("http://example.com"), false);
        check(&[], "example.com", Some("http://example.com:8000"), false);
        check(&[], "example.com", Some("file://example.com"), false);
    }

    #[test]
    fn t3_other_origins_need_the_allow_list() {
        check(&[], "example.com", Some("https://evil.com"), false);
        check(&[], "example.com", Some("null"), false);
        check(
            &["https://app.io"],
            "example.com",
            Some("https://app.io"),
            true,
        );
        check(
            &["https://app.io"],
            "example.com",
            Some("https://APP.io"),
            true,
        );
        check(&["https://*.app.io"], "x", Some("https://a.app.io"), true);
        check(&["https://*.app.io"], "x", Some("https://app.io"), false);
        check(
            &["http://localhost:*"],
            "x",
            Some("http://localhost:3000"),
            true,
        );
        check(&["*"], "x", Some("https://evil.com"), true);
    }

    #[test]
    fn t3_tricks_with_suffix_port_and_scheme_are_refused() {
        for origin in [
            "https://evil-app.io",
            "https://app.io.evil.com",
            "https://app.io:8443",
            "http://app.io",
            "https://app.io@evil.com",
            "https://xn--pp-kia.io",
            "",
        ] {
            check(&["https://app.io"], "x", Some(origin), false);
        }
    }

    #[test]
    fn t3_two_origins_are_refused() {
        let origins = AllowedOrigins::parse(["*"]).unwrap();
        let mut headers = HeaderMap::new();
        headers.append(header::ORIGIN, "https://a.io".parse().unwrap());
        headers.append(header::ORIGIN, "https://b.io".parse().unwrap());
        assert!(!origins.allows(&headers));
    }

    #[test]
    fn a_pattern_that_is_none_is_named() {
        let error = AllowedOrigins::parse(["https://[.io"]).unwrap_err();
        assert!(error.to_string().contains("https://[.io"), "{error}");
    }
}
