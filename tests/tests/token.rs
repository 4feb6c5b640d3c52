//! Connection tokens: who is let in, with which answer others are not, and how connections expire.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tidegate_protocol::{Codec, Command, ConnectRequest, Reply};
use tidegate_tests::{
    Client, Node,
    client::{Closed, with_token},
    token::{SECRET, mint, mint_as, mint_with, unix_time},
};

const CODECS: [Codec; 2] = [Codec::Json, Codec::Protobuf];

fn node() -> Node {
    Node::builder()
        .set("client.token.hmac_secret_key", json!(SECRET))
        .set("client.expired_close_delay", json!("1s"))
        .namespace(json!({
            "name": "open",
            "allow_subscribe_for_client": true,
            "allow_publish_for_client": true,
        }))
        .start()
}

fn closed(code: u16, reason: &str) -> Closed {
    Closed {
        code,
        reason: reason.to_owned(),
    }
}

/// Sends a connect and returns the error in the reply, or how the connection ended.
async fn refused(node: &Node, codec: Codec, request: ConnectRequest) -> Result<u32, Closed> {
    let mut client = Client::open(node, codec).await;
    let command = Command {
        connect: Some(Box::new(request)),
        ..Command::default()
    };
    client.send_commands(vec![command]).await;
    let reply: Reply = client.reply_or_close(1).await?;
    let error = reply.error.as_ref().map(|error| error.code);
    Ok(error.unwrap_or_else(|| panic!("connect answered {reply:?}")))
}

#[tokio::test]
async fn a_token_names_the_user_the_lifetime_and_the_info() {
    let node = node();
    for codec in CODECS {
        let claims = json!({
            "sub": "anna",
            "exp": unix_time(600),
            "info": {"name": "Anna"},
        });
        let mut client = Client::open(&node, codec).await;
        let reply = client.connect_with(with_token(&mint(&claims))).await;
        let result = reply.connect.expect("the token is good");
        assert!(result.expires);
        assert!((590..=600).contains(&result.ttl), "{}", result.ttl);
        client.subscribe("open:a").await;
        client.publish("open:a", &json!(1)).await;
        let publication = client.push().await.r#pub.expect("a publication is pushed");
        let info = publication.info.as_ref().expect("a client published");
        assert_eq!(info.user, "anna");
        let shown: Value = serde_json::from_slice(info.conn_info.as_bytes()).expect("info is JSON");
        assert_eq!(shown, json!({"name": "Anna"}));
    }
}

#[tokio::test]
async fn expire_at_replaces_exp_as_the_end_of_the_connection() {
    let node = node();
    let mut client = Client::open(&node, Codec::Json).await;
    let claims = json!({"sub": "anna", "exp": unix_time(600), "expire_at": 0});
    let reply = client.connect_with(with_token(&mint(&claims))).await;
    let result = reply.connect.expect("the token is good");
    assert_eq!((result.expires, result.ttl), (false, 0));
}

#[tokio::test]
async fn every_hmac_size_is_accepted_when_nothing_restricts_it() {
    let node = node();
    for algorithm in ["HS256", "HS384", "HS512"] {
        let token = mint_as(algorithm, SECRET, &json!({"sub": "anna"}));
        Client::connect(&node, Codec::Json, with_token(&token)).await;
    }
}

#[tokio::test]
async fn a1_an_hmac_size_that_is_not_listed_is_refused() {
    let node = Node::builder()
        .set("client.token.hmac_secret_key", json!(SECRET))
        .set("client.token.algorithms", json!(["HS384"]))
        .start();
    let token = |algorithm| mint_as(algorithm, SECRET, &json!({"sub": "anna"}));
    Client::connect(&node, Codec::Json, with_token(&token("HS384"))).await;
    for other in ["HS256", "HS512"] {
        let ending = refused(&node, Codec::Json, with_token(&token(other))).await;
        assert_eq!(ending, Err(closed(3500, "invalid token")), "{other}");
    }
}

