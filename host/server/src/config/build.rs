//! Settings to the validated [`Config`]: what values mean, alone and together.
//!
//! Each section is built by one function that adds its problems to the common list and goes on with a harmless
//! value, so that all problems are found. The result is thrown away when there is one.

mod channels;
mod control;
mod engine;
mod tls;

use std::{
    net::IpAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use http::HeaderName;
use ipnet::IpNet;
use regex::Regex;
use tidegate_sandbox::{Class, Hook, StateQuotas};

use super::{
    ADMIN_KEY_MIN_BYTES, AdminApiConfig, ClientConfig, Config, DemoConfig, Endpoint, ErrorMode,
    HMAC_SECRET_MIN_BYTES, HttpApiConfig, HttpServerConfig, LogConfig, LogLevel, PluginDeadlines,
    PluginsConfig, TokenAlgorithm, TokenClaimRule, TokenConfig, WebsocketConfig, keys,
    settings::{Scope, Settings},
    tree::Problem,
};

/// Builds the configuration; problems are appended to `problems`.
pub(super) fn build(settings: &Settings, problems: &mut Vec<Problem>) -> Config {
    let root = &settings.root;
    let config = Config {
        data_dir: PathBuf::from(root.text("data_dir")),
        http_server: http_server(root, problems),
        admin_api: admin_api(root, problems),
        log: log(root, problems),
        client: client(settings, problems),
        token: token(root, problems),
        channels: channels::channels(settings, problems),
        engine: engine::engine(root, problems),
        control: control::control(root, problems),
        http_api: http_api(root, problems),
        websocket: WebsocketConfig {
            is_enabled: !root.flag("websocket.disabled"),
            handler_prefix: path_prefix(root, "websocket.handler_prefix", problems),
            max_message_bytes: root.size("websocket.message_size_limit"),
            write_timeout: at_least(
                root,
                "websocket.write_timeout",
                Duration::from_millis(100),
                problems,
            ),
        },
        plugins: plugins(root, problems),
        health: endpoint(root, "health", problems),
        prometheus: endpoint(root, "prometheus", problems),
        node_name: root.filled_text("node.name"),
        info_metrics_interval: at_least(
            root,
            "node.info_metrics_aggregate_interval",
            Duration::from_secs(1),
            problems,
        ),
        shutdown_timeout: at_least(root, "shutdown.timeout", Duration::from_secs(1), problems),
        demo: demo(root, problems),
    };
    if root.text("data_dir").is_empty() {
        problems.push(root.problem(
            "data_dir",
            "name a directory, for example \"/var/lib/tidegate\"",
        ));
    }
    distinct_prefixes(&config, root, problems);
    distinct_ports(&config, root, problems);
    config
}

fn http_server(root: &Scope, problems: &mut Vec<Problem>) -> HttpServerConfig {
    let mut trusted_proxies = Vec::new();
    for text in root.texts("http_server.trusted_proxies") {
        let network = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) => trusted_proxies.push(network),
            Err(_) => problems.push(root.problem(
                "http_server.trusted_proxies",
                format!(
                    "`{text}` is not a network; write an address or a network, as in \"10.0.0.0/8\""
                ),
            )),
        }
    }
    HttpServerConfig {
        address: address(root, "http_server.address", problems),
        port: port(root, "http_server.port"),
        trusted_proxies,
    }
}

fn admin_api(root: &Scope, problems: &mut Vec<Problem>) -> AdminApiConfig {
    let address = address(root, "admin_api.address", problems);
    let is_enabled = root.flag("admin_api.enabled");
    if is_enabled && !address.is_some_and(|address| address.to_canonical().is_loopback()) {
        let message = "the admin API has no TLS in this release, so it listens on loopback only; use \"127.0.0.1\" and reach it through an SSH tunnel or a proxy on this machine";
        problems.push(root.problem("admin_api.address", message));
    }
    let key = root.secret("admin_api.key");
    if let Some(key) = key.as_ref().filter(|key| key.len() < ADMIN_KEY_MIN_BYTES) {
        let message = format!(
            "the key has {} bytes; use at least {ADMIN_KEY_MIN_BYTES}, for example from `openssl rand -hex 32`",
            key.len()
        );
        problems.push(root.problem("admin_api.key", message));
    }
    AdminApiConfig {
        is_enabled,
        address: address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
        port: port(root, "admin_api.port"),
        key,
    }
}

