mod control;
mod engine;
mod environment;
mod files;

use std::io::Write as _;

use super::*;

type Variables = BTreeMap<String, String>;

#[track_caller]
fn load_text(text: &str, extension: &str, variables: &[(&str, &str)]) -> Result<Loaded, Problems> {
    let mut file = tempfile::Builder::new()
        .prefix("tidegate")
        .suffix(&format!(".{extension}"))
        .tempfile()
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let environment: Variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let sources = Sources {
        file: Some(file.path()),
        environment: &environment,
        data_dir: None,
    };
    load(sources).map_err(|error| match error {
        ConfigError::Problems(problems) => problems,
        error @ ConfigError::Unreadable { .. } => panic!("{error}"),
    })
}

#[track_caller]
fn good(text: &str, variables: &[(&str, &str)]) -> Config {
    load_text(text, "toml", variables)
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

/// Each row of `expected`: line (0 where there is none), key, a part of the message.
#[track_caller]
fn refused(text: &str, expected: &[(usize, &str, &str)]) {
    let problems = load_text(text, "toml", &[]).expect_err("the configuration is refused");
    for (line, key, part) in expected {
        let found = problems.as_slice().iter().any(|problem| {
            let at = match problem.origin {
                Origin::File { line, .. } => line,
                Origin::Default | Origin::Environment(_) | Origin::CommandLine(_) => 0,
            };
            at == *line && problem.path == *key && problem.message.contains(part)
        });
        assert!(found, "line {line}, {key}, {part:?} is not in\n{problems}");
    }
    assert_eq!(problems.as_slice().len(), expected.len(), "{problems}");
}

#[test]
fn personal_channels_need_a_namespace_that_there_is() {
    let text = "[client.subscribe_to_user_personal_channel]\nenabled = true\npersonal_channel_namespace = \"personal\"\nsingle_connection = true\n";
    refused(
        text,
        &[(
            3,
            "client.subscribe_to_user_personal_channel.personal_channel_namespace",
            "there is no namespace `personal`",
        )],
    );
    let text = format!("{text}[[channel.namespaces]]\nname = \"personal\"\n");
    let personal = good(&text, &[]).client.personal_channel.unwrap();
    assert_eq!(&*personal.namespace, "personal");
    assert!(personal.is_single_connection);
    assert_eq!(good("", &[]).client.personal_channel, None);
}

#[test]
fn plugin_resources_have_keys() {
    let plugins = good(
        "[plugins]\nthreads = 3\nwaiting_threads = 5\nmax_instances = 64\n\
         [plugins.state]\nkeys_per_app = 10\nbytes_per_app = \"1MiB\"\nbytes_in_all = \"2MiB\"",
        &[],
    )
    .plugins;
    assert_eq!(plugins.threads.map(NonZeroUsize::get), Some(3));
    assert_eq!(plugins.waiting_threads.get(), 5);
    assert_eq!(plugins.max_instances.map(NonZeroUsize::get), Some(64));
    assert_eq!(plugins.state.keys_per_app, 10);
    assert_eq!(plugins.state.bytes_per_app, 1 << 20);
    assert_eq!(plugins.state.bytes_in_all, 2 << 20);
    refused(
        "[plugins.state]\nbytes_in_all = \"1MiB\"",
        &[(
            2,
            "plugins.state.bytes_in_all",
            "lower plugins.state.bytes_per_app",
        )],
    );
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let environment = Variables::new();
    let loaded = load(Sources {
        file: None,
        environment: &environment,
        data_dir: None,
    })
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.http_server.port, 8000);
    assert_eq!(config.http_server.address, None);
    assert_eq!(config.admin_api.port, 8001);
    assert!(config.admin_api.address.is_loopback());
    assert_eq!(config.client.ping_interval, Duration::from_secs(25));
    assert_eq!(config.client.connection_limit, DEFAULT_CONNECTION_LIMIT);
    assert_eq!(config.plugins.deadlines.filtering, Duration::from_millis(5));
    assert!(config.token.hmac_secret.is_none());
    assert!(config.demo.is_none());
    assert!(config.insecure_switches().is_empty());
    assert!(
        loaded
            .effective
            .iter()
            .all(|value| value.origin == Origin::Default)
    );
}

