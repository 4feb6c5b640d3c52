//! Where the database is and how it is reached, made from what the operator wrote.
//!
//! Invariant: the password leaves this type for the connection alone, neither in an error nor in `Debug`.

use std::{fmt, net::IpAddr, time::Duration};

use tokio_postgres::{
    Config,
    config::{Host, SslMode, TargetSessionAttrs},
};

use tidegate_tls::{BadTls, TlsFiles};

use super::tls::Connector;

/// Longest wait for a connection, with everything that is said before the first query.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How the name of a schema may be written, so that it needs no thought in any SQL.
const MAX_SCHEMA_BYTES: usize = 63;

/// What the operator wrote.
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    /// `postgresql://user:password@host:port/database?sslmode=…`.
    pub url: crate::Secret,
    /// The schema that holds our tables.
    pub schema: String,
    pub tls: TlsFiles,
    /// How old a node's copy may be for a start without the database; `None`: as old as it is.
    pub max_copy_age: Option<Duration>,
}

/// How to reach the database.
#[derive(Clone)]
pub struct PostgresConfig {
    pub(super) config: Config,
    pub(super) schema: String,
    pub(super) tls: Connector,
    max_copy_age: Option<Duration>,
}

/// Why the settings make no connection; the text names the setting below `control.postgres`.
#[derive(Debug, thiserror::Error)]
pub enum BadPostgres {
    #[error(
        "url: no address of a PostgreSQL database; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE (characters of the password that mean something in an address are written as %xx)"
    )]
    Url,
    #[error("url: {0} is missing; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")]
    Missing(&'static str),
    #[error(
        "url: sslmode is one of disable, prefer, require, verify-ca and verify-full; the last three are the same here: the server's certificate and its name are checked"
    )]
    SslMode,
    #[error("schema: 1 to {MAX_SCHEMA_BYTES} bytes of [a-z0-9_], a letter or _ first")]
    Schema,
    #[error("tls")]
    Tls(#[from] BadTls),
}

impl PostgresConfig {
    /// # Errors
    /// [`BadPostgres`] names the setting and never its value.
    pub fn parse(settings: PostgresSettings) -> Result<Self, BadPostgres> {
        let PostgresSettings {
            url,
            schema,
            tls,
            max_copy_age,
        } = settings;
        if !is_schema(&schema) {
            return Err(BadPostgres::Schema);
        }
        let url = url.reveal();
        if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
            return Err(BadPostgres::Url);
        }
        // The client knows fewer modes than libpq, and checks nothing in any of them: that is the connector's.
        let (plain, mode) = without_ssl_mode(url);
        let mut config: Config = plain.parse().map_err(|_| BadPostgres::Url)?;
        let mode = match mode.as_deref() {
            // Whoever is in between would have the secrets that sign tokens, for the asking.
            None if !is_on_this_machine(&config) => SslMode::Require,
            None | Some("prefer") => SslMode::Prefer,
            Some("disable") => SslMode::Disable,
            Some("require" | "verify-ca" | "verify-full") => SslMode::Require,
            Some(_) => return Err(BadPostgres::SslMode),
        };
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(BadPostgres::Missing("the host"));
        }
        if config.get_user().is_none_or(str::is_empty) {
            return Err(BadPostgres::Missing("the user"));
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err(BadPostgres::Missing("the database"));
        }
        config.ssl_mode(mode).connect_timeout(CONNECT_TIMEOUT);
        // The one that listens says nothing for hours: without these it would not hear that the server is gone.
        config
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(2)
            .tcp_user_timeout(Duration::from_secs(15));
        if config.get_application_name().is_none() {
            config.application_name("tidegate");
        }
        if config.get_hosts().len() > 1 {
            // Of several the one that takes changes, whichever that is after a failover.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let tls = Connector::new(tls, mode)?;
        Ok(Self {
            config,
            schema,
            tls,
            max_copy_age,
        })
    }

    /// How old a node's copy may be for a start without the database; `None`: as old as it is.
    pub fn max_copy_age(&self) -> Option<Duration> {
        self.max_copy_age
    }

    /// Whether somebody between this node and its database can read and change what they say: TLS is no must.
    pub fn is_exposed(&self) -> bool {
        self.config.get_ssl_mode() != SslMode::Require && !is_on_this_machine(&self.config)
    }

    /// Whether TLS is a must, and any certificate will do.
    pub fn trusts_anybody(&self) -> bool {
        self.config.get_ssl_mode() == SslMode::Require && !self.tls.is_checked()
    }

    /// Which database this is, without a word of who asks: hosts, ports, database, schema.
    pub fn place(&self) -> String {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let addresses = self.config.get_hostaddrs().iter().map(ToString::to_string);
        let hosts: Vec<String> = hosts.chain(addresses).collect();
        let mut ports: Vec<String> = match self.config.get_ports() {
            [] => vec!["5432".to_owned()],
            ports => ports.iter().map(ToString::to_string).collect(),
        };
        ports.dedup();
        format!(
            "{}:{}/{}/{}",
            hosts.join(","),
            ports.join(","),
            self.config.get_dbname().unwrap_or_default(),
            self.schema
        )
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresConfig")
            .field(&self.place())
            .finish()
    }
}

