//! Whole files: those of the reference, and those that we print.

use super::*;

#[test]
fn configurations_of_the_reference_start_us_unchanged() {
    let json = load_text(include_str!("../testdata/centrifugo.json"), "json", &[]);
    let config = json.unwrap_or_else(|problems| panic!("{problems}")).config;
    assert_eq!(config.http_server.port, 8000);
    assert_eq!(config.client.channel_limit, 256);
    assert_eq!(config.client.allowed_origins.len(), 2);
    let chat = &config.channels.namespaces["chat"];
    assert_eq!(chat.history.unwrap().size, 100);
    assert_eq!(
        chat.history.unwrap().meta_ttl,
        Duration::from_secs(720 * 3600)
    );
    assert!(chat.force_recovery && chat.subscribe.for_client && chat.publish.for_subscriber);
    assert!(
        config
            .channels
            .without_namespace
            .allow_user_limited_channels
    );
    assert!(matches!(
        config.token.issuer,
        Some(TokenClaimRule::Exactly(_))
    ));
    assert!(config.prometheus.is_enabled);

    let yaml = load_text(include_str!("../testdata/centrifugo.yaml"), "yml", &[]);
    let config = yaml.unwrap_or_else(|problems| panic!("{problems}")).config;
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.websocket.max_message_bytes, 131_072);
    assert_eq!(config.http_api.error_mode, ErrorMode::Transport);
    let chat = &config.channels.namespaces["chat"];
    assert_eq!(
        chat.publication_data_format,
        PublicationDataFormat::JsonObject
    );
    assert!(chat.channel_regex.as_ref().unwrap().is_match("lobby-1"));

    let toml = load_text(include_str!("../testdata/centrifugo.toml"), "toml", &[]);
    let config = toml.unwrap_or_else(|problems| panic!("{problems}")).config;
    assert_eq!(config.node_name.as_deref(), Some("edge-1"));
    assert_eq!(config.token.hmac_previous_valid_until, Some(1_893_456_000));
    assert_eq!(config.http_api.handler_prefix, "/server/api");
    assert_eq!(config.client.user_connection_limit, Some(10));
}

#[test]
fn the_whole_default_file_of_the_reference_starts_us() {
    // As `centrifugo defaultconfig` prints it: every key, at its default.
    let mut root = serde_json::json!({});
    for line in include_str!("../testdata/reference-keys.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let (path, default) = line.split_once('\t').unwrap();
        if path.contains("[]") {
            continue;
        }
        let mut table = &mut root;
        for part in path.split('.') {
            table = &mut table[part];
        }
        *table = serde_json::from_str(default).unwrap();
    }
    let config = load_text(&root.to_string(), "json", &[])
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config;
    assert_eq!(config.client.connection_limit, DEFAULT_CONNECTION_LIMIT);
}

#[test]
fn the_default_file_loads_unchanged_in_every_format() {
    for (format, extension) in [
        (Format::Toml, "toml"),
        (Format::Yaml, "yaml"),
        (Format::Json, "json"),
    ] {
        let text = default_file::render(format);
        let loaded = load_text(&text, extension, &[])
            .unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        let nothing = load(Sources {
            file: None,
            environment: &Variables::new(),
            data_dir: None,
        })
        .unwrap();
        for (ours, default) in loaded.effective.iter().zip(&nothing.effective) {
            assert_eq!((&ours.path, &ours.value), (&default.path, &default.value));
        }
        assert_eq!(loaded.effective.len(), nothing.effective.len());
    }
}