#[test]
fn every_problem_is_reported_at_once_with_key_and_place() {
    refused(
        r#"
[http_server]
prot = 8000
[client]
ping_interval = 25
pong_timeout = "60s"
channel_limit = 0
[client.token]
hmac_secret_key = "short"
[sse]
enabled = true
[nonsense]
x = 1
"#,
        &[
            (3, "http_server.prot", "`http_server.port`"),
            (5, "client.ping_interval", "\"25s\""),
            (6, "client.pong_timeout", "shorter"),
            (7, "client.channel_limit", "at least 1"),
            (
                9,
                "client.token.hmac_secret_key",
                "client.token.insecure_allow_weak_hmac",
            ),
            (
                11,
                "sse.enabled",
                "server-sent events are not part of this release",
            ),
            (12, "nonsense", "unknown key"),
        ],
    );
}

#[test]
fn keys_of_later_releases_are_refused_by_name_unless_at_their_default() {
    refused(
        r#"
[engine]
type = "nats"
[engine.redis]
history_use_lists = true
force_resp2 = false
presence_ttl = "60s"
[admin]
enabled = true
[channel.without_namespace]
auto_cache_recover = true
[[channel.namespaces]]
name = "chat"
allow_tags_filter = true
subscribe_proxy_enabled = true
delta_publish = false
[[proxies]]
name = "backend"
"#,
        &[
            (3, "engine.type", "not an engine"),
            (5, "engine.redis.history_use_lists", "streams"),
            (9, "admin.enabled", "admin_api"),
            (
                11,
                "channel.without_namespace.auto_cache_recover",
                "cache recovery is not part",
            ),
            (
                14,
                "channel.namespaces[0].allow_tags_filter",
                "the tags filter",
            ),
            (
                15,
                "channel.namespaces[0].subscribe_proxy_enabled",
                "plugins",
            ),
            (17, "proxies", "plugins"),
        ],
    );
}

#[test]
fn namespaces_are_checked_one_by_one() {
    refused(
        r#"
[[channel.namespaces]]
name = "a"
[[channel.namespaces]]
name = "chat"
history_size = 10
[[channel.namespaces]]
name = "chat"
force_recovery = true
[[channel.namespaces]]
name = "news"
history_size = 10
history_ttl = "2h"
history_meta_ttl = "1h"
channel_regex = "("
alow_history_for_client = true
"#,
        &[
            (3, "channel.namespaces[0].name", "at least two"),
            (
                6,
                "channel.namespaces[1].history_ttl",
                "history_ttl as well",
            ),
            (8, "channel.namespaces[2].name", "another namespace"),
            (9, "channel.namespaces[2].force_recovery", "needs history"),
            (14, "channel.namespaces[3].history_meta_ttl", "longer"),
            (
                15,
                "channel.namespaces[3].channel_regex",
                "regular expression",
            ),
            (
                16,
                "channel.namespaces[3].alow_history_for_client",
                "allow_history_for_client",
            ),
        ]
        .map(|(line, key, part)| match (line, key) {
            // A key that was not written is placed at its namespace.
            (6, key) => (4, key, part),
            _ => (line, key, part),
        }),
    );
}

#[test]
fn a_history_that_cannot_be_read_is_not_called_absent() {
    refused(
        r#"
[channel.without_namespace]
history_size = "ten"
history_ttl = "5m"
[[channel.namespaces]]
name = "chat"
history_size = 10
history_ttl = 300
force_recovery = true
[[channel.namespaces]]
name = "news"
history_ttl = "five"
force_recovery = true
"#,
        &[
            (
                3,
                "channel.without_namespace.history_size",
                "a whole number",
            ),
            (8, "channel.namespaces[0].history_ttl", "\"300s\""),
            (12, "channel.namespaces[1].history_ttl", "five"),
        ],
    );
}

