//! Variables of the environment.

use super::*;

#[test]
fn the_environment_overrides_the_file() {
    let config = good(
        "[http_server]\nport = 1\n[[channel.namespaces]]\nname = \"old\"\npresence = true\n",
        &[
            ("TIDEGATE_HTTP_SERVER_PORT", "9000"),
            ("TIDEGATE_DATA_DIR", "/srv/data"),
            ("TIDEGATE_CLIENT_INSECURE", "true"),
            (
                "TIDEGATE_CLIENT_ALLOWED_ORIGINS",
                "https://a.example https://b.example",
            ),
            ("TIDEGATE_HTTP_SERVER_TRUSTED_PROXIES", "[\"10.0.0.0/8\"]"),
            ("TIDEGATE_CLIENT_STALE_CLOSE_DELAY", "5s"),
            (
                "TIDEGATE_CHANNEL_NAMESPACES",
                r#"[{"name": "chat", "history_size": 1, "history_ttl": "1m"}]"#,
            ),
            ("TIDEGATE_ADMIN_KEY", "for the command line"),
        ],
    );
    assert_eq!(config.http_server.port, 9000);
    assert_eq!(config.data_dir, Path::new("/srv/data"));
    assert_eq!(
        config.client.allowed_origins,
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(config.http_server.trusted_proxies.len(), 1);
    assert_eq!(config.client.stale_close_delay, Duration::from_secs(5));
    assert_eq!(
        config.channels.namespaces.keys().collect::<Vec<_>>(),
        ["chat"]
    );
    assert_eq!(config.insecure_switches().len(), 1);
}

#[test]
fn problems_of_the_environment_name_the_variable() {
    let variables = [
        ("TIDEGATE_HTTP_SERVER_PORT", "many"),
        ("TIDEGATE_CLIENT_TOKEN_HMAC_SECRT_KEY", "x"),
        ("TIDEGATE_SSE_ENABLED", "true"),
        ("TIDEGATE_BIN", "of somebody else"),
        ("TIDEGATE_CLIENT_COLOUR_OF_THE_SKY", "blue"),
        (
            "TIDEGATE_CHANNEL_NAMESPACES",
            "[{\"name\": \"x1\", \"colour\": 1}]",
        ),
    ];
    let problems = load_text("", "toml", &variables).unwrap_err();
    let text = problems.to_string();
    assert_eq!(problems.as_slice().len(), 5, "{text}");
    assert!(
        text.contains(
            "environment variable TIDEGATE_HTTP_SERVER_PORT: http_server.port: write a whole number"
        ),
        "{text}"
    );
    assert!(
        text.contains("did you mean TIDEGATE_CLIENT_TOKEN_HMAC_SECRET_KEY?"),
        "{text}"
    );
    assert!(text.contains("sse.enabled"), "{text}");
    assert!(text.contains("channel.namespaces[0].colour"), "{text}");
}

#[test]
fn variables_of_centrifugo_are_named_with_what_to_set_instead() {
    let variables = [
        ("CENTRIFUGO_CLIENT_INSECURE", "true"),
        ("CENTRIFUGO_GRPC_API_ENABLED", "true"),
        ("CENTRIFUGO_HTTP_API_KEY", ""),
        ("CENTRIFUGO_SERVICE_HOST", "10.0.0.1"),
    ];
    let loaded = load_text("", "toml", &variables).unwrap();
    assert!(!loaded.config.client.is_insecure, "it has no effect");
    let ignored: Vec<_> = loaded
        .ignored
        .iter()
        .map(|variable| (variable.name.as_str(), variable.hint.as_str()))
        .collect();
    assert_eq!(
        ignored,
        [
            (
                "CENTRIFUGO_CLIENT_INSECURE",
                "it has no effect; set TIDEGATE_CLIENT_INSECURE instead"
            ),
            (
                "CENTRIFUGO_GRPC_API_ENABLED",
                "it has no effect, and Tidegate has no such key; unset it"
            ),
        ]
    );
}
