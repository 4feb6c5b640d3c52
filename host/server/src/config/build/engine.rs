//! The section `engine`: where publications and history live.
//!
//! Addresses are URLs as in the reference, `redis://user:password@host:port/db`, or a bare `host:port`. Problems do not
//! repeat an address, which may hold a password.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use tidegate_redis::{
    RedisConfig, Topology,
    config::{Ack, Address, Login, MAX_CONNECT_TIMEOUT, MAX_IN_FLIGHT, MAX_IO_TIMEOUT},
    keys::Prefix,
};
use tidegate_tls::{BadTls, Tls};

use super::{
    super::{EngineConfig, settings::Scope, tree::Problem},
    at_least, tls,
};
use crate::causes::in_one_line;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// What an address may look like, for problems.
const EXAMPLE: &str = "\"redis://user:password@redis.example.com:6379\", with rediss:// for TLS";

pub(super) fn engine(root: &Scope, problems: &mut Vec<Problem>) -> EngineConfig {
    let engine = root.text("engine.type");
    let ack = ack(root, problems);
    match engine.as_str() {
        "memory" => {
            if ack == Ack::Replicated {
                let message = "the memory engine has no replicas; use \"primary\", or engine.type = \"redis\"";
                problems.push(root.problem("publish.ack", message));
            }
        }
        "redis" => {
            if let Some(config) = redis(root, ack, problems) {
                return EngineConfig::Redis(Box::new(config));
            }
        }
        "" => problems.push(root.problem("engine.type", "use \"memory\" or \"redis\"")),
        _ => problems.push(root.problem(
            "engine.type",
            format!("`{engine}` is not an engine; use \"memory\" or \"redis\""),
        )),
    }
    EngineConfig::Memory {
        max_bytes: root.size("engine.memory.max_bytes"),
    }
}

fn ack(root: &Scope, problems: &mut Vec<Problem>) -> Ack {
    let ack = root.text("publish.ack");
    match ack.as_str() {
        "primary" => Ack::Primary,
        "replicated" => Ack::Replicated,
        _ => {
            let message = format!("`{ack}` is not one; use \"primary\" or \"replicated\"");
            problems.push(root.problem("publish.ack", message));
            Ack::Primary
        }
    }
}

/// `None` after a problem.
fn redis(root: &Scope, ack: Ack, problems: &mut Vec<Problem>) -> Option<RedisConfig> {
    let prefix = Prefix::parse(&root.text("engine.redis.prefix"));
    if let Err(error) = &prefix {
        problems.push(root.problem("engine.redis.prefix", error.to_string()));
    }
    let connect_timeout = bounded(
        root,
        "engine.redis.connect_timeout",
        MAX_CONNECT_TIMEOUT,
        problems,
    );
    let io_timeout = bounded(root, "engine.redis.io_timeout", MAX_IO_TIMEOUT, problems);
    let presence_ttl = at_least(
        root,
        "engine.redis.presence_ttl",
        Duration::from_secs(1),
        problems,
    );
    let shards = shards(root, problems);
    let shards = shards.filter(|shards| !shards.is_empty())?;
    Some(RedisConfig {
        prefix: prefix.ok()?,
        shards,
        connect_timeout,
        io_timeout,
        presence_ttl,
        max_in_flight: MAX_IN_FLIGHT,
        ack,
    })
}

fn bounded(root: &Scope, name: &str, most: Duration, problems: &mut Vec<Problem>) -> Duration {
    // Less would take every hiccup of a network for an outage.
    let value = at_least(root, name, Duration::from_millis(100), problems);
    if value > most {
        problems.push(root.problem(
            name,
            format!(
                "must be at most {most:?}, so that every command to Redis ends within five seconds"
            ),
        ));
    }
    value.min(most)
}