fn log(root: &Scope, problems: &mut Vec<Problem>) -> LogConfig {
    let text = root.text("log.level");
    let level = LogLevel::parse(&text).unwrap_or_else(|| {
        let message =
            format!("`{text}` is not a level; use trace, debug, info, warn, error or none");
        problems.push(root.problem("log.level", message));
        LogLevel::Info
    });
    LogConfig {
        level,
        file: root.filled_text("log.file").map(PathBuf::from),
    }
}

fn client(settings: &Settings, problems: &mut Vec<Problem>) -> ClientConfig {
    let root = &settings.root;
    let ping_interval = at_least(
        root,
        "client.ping_interval",
        Duration::from_secs(1),
        problems,
    );
    let pong_timeout = at_least(
        root,
        "client.pong_timeout",
        Duration::from_millis(100),
        problems,
    );
    if pong_timeout >= ping_interval {
        problems.push(root.problem("client.pong_timeout", "must be shorter than client.ping_interval, so that a lost pong is noticed before the next ping"));
    }
    let allowed_origins = root.texts("client.allowed_origins");
    for origin in allowed_origins
        .iter()
        .filter(|origin| !is_origin_pattern(origin))
    {
        problems.push(root.problem(
            "client.allowed_origins",
            format!("`{origin}` is not an origin; write scheme and host, as in \"https://example.com\" or \"https://*.example.com\", without a path"),
        ));
    }
    let user_id_header = root.filled_text("client.user_id_http_header");
    let user_id_header = user_id_header.and_then(|name| {
        let header = HeaderName::try_from(name.as_str()).ok();
        if header.is_none() {
            problems.push(root.problem(
                "client.user_id_http_header",
                format!("`{name}` is not a header name; write one as in \"X-User-Id\""),
            ));
        }
        header
    });
    let limit = |name: &str| usize::try_from(root.count(name)).unwrap_or(usize::MAX);
    let rate = |name: &str| {
        u32::try_from(root.count(name))
            .ok()
            .and_then(NonZeroU32::new)
    };
    ClientConfig {
        allowed_origins,
        allow_anonymous_connect_without_token: root
            .flag("client.allow_anonymous_connect_without_token"),
        ping_interval,
        pong_timeout,
        expired_close_delay: root.duration("client.expired_close_delay"),
        expired_sub_close_delay: root.duration("client.expired_sub_close_delay"),
        stale_close_delay: at_least(
            root,
            "client.stale_close_delay",
            Duration::from_millis(100),
            problems,
        ),
        channel_limit: limit("client.channel_limit"),
        position_check_delay: root.duration("client.channel_position_check_delay"),
        queue_max_bytes: root.size("client.queue_max_size"),
        presence_update_interval: presence_update_interval(root, problems),
        connection_limit: match limit("client.connection_limit") {
            0 => super::DEFAULT_CONNECTION_LIMIT,
            limit => limit,
        },
        user_connection_limit: Some(limit("client.user_connection_limit"))
            .filter(|limit| *limit > 0),
        connection_rate_limit: rate("client.connection_rate_limit"),
        ip_connection_limit: limit("client.ip_connection_limit"),
        ip_connection_rate_limit: rate("client.ip_connection_rate_limit")
            .unwrap_or(NonZeroU32::MIN),
        command_rate: rate("client.command_rate"),
        connect_include_server_time: root.flag("client.connect_include_server_time"),
        history_max_publications: limit("client.history_max_publication_limit"),
        recovery_max_publications: limit("client.recovery_max_publication_limit"),
        user_id_header,
        personal_channel: channels::personal_channel(settings, problems),
        is_insecure: root.flag("client.insecure"),
    }
}

/// Heartbeats of which one may get lost before anybody vanishes.
fn presence_update_interval(root: &Scope, problems: &mut Vec<Problem>) -> Duration {
    let name = "client.presence_update_interval";
    let interval = at_least(root, name, Duration::from_secs(1), problems);
    if interval > root.duration("engine.redis.presence_ttl") / 2 {
        problems.push(root.problem(
            name,
            "must be at most half of engine.redis.presence_ttl, so that nobody vanishes who is there",
        ));
    }
    interval
}