#[test]
fn a_flat_file_is_told_where_its_keys_are_now() {
    let text = r#"
allow_subscribe_for_client = true
engine = "redis"
admin = true
admin_password = "p"
proxy_connect_endpoint = "http://localhost"
port = 9000
[http_server]
trusted_proxy = ["10.0.0.0/8"]
[channel.without_namespace]
presence_proxy_name = "x"
"#;
    refused(
        text,
        &[
            (
                2,
                "",
                "Centrifugo before v6, whose keys had no sections (6 of them",
            ),
            (
                2,
                "allow_subscribe_for_client",
                "`channel.without_namespace.allow_subscribe_for_client`",
            ),
            (3, "engine", "set `engine.type` to \"redis\""),
            (4, "admin", "configured in `admin_api`"),
            (5, "admin_password", "`admin.password`"),
            (6, "proxy_connect_endpoint", "replaced by plugins"),
            (7, "port", "`http_server.port`"),
            (
                9,
                "http_server.trusted_proxy",
                "`http_server.trusted_proxies`",
            ),
            (
                11,
                "channel.without_namespace.presence_proxy_name",
                "replaced by plugins",
            ),
        ],
    );
    let problems = load_text(text, "toml", &[]).expect_err("it is refused");
    assert_eq!(problems.as_slice()[0].path, "", "it comes first");
    refused("engine = \"redis\"\n", &[(1, "engine", "`engine.type`")]);
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    refused(
        r#"
[http_server]
port = 8001
trusted_proxies = ["10.0.0.0/8", "nginx"]
[admin_api]
address = "0.0.0.0"
key = "short"
[client]
allowed_origins = ["example.com/path", "https://ok.example"]
[client.token]
audience = "a"
audience_regex = "b"
algorithms = ["RS256", "HS256", "none"]
[health]
handler_prefix = "/api"
[channel]
user_boundary = ":"
[demo]
enabled = true
"#,
        &[
            (4, "http_server.trusted_proxies", "nginx"),
            (6, "admin_api.address", "loopback"),
            (7, "admin_api.key", "at least 16"),
            (9, "client.allowed_origins", "example.com/path"),
            (12, "client.token.audience_regex", "keep one"),
            (13, "client.token.algorithms", "RS256"),
            (13, "client.token.algorithms", "none"),
            (15, "health.handler_prefix", "http_api.handler_prefix"),
            (17, "channel.user_boundary", "must differ"),
            (19, "demo.enabled", "127.0.0.1"),
            (0, "demo.ticket_secret", "32"),
            (0, "demo.page_dir", "directory"),
            (0, "admin_api.port", "client port"),
        ],
    );
}

#[test]
fn a_weak_secret_needs_the_switch_and_warns() {
    let config = good(
        "[client.token]\nhmac_secret_key = \"secret\"\ninsecure_allow_weak_hmac = true\n",
        &[],
    );
    let switches = config.insecure_switches();
    assert_eq!(switches[0].key, "client.token.insecure_allow_weak_hmac");
    assert_eq!(config.token.hmac_secret.unwrap().expose(), "secret");
}

#[test]
fn any_origin_warns() {
    let config = good(
        "client = { allowed_origins = [\"*\"], insecure = true }\nhttp_api.insecure = true\n",
        &[],
    );
    let keys: Vec<_> = config
        .insecure_switches()
        .iter()
        .map(|switch| switch.key)
        .collect();
    assert_eq!(
        keys,
        [
            "client.insecure",
            "http_api.insecure",
            "client.allowed_origins"
        ]
    );
}

#[test]
fn a_users_header_that_everybody_may_send_warns_and_one_of_known_proxies_does_not() {
    let keys = |config: &Config| -> Vec<_> {
        let switches = config.insecure_switches().into_iter();
        switches.map(|switch| switch.key).collect()
    };
    let open = "[client]\nuser_id_http_header = \"X-User-Id\"\n";
    assert_eq!(keys(&good(open, &[])), ["client.user_id_http_header"]);
    let closed = format!("{open}[http_server]\ntrusted_proxies = [\"10.0.0.0/8\"]\n");
    assert!(keys(&good(&closed, &[])).is_empty());
    refused(
        "[client]\nuser_id_http_header = \"X User\"\n",
        &[(2, "client.user_id_http_header", "not a header name")],
    );
}

