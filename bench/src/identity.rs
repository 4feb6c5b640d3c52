//! Connection tokens for the load: each connection is a user of its own, as in real life.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What the measured server checks tokens with; made up for measuring.
pub const TOKEN_SECRET: &str = "the-secret-of-a-server-that-is-only-measured";

/// The connect command of connection `index`, with a token of its own user.
pub fn connect_command(index: usize) -> String {
    format!(
        r#"{{"id":1,"connect":{{"token":"{}"}}}}"#,
        token(&format!("user-{index}"))
    )
}

/// The connect command of a user of an app whose tokens have this secret.
pub fn connect_command_with(secret: &str, user: &str) -> String {
    format!(
        r#"{{"id":1,"connect":{{"token":"{}"}}}}"#,
        token_with(secret, user)
    )
}

fn token(user: &str) -> String {
    token_with(TOKEN_SECRET, user)
}

/// A token of one hour.
fn token_with(secret: &str, user: &str) -> String {
    let expires_at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs())
        + 3600;
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(serde_json::json!({ "alg": "HS256", "typ": "JWT" }));
    let signed = format!(
        "{header}.{}",
        part(serde_json::json!({ "sub": user, "exp": expires_at }))
    );
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(signed.as_bytes());
    format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_three_parts_and_names_its_user() {
        let token = token("user-7");
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts.len(), 3);
        let claims = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
        assert!(
            String::from_utf8(claims)
                .unwrap()
                .contains(r#""sub":"user-7""#)
        );
    }
}