/// Scheme, host and port, where any part may hold globs; `*` alone allows everything, `null` opaque origins.
fn is_origin_pattern(text: &str) -> bool {
    if text == "*" || text == "null" {
        return true;
    }
    let is_plain =
        !text.is_empty() && !text.contains(|char: char| char.is_whitespace() || char.is_control());
    match text.split_once("://") {
        Some((scheme, host)) => {
            is_plain && !scheme.is_empty() && !host.is_empty() && !host.contains('/')
        }
        // `*.example.com` and `*example.com` are globs that swallow the scheme.
        None => is_plain && text.starts_with('*') && !text.contains('/'),
    }
}

fn token(root: &Scope, problems: &mut Vec<Problem>) -> TokenConfig {
    let allow_weak = root.flag("client.token.insecure_allow_weak_hmac");
    let mut hmac = |name: &str| {
        let secret = root.secret(name)?;
        if secret.len() < HMAC_SECRET_MIN_BYTES && !allow_weak {
            let message = format!(
                "the secret has {} bytes; use at least {HMAC_SECRET_MIN_BYTES} (`openssl rand -hex 32`), or set client.token.insecure_allow_weak_hmac = true while you migrate",
                secret.len()
            );
            problems.push(root.problem(name, message));
        }
        Some(secret)
    };
    let secret = hmac("client.token.hmac_secret_key");
    let previous = hmac("client.token.hmac_previous_secret_key");
    if previous.is_some() && secret.is_none() {
        problems.push(root.problem(
            "client.token.hmac_previous_secret_key",
            "there is no current secret; set client.token.hmac_secret_key too",
        ));
    }
    let valid_until = Some(root.count("client.token.hmac_previous_secret_key_valid_until"))
        .filter(|seconds| *seconds > 0);
    let mut algorithms = Vec::new();
    for text in root.texts("client.token.algorithms") {
        match TokenAlgorithm::parse(&text) {
            Ok(algorithm) => algorithms.push(algorithm),
            Err(message) => problems.push(root.problem("client.token.algorithms", message)),
        }
    }
    let user_id_claim = root.filled_text("client.token.user_id_claim");
    let is_claim = |claim: &String| {
        claim
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
    };
    if !user_id_claim.as_ref().is_none_or(is_claim) {
        problems.push(root.problem(
            "client.token.user_id_claim",
            "a claim's name here has only letters and underscores",
        ));
    }
    TokenConfig {
        hmac_secret: secret,
        hmac_previous_secret: previous,
        hmac_previous_valid_until: valid_until,
        algorithms,
        audience: claim_rule(root, "client.token.audience", problems),
        issuer: claim_rule(root, "client.token.issuer", problems),
        user_id_claim,
        require_exp: root.flag("client.token.require_exp"),
        allow_weak_hmac: allow_weak,
        skip_signature_verify: root.flag("client.insecure_skip_token_signature_verify"),
        disallow_anonymous: root.flag("client.disallow_anonymous_connection_tokens"),
    }
}

fn claim_rule(root: &Scope, name: &str, problems: &mut Vec<Problem>) -> Option<TokenClaimRule> {
    let regex_name = format!("{name}_regex");
    let pattern = pattern(root, &regex_name, problems);
    match (root.filled_text(name), pattern) {
        (Some(_), Some(_)) => {
            problems.push(root.problem(
                &regex_name,
                format!("{name} is set too; keep one of the two"),
            ));
            None
        }
        (Some(text), None) => Some(TokenClaimRule::Exactly(text)),
        (None, Some(pattern)) => Some(TokenClaimRule::Matches(pattern)),
        (None, None) => None,
    }
}

fn http_api(root: &Scope, problems: &mut Vec<Problem>) -> HttpApiConfig {
    let mode = root.text("http_api.error_mode");
    let error_mode = match mode.as_str() {
        "" => ErrorMode::Envelope,
        "transport" => ErrorMode::Transport,
        _ => {
            problems.push(root.problem(
                "http_api.error_mode",
                format!("`{mode}` is not a mode; use \"\" or \"transport\""),
            ));
            ErrorMode::Envelope
        }
    };
    HttpApiConfig {
        is_enabled: !root.flag("http_api.disabled"),
        handler_prefix: path_prefix(root, "http_api.handler_prefix", problems),
        key: root.secret("http_api.key"),
        is_insecure: root.flag("http_api.insecure"),
        error_mode,
    }
}