#[tokio::test]
async fn a4_a_token_out_of_its_time_is_an_error_that_asks_for_another() {
    let node = node();
    for codec in CODECS {
        for claims in [
            json!({"sub": "anna", "exp": unix_time(-3600)}),
            json!({"sub": "anna", "nbf": unix_time(3600)}),
        ] {
            let mut client = Client::open(&node, codec).await;
            let reply = client.connect_with(with_token(&mint(&claims))).await;
            let error = reply.error.expect("the token is out of its time");
            assert_eq!((error.code, error.message.as_str()), (109, "token expired"));
            // The connection stays open for a moment and is of no use.
            client
                .send_commands(vec![Command {
                    subscribe: Some(Box::default()),
                    ..Command::default()
                }])
                .await;
            assert_eq!(client.closed().await, closed(3501, "bad request"));
        }
    }
}

#[tokio::test]
async fn a6_every_bad_token_gets_the_one_answer() {
    let node = node();
    let good = json!({"sub": "anna", "exp": unix_time(600)});
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let signed = |header: &Value, claims: &Value| mint_with(SECRET, header, claims);
    let with_alg = |alg: &str| signed(&json!({"alg": alg}), &good);
    let with_header = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        signed(&header, &good)
    };
    let with_claim = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signed(&header, &claims)
    };
    let token = mint(&good);
    let parts: Vec<&str> = token.split('.').collect();
    let unsigned = |alg: &str| {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string());
        format!("{header}.{}.", parts[1])
    };
    let other_claims = URL_SAFE_NO_PAD.encode(json!({"sub": "boss"}).to_string());
    let cases = [
        ("a1 alg none", unsigned("none")),
        ("a1 alg None", unsigned("None")),
        ("a1 alg NONE", unsigned("NONE")),
        ("a1 alg empty", unsigned("")),
        ("a1 alg none but signed", with_alg("none")),
        ("a1 another family", with_alg("RS256")),
        ("a1 another family", with_alg("ES256")),
        ("a1 unknown alg", with_alg("HS1")),
        ("a1 alg in lower case", with_alg("hs256")),
        ("a1 no alg", signed(&json!({"typ": "JWT"}), &good)),
        ("a1 HS512 in name only", with_alg("HS512")),
        (
            "another secret",
            mint_with("another secret of enough bytes!!", &header, &good),
        ),
        (
            "other claims",
            format!("{}.{other_claims}.{}", parts[0], parts[2]),
        ),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("a2 two segments", format!("{}.{}", parts[0], parts[1])),
        ("a2 four segments", format!("{token}.{}", parts[2])),
        ("a2 five segments", format!("{token}.a.b")),
        ("a2 padding", format!("{token}=")),
        ("a2 text", "not a token".to_owned()),
        ("a2 too large", with_claim("x", json!("x".repeat(9_000)))),
        ("a3 crit", with_header("crit", json!(["exp"]))),
        ("a3 b64", with_header("b64", json!(false))),
        ("a3 zip", with_header("zip", json!("DEF"))),
        ("a3 nested", with_header("cty", json!("JWT"))),
        ("a4 exp as text", with_claim("exp", json!("9999999999"))),
        ("a4 nbf as text", with_claim("nbf", json!("1"))),
        ("a4 iat as text", with_claim("iat", json!("1"))),
        ("a4 sub as number", with_claim("sub", json!(1))),
        (
            "a4 a subscription token",
            with_claim("channel", json!("news")),
        ),
        ("claims are no object", signed(&header, &json!([]))),
    ];
    for codec in CODECS {
        for (what, token) in &cases {
            let ending = refused(&node, codec, with_token(token)).await;
            assert_eq!(ending, Err(closed(3500, "invalid token")), "{what}");
        }
    }
}

#[tokio::test]
async fn audience_and_issuer_must_match_where_they_are_set() {
    let node = Node::builder()
        .set("client.token.hmac_secret_key", json!(SECRET))
        .set("client.token.audience", json!("chat"))
        .set("client.token.issuer", json!("shop"))
        .start();
    for claims in [
        json!({"sub": "anna", "aud": "chat", "iss": "shop"}),
        json!({"sub": "anna", "aud": ["other", "chat"], "iss": "shop"}),
    ] {
        Client::connect(&node, Codec::Json, with_token(&mint(&claims))).await;
    }
    for claims in [
        json!({"sub": "anna"}),
        json!({"sub": "anna", "aud": "other", "iss": "shop"}),
        json!({"sub": "anna", "aud": "chat", "iss": "other"}),
        json!({"sub": "anna", "aud": ["other"], "iss": "shop"}),
    ] {
        let ending = refused(&node, Codec::Json, with_token(&mint(&claims))).await;
        assert_eq!(ending, Err(closed(3500, "invalid token")), "{claims}");
    }
}