fn shards(root: &Scope, problems: &mut Vec<Problem>) -> Option<Vec<Topology>> {
    let tls = tls_setting(root, "engine.redis.tls", problems);
    let sentinel_tls = tls_if(root, "engine.redis.sentinel_tls", problems);
    let (sentinels, seeds) = (
        root.texts("engine.redis.sentinel_address"),
        root.texts("engine.redis.cluster_address"),
    );
    match (seeds.is_empty(), sentinels.is_empty()) {
        (false, false) => {
            problems.push(root.problem(
                "engine.redis.cluster_address",
                "engine.redis.sentinel_address is set too; a Cluster needs no sentinels, keep one of the two",
            ));
            None
        }
        (false, true) => {
            let parsed = addresses(
                root,
                "engine.redis.cluster_address",
                &seeds,
                REDIS_PORT,
                problems,
            )?;
            let login = login(root, parsed.first()?, &tls, problems)?;
            if login.db != 0 {
                problems.push(root.problem("engine.redis.db", "a Cluster has database 0 alone"));
            }
            Some(vec![Topology::Cluster {
                seeds: parsed.into_iter().map(|parsed| parsed.address).collect(),
                login,
            }])
        }
        (true, false) => {
            let name = "engine.redis.sentinel_address";
            let parsed = addresses(root, name, &sentinels, SENTINEL_PORT, problems)?;
            let master_name = root.text("engine.redis.sentinel_master_name");
            if master_name.is_empty() {
                problems.push(root.problem(
                    "engine.redis.sentinel_master_name",
                    "say what the sentinels call the primary, as in their `sentinel monitor NAME …`",
                ));
            }
            let of_primary = ParsedAddress::default();
            let sentinel_login = Login {
                user: root.text("engine.redis.sentinel_user").into(),
                password: secret(root, "engine.redis.sentinel_password"),
                tls: sentinel_tls,
                ..Login::default()
            };
            Some(vec![Topology::Sentinel {
                sentinels: parsed.into_iter().map(|parsed| parsed.address).collect(),
                sentinel_login,
                master_name: master_name.into(),
                login: login(root, &of_primary, &tls, problems)?,
            }])
        }
        (true, true) => {
            let name = "engine.redis.address";
            let parsed = addresses(root, name, &root.texts(name), REDIS_PORT, problems)?;
            let shards = parsed.iter().map(|parsed| {
                Some(Topology::Standalone {
                    address: parsed.address.clone(),
                    login: login(root, parsed, &tls, problems)?,
                })
            });
            shards.collect()
        }
    }
}

/// What an address says over what the other keys say.
fn login(
    root: &Scope,
    parsed: &ParsedAddress,
    tls: &TlsSetting,
    problems: &mut Vec<Problem>,
) -> Option<Login> {
    let db = i64::try_from(root.count("engine.redis.db")).unwrap_or(0);
    let user = parsed.user.clone();
    let password = parsed.password.clone();
    let tls = match (parsed.is_tls || tls.is_enabled, &tls.built) {
        (false, _) => None,
        (true, Ok(tls)) => Some(tls.clone()),
        (true, Err(error)) => {
            problems.push(root.problem("engine.redis.tls", in_one_line(error)));
            return None;
        }
    };
    Some(Login {
        user: user
            .unwrap_or_else(|| root.text("engine.redis.user"))
            .into(),
        password: password.map_or_else(|| secret(root, "engine.redis.password"), Into::into),
        db: parsed.db.unwrap_or(db),
        client_name: root.text("engine.redis.client_name").into(),
        tls,
    })
}

fn secret(root: &Scope, name: &str) -> Box<str> {
    let secret = root.secret(name);
    secret.map_or_else(Box::default, |secret| secret.expose().into())
}

#[derive(Debug, Default, PartialEq)]
struct ParsedAddress {
    address: Address,
    user: Option<String>,
    password: Option<String>,
    db: Option<i64>,
    is_tls: bool,
}

