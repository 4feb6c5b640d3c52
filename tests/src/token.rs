//! Connection tokens, made here and not by the server, so that both are checked against the standard.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::{Sha256, Sha384, Sha512};

/// The secret that tests configure: `client.token.hmac_secret_key`.
pub const SECRET: &str = "a secret of thirty-two bytes or more, for tests";

/// An HS256 token with these claims.
///
/// # Panics
/// Never: HMAC takes a key of any length.
pub fn mint(claims: &Value) -> String {
    mint_with(SECRET, &json!({ "alg": "HS256", "typ": "JWT" }), claims)
}

/// A token with any header, signed by HMAC-SHA256 with `secret`.
///
/// # Panics
/// Never: HMAC takes a key of any length.
pub fn mint_with(secret: &str, header: &Value, claims: &Value) -> String {
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key length");
    mac.update(signed.as_bytes());
    format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

/// A token signed by the HMAC of this size: `HS256`, `HS384` or `HS512`, which its header names.
///
/// # Panics
/// When the algorithm is another one.
pub fn mint_as(algorithm: &str, secret: &str, claims: &Value) -> String {
    let header = json!({ "alg": algorithm, "typ": "JWT" });
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    macro_rules! sign {
        ($hash:ty) => {{
            let mac = Hmac::<$hash>::new_from_slice(secret.as_bytes()).expect("any key length");
            let mac = mac.chain_update(&signed).finalize().into_bytes();
            URL_SAFE_NO_PAD.encode(mac)
        }};
    }
    let signature = match algorithm {
        "HS256" => sign!(Sha256),
        "HS384" => sign!(Sha384),
        "HS512" => sign!(Sha512),
        other => panic!("{other} is not an HMAC of a token"),
    };
    format!("{signed}.{signature}")
}

/// Seconds since 1970, `offset` from now.
///
/// # Panics
/// When the clock is before 1970.
pub fn unix_time(offset: i64) -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("the clock is past 1970");
    i64::try_from(now.as_secs()).expect("the clock is before the end of time") + offset
}

/// A ticket for the plugin `ticket-auth`, as an app's back end signs it.
///
/// # Panics
/// Never: HMAC takes a key of any length.
pub fn ticket(secret: &str, payload: &Value) -> String {
    let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key length");
    mac.update(payload.as_bytes());
    let mac = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    format!("{payload}.{mac}")
}
