//! `token`: a connection token signed with the configured secret, for trying things out.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use super::{Failure, Output, config_file};
use crate::config::{
    self, ProcessEnvironment, Secret, Sources, TokenClaimRule, TokenConfig, units,
};

/// Mints a token
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate token --config tidegate.toml --user alice
  tidegate token --config tidegate.toml --user alice --ttl 24h --info '{\"name\": \"Alice\"}' --channel news")]
pub struct Token {
    #[command(flatten)]
    pub(super) claims: Claims,
    /// Configuration file with client.token.hmac_secret_key [env: TIDEGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What a minted token says.
#[derive(Debug, Args)]
pub(super) struct Claims {
    /// User id; empty for an anonymous client
    #[arg(long, value_name = "USER", default_value = "")]
    pub(super) user: String,
    /// How long the token is good for, as in 10m or 24h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = units::parse_duration)]
    ttl: Duration,
    /// JSON shown to others with what the client publishes
    #[arg(long, value_name = "JSON", value_parser = json_argument)]
    info: Option<Value>,
    /// Channel to subscribe the client to; may be given several times
    #[arg(long = "channel", value_name = "CHANNEL", id = "server_side")]
    server_side: Vec<String>,
    /// JSON kept on the server for plugins
    #[arg(long, value_name = "JSON", value_parser = json_argument)]
    meta: Option<Value>,
}

pub(super) fn json_argument(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("not JSON ({error}); quote it as in '{{\"name\": \"Alice\"}}'"))
}

pub(super) fn run(command: Token, output: Output) -> Result<(), Failure> {
    let config = load(command.config)?;
    if command.claims.user.is_empty() {
        output.note("note: without --user this is the token of an anonymous client");
    }
    let (token, expires_at) = mint(&config, command.claims, SystemTime::now())?;
    output.result(&json!({"token": token, "expires_at": expires_at}), || {
        token.clone()
    });
    Ok(())
}

pub(super) fn load(option: Option<PathBuf>) -> Result<TokenConfig, Failure> {
    let file = config_file(option, &ProcessEnvironment);
    let loaded = config::load(Sources {
        file: file.as_deref(),
        environment: &ProcessEnvironment,
        data_dir: None,
    })?;
    Ok(loaded.config.token)
}

/// Signs the claims so that a server with this configuration accepts them.
pub(super) fn mint(
    config: &TokenConfig,
    claims: Claims,
    now: SystemTime,
) -> Result<(String, u64), Failure> {
    let Some(secret) = &config.hmac_secret else {
        return Err(Failure::usage("no token secret is configured")
            .hint("set client.token.hmac_secret_key in the file given with --config, or TIDEGATE_CLIENT_TOKEN_HMAC_SECRET_KEY"));
    };
    let Claims {
        user,
        ttl,
        info,
        server_side,
        meta,
    } = claims;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let expires_at = now.saturating_add(ttl.as_secs());
    let mut body = Map::new();
    let user_claim = config.user_id_claim.as_deref().unwrap_or("sub");
    body.insert(user_claim.to_owned(), user.into());
    body.insert("iat".into(), now.into());
    body.insert("exp".into(), expires_at.into());
    if let Some(info) = info {
        body.insert("info".into(), info);
    }
    if let Some(meta) = meta {
        body.insert("meta".into(), meta);
    }
    if !server_side.is_empty() {
        body.insert("channels".into(), server_side.into());
    }
    for (claim, rule) in [("aud", &config.audience), ("iss", &config.issuer)] {
        match rule {
            Some(TokenClaimRule::Exactly(text)) => {
                body.insert(claim.into(), text.clone().into());
            }
            Some(TokenClaimRule::Matches(_)) => {
                return Err(Failure::usage(format!("the configuration asks for a pattern in `{claim}`, for which no text can be made up"))
                    .hint("mint this token with your own back end"));
            }
            None => {}
        }
    }
    Ok((sign(secret, &Value::Object(body)), expires_at))
}

fn sign(secret: &Secret, claims: &Value) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .expect("HMAC takes a key of any length");
    mac.update(signed.as_bytes());
    format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn config(pairs: &[(&str, &str)]) -> TokenConfig {
        let environment: BTreeMap<String, String> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let sources = Sources {
            file: None,
            environment: &environment,
            data_dir: None,
        };
        config::load(sources).unwrap().config.token
    }

    fn claims() -> Claims {
        Claims {
            user: "alice".into(),
            ttl: Duration::from_secs(60),
            info: Some(json!({"name": "Alice"})),
            server_side: vec!["news".into()],
            meta: None,
        }
    }

    #[test]
    fn a_token_says_what_was_asked_and_what_the_configuration_wants() {
        let config = config(&[
            (
                "TIDEGATE_CLIENT_TOKEN_HMAC_SECRET_KEY",
                "0123456789abcdef0123456789abcdef",
            ),
            ("TIDEGATE_CLIENT_TOKEN_ISSUER", "me"),
            ("TIDEGATE_CLIENT_TOKEN_USER_ID_CLAIM", "uid"),
        ]);
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let (token, expires_at) = mint(&config, claims(), now).unwrap();
        assert_eq!(expires_at, 1_060);
        let body = URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1).unwrap())
            .unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            body,
            json!({"uid": "alice", "iat": 1_000, "exp": 1_060, "iss": "me", "info": {"name": "Alice"}, "channels": ["news"]})
        );
    }

    #[test]
    fn the_signature_is_the_one_of_rfc_7515() {
        // HS256 over a known token (jwt.io's example).
        let secret = Secret::new("your-256-bit-secret");
        let claims: Value = serde_json::from_str(r#"{"sub":"1234567890"}"#).unwrap();
        let token = sign(&secret, &claims);
        assert!(
            token.starts_with("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0."),
            "{token}"
        );
        assert_eq!(token.rsplit('.').next().unwrap().len(), 43);
    }

    #[test]
    fn without_a_secret_the_failure_names_the_key() {
        let failure = mint(&config(&[]), claims(), SystemTime::now()).unwrap_err();
        assert!(failure.hint.contains("client.token.hmac_secret_key"));
    }
}