fn plugins(root: &Scope, problems: &mut Vec<Problem>) -> PluginsConfig {
    let mut allowed_headers = Vec::new();
    for name in root.texts("plugins.allowed_headers") {
        match HeaderName::try_from(name.as_str()) {
            Ok(header) => allowed_headers.push(header),
            Err(_) => problems.push(root.problem(
                "plugins.allowed_headers",
                format!("`{name}` is not a header name"),
            )),
        }
    }
    let compile_timeout = at_least(
        root,
        "plugins.compile_timeout",
        Duration::from_secs(1),
        problems,
    );
    let mut held_to = |name: &str, most: Duration| {
        let name = format!("plugins.deadline.{name}");
        let deadline = at_least(root, &name, Duration::from_millis(1), problems);
        if deadline > most {
            let most = super::units::format_duration(most);
            problems.push(root.problem(
                &name,
                format!("a call holds up other clients while it runs; use at most \"{most}\""),
            ));
        }
        deadline
    };
    let mut deadline = |hook: Hook| held_to(hook.as_str(), hook.deadline_cap(Class::Immediate));
    let state = StateQuotas {
        keys_per_app: usize::try_from(root.count("plugins.state.keys_per_app"))
            .unwrap_or(usize::MAX),
        bytes_per_app: root.size("plugins.state.bytes_per_app"),
        bytes_in_all: root.size("plugins.state.bytes_in_all"),
    };
    let deadlines = PluginDeadlines {
        authentication: deadline(Hook::Authentication),
        authorization: deadline(Hook::Authorization),
        filtering: deadline(Hook::Filtering),
        routing: deadline(Hook::Routing),
        rpc: deadline(Hook::Rpc),
        events: deadline(Hook::Events),
        schedule: deadline(Hook::Schedule),
        waiting: held_to("waiting", Hook::Rpc.deadline_cap(Class::Waiting)),
    };
    if state.bytes_in_all < state.bytes_per_app {
        problems.push(root.problem(
            "plugins.state.bytes_in_all",
            "one app may have more than all together; raise it, or lower plugins.state.bytes_per_app",
        ));
    }
    let some = |name: &str| {
        let count = usize::try_from(root.count(name)).unwrap_or(usize::MAX);
        NonZeroUsize::new(count)
    };
    PluginsConfig {
        deadlines,
        threads: some("plugins.threads"),
        waiting_threads: some("plugins.waiting_threads").unwrap_or(NonZeroUsize::MIN),
        max_instances: some("plugins.max_instances"),
        state,
        allowed_headers,
        name_in_errors: root.flag("plugins.name_in_errors"),
        trace_in_refusals: root.flag("plugins.trace_in_refusals"),
        keep_versions: u32::try_from(root.count("plugins.keep_versions"))
            .ok()
            .and_then(NonZeroU32::new),
        max_memory_bytes: root.size("plugins.memory_limit"),
        compile_memory_bytes: root.size("plugins.compile_memory_limit") as u64,
        compile_timeout,
        explain_interval: root.duration("plugins.explain_interval"),
    }
}

fn demo(root: &Scope, problems: &mut Vec<Problem>) -> Option<DemoConfig> {
    if !root.flag("demo.enabled") {
        return None;
    }
    let secret = root.secret("demo.ticket_secret");
    if secret
        .as_ref()
        .is_none_or(|secret| secret.len() < HMAC_SECRET_MIN_BYTES)
    {
        problems.push(root.problem("demo.ticket_secret", format!("the demonstration signs tickets with it; set at least {HMAC_SECRET_MIN_BYTES} bytes")));
    }
    let address = root.filled_text("http_server.address");
    let address = address.and_then(|text| text.parse::<IpAddr>().ok());
    if address.is_none_or(|address| !address.is_loopback()) {
        problems.push(root.problem(
            "demo.enabled",
            "the demonstration mints tickets for whoever asks; set http_server.address = \"127.0.0.1\"",
        ));
    }
    let page_dir = root.filled_text("demo.page_dir");
    if page_dir.is_none() {
        problems.push(root.problem(
            "demo.page_dir",
            "name the directory of the page, as in \"demo/page\"",
        ));
    }
    Some(DemoConfig {
        page_dir: page_dir.map(PathBuf::from)?,
        ticket_key_id: root.text("demo.ticket_key_id"),
        ticket_secret: secret?,
    })
}