/// `None` after a problem.
fn addresses(
    root: &Scope,
    name: &str,
    texts: &[String],
    default_port: u16,
    problems: &mut Vec<Problem>,
) -> Option<Vec<ParsedAddress>> {
    if texts.is_empty() {
        problems.push(root.problem(name, format!("name at least one address, as in {EXAMPLE}")));
        return None;
    }
    let parsed: Option<Vec<_>> = texts
        .iter()
        .map(|text| parse_address(text, default_port))
        .collect();
    if parsed.is_none() {
        let message = format!("an address is not one; write {EXAMPLE}");
        problems.push(root.problem(name, message));
    }
    parsed
}

fn parse_address(text: &str, default_port: u16) -> Option<ParsedAddress> {
    let (is_tls, rest) = match text.split_once("://") {
        Some(("redis", rest)) => (false, rest),
        Some(("rediss", rest)) => (true, rest),
        Some(_) => return None,
        None => (false, text),
    };
    let (rest, db) = match rest.split_once('/') {
        Some((rest, "")) => (rest, None),
        Some((rest, db)) => (rest, Some(db.parse::<u16>().ok()?.into())),
        None => (rest, None),
    };
    let decode = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8().ok()?;
        Some(decoded.into_owned())
    };
    let (user, password, rest) = match rest.rsplit_once('@') {
        None => (None, None, rest),
        Some((credentials, rest)) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            let given = |text: &str| match text {
                "" => Some(None),
                text => decode(text).map(Some),
            };
            (given(user)?, given(password)?, rest)
        }
    };
    let (host, port) = split_port(rest)?;
    let is_host = !host.is_empty()
        && !host.contains(|char: char| char.is_whitespace() || "/?#@{},".contains(char));
    is_host.then(|| ParsedAddress {
        address: Address::new(host, port.unwrap_or(default_port)),
        user,
        password,
        db,
        is_tls,
    })
}

/// Host and port; an IPv6 address stands in brackets.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((text, None)),
    }
}

/// TLS as configured, whether or not an address asks for it.
struct TlsSetting {
    is_enabled: bool,
    built: Result<Tls, BadTls>,
}

fn tls_if(root: &Scope, section: &str, problems: &mut Vec<Problem>) -> Option<Tls> {
    let setting = tls_setting(root, section, problems);
    match (setting.is_enabled, setting.built) {
        (false, _) => None,
        (true, Ok(tls)) => Some(tls),
        (true, Err(error)) => {
            problems.push(root.problem(section, in_one_line(&error)));
            None
        }
    }
}

fn tls_setting(root: &Scope, section: &str, problems: &mut Vec<Problem>) -> TlsSetting {
    TlsSetting {
        is_enabled: root.flag(&format!("{section}.enabled")),
        built: Tls::build(tls::files(root, section, problems)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: impl Into<Option<ParsedAddress>>) {
        assert_eq!(parse_address(text, REDIS_PORT), expected.into(), "{text}");
    }

    fn at(host: &str, port: u16) -> ParsedAddress {
        ParsedAddress {
            address: Address::new(host, port),
            ..ParsedAddress::default()
        }
    }

    #[test]
    fn addresses_are_urls_or_host_and_port() {
        check("redis://127.0.0.1:6380", Some(at("127.0.0.1", 6380)));
        check("redis.internal:7000", Some(at("redis.internal", 7000)));
        check("redis", Some(at("redis", 6379)));
        check("redis://[::1]:6380", Some(at("::1", 6380)));
        check(
            "rediss://app:p%40ss:word@redis.example.com/3",
            Some(ParsedAddress {
                user: Some("app".to_owned()),
                password: Some("p@ss:word".to_owned()),
                db: Some(3),
                is_tls: true,
                ..at("redis.example.com", 6379)
            }),
        );
        check(
            "redis://:secret@redis",
            Some(ParsedAddress {
                password: Some("secret".to_owned()),
                ..at("redis", 6379)
            }),
        );
        for bad in [
            "",
            "redis://",
            "http://redis",
            "redis:port",
            "redis://a b",
            "redis://host:99999",
            "redis://host/x",
            "[::1",
            "[host]",
            "a,b",
            "redis://host?protocol=3",
        ] {
            check(bad, None);
        }
    }
}