#[test]
fn a_write_timeout_is_taken_as_written() {
    let config = good("[websocket]\nwrite_timeout = \"300ms\"\n", &[]);
    assert_eq!(config.websocket.write_timeout, Duration::from_millis(300));
    assert_eq!(
        good("", &[]).websocket.write_timeout,
        Duration::from_secs(5)
    );
    refused(
        "[websocket]\nwrite_timeout = \"0s\"\n",
        &[(2, "websocket.write_timeout", "too short")],
    );
}

#[test]
fn check_shows_values_and_origins_and_hides_secrets() {
    let secret = "0123456789abcdef0123456789abcdef";
    let text = format!(
        "[client.token]\nhmac_secret_key = \"{secret}\"\n[[channel.namespaces]]\nname = \"chat\"\n"
    );
    let loaded = load_text(&text, "toml", &[("TIDEGATE_LOG_LEVEL", "warn")]).unwrap();
    let shown = check::render(&loaded.effective, Some(Path::new("tidegate.toml")));
    let json = check::to_json(&loaded.effective).to_string();
    for text in [&shown, &json, &format!("{:?}", loaded.config)] {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(shown.contains("tidegate.toml:2:19"), "{shown}");
    assert!(
        shown.contains("environment variable TIDEGATE_LOG_LEVEL"),
        "{shown}"
    );
    assert!(shown.contains("channel.namespaces[0].name"), "{shown}");
    assert!(json.contains(r#"{"key":"log.level","origin":{"kind":"environment","name":"TIDEGATE_LOG_LEVEL"},"value":"warn"}"#), "{json}");
}

#[test]
fn a_file_that_is_missing_or_broken_says_so() {
    let environment = Variables::new();
    let missing = load(Sources {
        file: Some(Path::new("/nowhere/at-all.toml")),
        environment: &environment,
        data_dir: None,
    });
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("/nowhere/at-all.toml")
    );
    refused("[client\n", &[(1, "", "not valid TOML")]);
    refused("client = 1\n", &[(1, "client", "section")]);
}

#[test]
fn the_option_wins_over_everything() {
    let environment: Variables = [(
        "TIDEGATE_DATA_DIR".to_owned(),
        "/from/environment".to_owned(),
    )]
    .into();
    let sources = Sources {
        file: None,
        environment: &environment,
        data_dir: Some(Path::new("/from/option")),
    };
    assert_eq!(
        load(sources).unwrap().config.data_dir,
        Path::new("/from/option")
    );
}

#[test]
fn the_configuration_of_the_demonstration_is_good() {
    let text = include_str!("../../../../demo/tidegate.toml");
    let config = good(
        text,
        &[(
            "TIDEGATE_DEMO_TICKET_SECRET",
            "0123456789abcdef0123456789abcdef",
        )],
    );
    assert!(config.demo.is_some());
}

#[test]
fn sections_that_are_switched_off_pass_and_others_are_refused_by_name() {
    good(
        r#"
consumers = []
pid_file = ""
[broker]
enabled = false
[grpc_api]
enabled = false
port = 10000
[graphite]
enabled = false
host = "localhost"
[usage_stats]
disabled = true
"#,
        &[],
    );
    refused(
        r#"consumers = [{ name = "kafka" }]
[grpc_api]
enabled = true
[graphite]
host = "stats"
[channel.without_namespace]
presense = true
"#,
        &[
            (1, "consumers", "back end"),
            (3, "grpc_api.enabled", "remove the section"),
            (5, "graphite.host", "Prometheus"),
            (
                7,
                "channel.without_namespace.presense",
                "did you mean `channel.without_namespace.presence`",
            ),
        ],
    );
}