fn endpoint(root: &Scope, section: &str, problems: &mut Vec<Problem>) -> Endpoint {
    Endpoint {
        is_enabled: root.flag(&format!("{section}.enabled")),
        handler_prefix: path_prefix(root, &format!("{section}.handler_prefix"), problems),
    }
}

/// A path such as `/api`: absolute, not the root, without anything that a router or browser gives a meaning.
fn path_prefix(root: &Scope, name: &str, problems: &mut Vec<Problem>) -> String {
    let text = root.text(name);
    let path = text.trim_end_matches('/').to_owned();
    let is_segment = |segment: &str| {
        !segment.is_empty()
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    };
    let is_path = path
        .strip_prefix('/')
        .is_some_and(|rest| rest.split('/').all(is_segment));
    if !is_path {
        let default = keys::find(name)
            .map(|key| key.default.to_string())
            .unwrap_or_default();
        problems.push(root.problem(
            name,
            format!("`{text}` is not a usable path; write one as in {default}"),
        ));
    }
    path
}

/// Two things cannot answer at one path.
fn distinct_prefixes(config: &Config, root: &Scope, problems: &mut Vec<Problem>) {
    let taken = [
        (
            "websocket.handler_prefix",
            config.websocket.is_enabled,
            &config.websocket.handler_prefix,
        ),
        (
            "http_api.handler_prefix",
            config.http_api.is_enabled,
            &config.http_api.handler_prefix,
        ),
        (
            "health.handler_prefix",
            config.health.is_enabled,
            &config.health.handler_prefix,
        ),
        (
            "prometheus.handler_prefix",
            config.prometheus.is_enabled,
            &config.prometheus.handler_prefix,
        ),
    ];
    for (index, (name, is_enabled, path)) in taken.iter().enumerate() {
        let earlier = taken
            .iter()
            .take(index)
            .find(|(_, is_used, other)| *is_used && other == path);
        if let (true, Some((other, ..))) = (*is_enabled, earlier) {
            problems.push(root.problem(
                name,
                format!("{other} is `{path}` too; choose another path"),
            ));
        }
    }
}

fn distinct_ports(config: &Config, root: &Scope, problems: &mut Vec<Problem>) {
    let (client, admin) = (&config.http_server, &config.admin_api);
    let shares_address = client
        .address
        .is_none_or(|address| address == admin.address || address.is_unspecified());
    if admin.is_enabled && client.port != 0 && client.port == admin.port && shares_address {
        problems.push(root.problem(
            "admin_api.port",
            format!(
                "{} is the client port as well; choose another one",
                admin.port
            ),
        ));
    }
}

/// `None` is every interface.
fn address(root: &Scope, name: &str, problems: &mut Vec<Problem>) -> Option<IpAddr> {
    let text = root.filled_text(name)?;
    if text == "localhost" {
        return Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    }
    let address = text.parse().ok();
    if address.is_none() {
        problems.push(root.problem(name, format!("`{text}` is not an IP address; write one as in \"127.0.0.1\" (the port has its own key)")));
    }
    address
}

fn port(root: &Scope, name: &str) -> u16 {
    u16::try_from(root.count(name)).unwrap_or(0)
}

fn at_least(root: &Scope, name: &str, least: Duration, problems: &mut Vec<Problem>) -> Duration {
    let duration = root.duration(name);
    if duration < least {
        let least = super::units::format_duration(least);
        problems.push(root.problem(
            name,
            format!(
                "{} is too short; use at least \"{least}\"",
                super::units::format_duration(duration)
            ),
        ));
    }
    duration
}

fn pattern(scope: &Scope, name: &str, problems: &mut Vec<Problem>) -> Option<Regex> {
    let text = scope.filled_text(name)?;
    match Regex::new(&text) {
        Ok(regex) => Some(regex),
        Err(error) => {
            // The parser draws the pattern over several lines; its last line says what is wrong.
            let error = error.to_string();
            let cause = error
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ");
            problems.push(scope.problem(name, format!("not a regular expression: {cause}")));
            None
        }
    }
}