/// Whether nobody is in between: a socket, or the loopback.
fn is_on_this_machine(config: &Config) -> bool {
    let addresses = config.get_hostaddrs();
    let is_local = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
            name == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
    };
    // Where there are addresses, names are for certificates alone.
    if addresses.is_empty() {
        config.get_hosts().iter().all(is_local)
    } else {
        addresses.iter().all(IpAddr::is_loopback)
    }
}

fn is_schema(name: &str) -> bool {
    let is_word = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    (1..=MAX_SCHEMA_BYTES).contains(&name.len())
        && name.bytes().all(is_word)
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.starts_with("pg_")
}

/// The address without its `sslmode`, and that.
fn without_ssl_mode(url: &str) -> (String, Option<String>) {
    let Some((place, query)) = url.split_once('?') else {
        return (url.to_owned(), None);
    };
    let mut mode = None;
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| match pair.strip_prefix("sslmode=") {
            Some(value) => {
                mode = Some(value.to_owned());
                false
            }
            None => !pair.is_empty(),
        })
        .collect();
    if rest.is_empty() {
        (place.to_owned(), mode)
    } else {
        (format!("{place}?{}", rest.join("&")), mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, schema: &str) -> Result<PostgresConfig, BadPostgres> {
        PostgresConfig::parse(PostgresSettings {
            url: crate::Secret::stored(url.to_owned()),
            schema: schema.to_owned(),
            tls: TlsFiles {
                // The machine that tests may have no roots.
                insecure_skip_verify: true,
                ..TlsFiles::default()
            },
            max_copy_age: None,
        })
    }

    #[track_caller]
    fn refuses(url: &str, says: &str) {
        let error = parse(url, "tidegate").unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn an_address_is_understood_and_its_password_is_not_shown() {
        let config = parse(
            "postgresql://tide:hunter2@db.internal:6432/control?sslmode=verify-full&application_name=x",
            "tidegate",
        )
        .unwrap();
        assert_eq!(config.place(), "db.internal:6432/control/tidegate");
        assert_eq!(config.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(config.config.get_application_name(), Some("x"));
        assert!(!format!("{config:?}").contains("hunter2"));
        let config = parse("postgres://u@a,b/c", "tidegate").unwrap();
        assert_eq!(config.place(), "a,b:5432/c/tidegate");
    }

    #[test]
    fn p5_without_a_word_tls_is_a_must_but_for_this_machine() {
        for (place, mode, is_exposed) in [
            ("db.internal/d", SslMode::Require, false),
            ("db.internal/d?sslmode=prefer", SslMode::Prefer, true),
            ("db.internal/d?sslmode=disable", SslMode::Disable, true),
            ("db.internal/d?sslmode=verify-full", SslMode::Require, false),
            ("10.0.0.1/d", SslMode::Require, false),
            ("localhost/d", SslMode::Prefer, false),
            ("127.0.0.1,127.0.0.2/d", SslMode::Prefer, false),
            ("127.0.0.1/d?sslmode=disable", SslMode::Disable, false),
            ("[::1]/d", SslMode::Prefer, false),
            ("%2Frun%2Fpostgresql/d", SslMode::Prefer, false),
            ("localhost,db.internal/d", SslMode::Require, false),
            ("localhost/d?hostaddr=10.0.0.1", SslMode::Require, false),
            ("db/d?hostaddr=127.0.0.1", SslMode::Prefer, false),
        ] {
            let config = parse(&format!("postgresql://u:hunter2@{place}"), "tidegate").unwrap();
            assert_eq!(config.config.get_ssl_mode(), mode, "{place}");
            assert_eq!(config.is_exposed(), is_exposed, "{place}");
            assert_eq!(config.trusts_anybody(), mode == SslMode::Require, "{place}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_the_setting_and_without_its_value() {
        refuses("mysql://u:hunter2@h/d", "no address");
        refuses("host=h password=hunter2", "no address");
        refuses("postgresql://u:hunter2@h:port/d", "no address");
        refuses("postgresql://:hunter2@h/d", "the user");
        refuses("postgresql://u:hunter2@h", "the database");
        refuses("postgresql://u:hunter2@/d", "the host");
        refuses(
            "postgresql://u:hunter2@h/d?sslmode=maybe",
            "sslmode is one of",
        );
        for schema in ["", "Upper", "a-b", "1a", "pg_x", &"a".repeat(64), "a\"b"] {
            let refused = parse("postgresql://u@h/d", schema);
            assert!(matches!(refused, Err(BadPostgres::Schema)), "{schema}");
        }
    }
}