#[tokio::test]
async fn without_a_token_nobody_is_let_in_unless_that_is_configured() {
    let node = node();
    for codec in CODECS {
        let ending = refused(&node, codec, ConnectRequest::default()).await;
        assert_eq!(ending, Err(closed(3501, "bad request")));
    }
    let open = Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .start();
    Client::connect(&open, Codec::Json, ConnectRequest::default()).await;
}

#[tokio::test]
async fn anonymous_tokens_can_be_disallowed() {
    let strict = Node::builder()
        .set("client.token.hmac_secret_key", json!(SECRET))
        .set("client.disallow_anonymous_connection_tokens", json!(true))
        .start();
    let token = mint(&json!({"exp": unix_time(600)}));
    let ending = refused(&strict, Codec::Json, with_token(&token)).await;
    assert_eq!(ending, Err(closed(3507, "permission denied")));
    Client::connect(&node(), Codec::Json, with_token(&token)).await;
}

#[tokio::test]
async fn c2_a_connection_ends_when_its_token_ran_out_and_nobody_refreshed_it() {
    let node = node();
    for codec in CODECS {
        let claims = json!({"sub": "anna", "exp": unix_time(2)});
        let mut client = Client::connect(&node, codec, with_token(&mint(&claims))).await;
        assert_eq!(client.closed().await, closed(3005, "connection expired"));
    }
}

#[tokio::test]
async fn a_refresh_prolongs_the_connection() {
    let node = node();
    for codec in CODECS {
        let claims = |seconds| json!({"sub": "anna", "exp": unix_time(seconds)});
        let mut client = Client::connect(&node, codec, with_token(&mint(&claims(60)))).await;
        let reply = client.refresh(&mint(&claims(600))).await;
        let result = reply.refresh.expect("the token is good");
        assert!(result.expires && (590..=600).contains(&result.ttl));
        let forever = client.refresh(&mint(&json!({"sub": "anna"}))).await;
        let result = forever.refresh.expect("the token is good");
        assert_eq!((result.expires, result.ttl), (false, 0));
    }
}

#[tokio::test]
async fn a_bad_refresh_ends_the_connection() {
    let node = node();
    let other_user = mint(&json!({"sub": "boss", "exp": unix_time(600)}));
    let expired = mint(&json!({"sub": "anna", "exp": unix_time(-3600)}));
    for codec in CODECS {
        for (token, ending) in [
            (other_user.as_str(), closed(3500, "invalid token")),
            ("not a token", closed(3500, "invalid token")),
            (expired.as_str(), closed(3005, "connection expired")),
            ("", closed(3501, "bad request")),
        ] {
            let claims = json!({"sub": "anna", "exp": unix_time(600)});
            let mut client = Client::connect(&node, codec, with_token(&mint(&claims))).await;
            let refresh = Command {
                refresh: Some(Box::new(tidegate_protocol::RefreshRequest {
                    token: token.to_owned(),
                })),
                ..Command::default()
            };
            client.send_commands(vec![refresh]).await;
            assert_eq!(client.closed().await, ending, "{token}");
        }
    }
}

#[tokio::test]
async fn a1_a_weak_secret_is_refused_at_start_and_the_error_names_the_switch() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let config = json!({"client": {"token": {"hmac_secret_key": "secret"}}});
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("writable");
    let args = ["config", "check", "--config", "config.json"];
    let ended = tidegate_tests::cli::run_in(dir.path(), &args).await;
    assert_ne!(ended.code, Some(0));
    let text = format!("{}{}", ended.stdout, ended.stderr);
    assert!(text.contains("insecure_allow_weak_hmac"), "{text}");
    assert!(text.contains("client.token.hmac_secret_key"), "{text}");
}
