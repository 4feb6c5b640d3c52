//! The keys of TLS towards another machine, the same in every section that has them.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tidegate_tls::TlsFiles;

use super::super::{settings::Scope, tree::Problem};

/// What a section says; texts that cannot be read are problems, and left out.
pub(super) fn files(root: &Scope, section: &str, problems: &mut Vec<Problem>) -> TlsFiles {
    let name = |key: &str| format!("{section}.{key}");
    let mut text = |key: &str, value: Option<String>| {
        let read = read_pem(&value?);
        if let Err(message) = &read {
            problems.push(root.problem(&name(key), message.clone()));
        }
        read.ok()
    };
    let key_pem = root.secret(&name("key_pem"));
    TlsFiles {
        server_ca_pem: text("server_ca_pem", root.filled_text(&name("server_ca_pem"))),
        cert_pem: text("cert_pem", root.filled_text(&name("cert_pem"))),
        key_pem: text("key_pem", key_pem.map(|key| key.expose().to_owned())).map(Into::into),
        server_name: root.filled_text(&name("server_name")),
        insecure_skip_verify: root.flag(&name("insecure_skip_verify")),
    }
}

/// PEM as it is, in base64, or in a file; as in the reference.
fn read_pem(text: &str) -> Result<String, String> {
    const BEGIN: &str = "-----BEGIN ";
    if text.contains(BEGIN) {
        return Ok(text.to_owned());
    }
    let decoded = STANDARD.decode(text).ok();
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(decoded) = decoded.filter(|decoded| decoded.contains(BEGIN)) {
        return Ok(decoded);
    }
    let read = fs::read_to_string(text);
    read.map_err(|error| {
        format!("is neither PEM, nor PEM in base64, nor a file that can be read ({error})")
    })
}
