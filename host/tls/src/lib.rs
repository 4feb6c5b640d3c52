//! TLS of the connections that a node opens: to Redis, to its database.
//!
//! Owns how PEM texts of the configuration become a client, and who judges a server. Knows neither configuration nor
//! what is said over the connection. Invariants: without a word from the operator the system's roots judge the server's
//! certificate and its name; no error repeats what a PEM text holds, since one of them is a private key.

mod verify;

use std::{fmt, io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
pub use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use self::verify::AcceptAnything;

/// What the configuration says; texts are PEM.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Who may vouch for the server; the system's roots when `None`.
    pub server_ca_pem: Option<String>,
    /// Our certificate, for servers that want one; with `key_pem`.
    pub cert_pem: Option<String>,
    pub key_pem: Option<KeyPem>,
    /// The name in the server's certificate; the host of the address when `None`.
    pub server_name: Option<String>,
    pub insecure_skip_verify: bool,
}

/// A private key. Not printable by accident, and gone from memory with its last copy.
#[derive(Clone)]
pub struct KeyPem(Zeroizing<String>);

/// Why the settings make no TLS client.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    #[error("{0} holds no PEM certificate")]
    Certificate(&'static str),
    #[error("key_pem holds no PEM private key")]
    Key,
    #[error("cert_pem and key_pem belong together: set both or neither")]
    HalfAPair,
    #[error("cert_pem and key_pem do not fit")]
    Pair(#[source] rustls::Error),
    #[error("server_name is no host name")]
    ServerName,
    #[error("the system has no root certificates; set server_ca_pem")]
    NoRoots,
}

/// TLS towards a server, ready to use. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    /// The name that the certificate must have, where it is not the host of the address.
    server_name: Option<ServerName<'static>>,
    is_checked: bool,
}

impl Tls {
    /// # Errors
    /// [`BadTls`] names the setting.
    pub fn build(files: TlsFiles) -> Result<Self, BadTls> {
        let TlsFiles {
            server_ca_pem,
            cert_pem,
            key_pem,
            server_name,
            insecure_skip_verify,
        } = files;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        // ring does both versions.
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(BadTls::Pair)?;
        let builder = if insecure_skip_verify {
            let verifier = Arc::new(AcceptAnything::new(provider));
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        } else {
            builder.with_root_certificates(roots(server_ca_pem.as_deref())?)
        };
        let client = match (cert_pem, key_pem) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(KeyPem(key))) => {
                let chain = certificates("cert_pem", &cert)?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| BadTls::Key)?;
                let client = builder.with_client_auth_cert(chain, key);
                client.map_err(BadTls::Pair)?
            }
            (Some(_), None) | (None, Some(_)) => return Err(BadTls::HalfAPair),
        };
        let server_name = match server_name {
            None => None,
            Some(name) => Some(ServerName::try_from(name).map_err(|_| BadTls::ServerName)?),
        };
        Ok(Self {
            client: Arc::new(client),
            server_name,
            is_checked: !insecure_skip_verify,
        })
    }

    /// Whether anybody looks at the server's certificate.
    pub fn is_checked(&self) -> bool {
        self.is_checked
    }

    /// Begins TLS on an open connection to this host.
    ///
    /// # Errors
    /// What the handshake came to; `host` is no name that a certificate can have.
    ///
    /// # Cancel safety
    /// The connection is lost when the future is dropped; nothing of ours was said by then.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        let connector = TlsConnector::from(Arc::clone(&self.client));
        connector.connect(name, stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("server_name", &self.server_name)
            .field("is_checked", &self.is_checked)
            .finish_non_exhaustive()
    }
}

impl From<String> for KeyPem {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPem(…)")
    }
}

fn roots(server_ca_pem: Option<&str>) -> Result<RootCertStore, BadTls> {
    let mut roots = RootCertStore::empty();
    match server_ca_pem {
        Some(pem) => {
            for certificate in certificates("server_ca_pem", pem)? {
                let added = roots.add(certificate);
                added.map_err(|_| BadTls::Certificate("server_ca_pem"))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(BadTls::NoRoots);
            }
        }
    }
    Ok(roots)
}

fn certificates(key: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match parsed {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        // The parser's own words can hold a line of the text.
        Ok(_) | Err(_) => Err(BadTls::Certificate(key)),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    /// A certificate that vouches for itself, and its key.
    fn pair(name: &str) -> (String, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    fn files() -> (TlsFiles, String) {
        let (certificate, key) = pair("node.test");
        let files = TlsFiles {
            server_ca_pem: Some(pair("server.test").0),
            cert_pem: Some(certificate),
            key_pem: Some(key.clone().into()),
            server_name: Some("server.test".to_owned()),
            insecure_skip_verify: false,
        };
        (files, key)
    }

    #[track_caller]
    fn refuses(wrong: TlsFiles, says: &str) {
        let error = Tls::build(wrong).expect_err("refused").to_string();
        assert!(error.contains(says), "{error}");
    }

    #[test]
    fn settings_that_do_not_fit_say_which() {
        let (files, _) = files();
        let files = || files.clone();
        assert!(Tls::build(files()).expect("these fit").is_checked());
        let key_pem = None;
        refuses(TlsFiles { key_pem, ..files() }, "belong together");
        let key_pem = Some(pair("other.test").1.into());
        refuses(TlsFiles { key_pem, ..files() }, "do not fit");
        let server_ca_pem = Some("nothing".to_owned());
        refuses(
            TlsFiles {
                server_ca_pem,
                ..files()
            },
            "server_ca_pem",
        );
        let server_name = Some("not a name".to_owned());
        refuses(
            TlsFiles {
                server_name,
                ..files()
            },
            "server_name",
        );
    }

    #[test]
    fn m6_a_private_key_is_in_no_error_and_in_no_debug_output() {
        let (files, key) = files();
        let secret = key.lines().nth(1).unwrap();
        let damaged = [
            // What a hand that copies leaves out or joins.
            key.replace("-----END", "----END"),
            key.replace('\n', " "),
            format!("-----BEGIN {secret}\n{key}"),
        ];
        for key_pem in damaged {
            let wrong = TlsFiles {
                // An operator may have confused the two, too.
                server_ca_pem: Some(key_pem.clone()),
                cert_pem: Some(key_pem.clone()),
                key_pem: Some(key_pem.into()),
                ..files.clone()
            };
            assert!(!format!("{:?}", wrong.key_pem).contains(secret));
            let skipped = TlsFiles {
                insecure_skip_verify: true,
                cert_pem: files.cert_pem.clone(),
                ..wrong.clone()
            };
            for wrong in [wrong, skipped] {
                let Err(error) = Tls::build(wrong) else {
                    continue;
                };
                let text = format!("{error:?} {error} {:?}", error.source());
                assert!(!text.contains(secret), "{text}");
            }
        }
    }
}
