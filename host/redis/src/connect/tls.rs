//! TLS towards Redis: certificates from the configuration made into one client.
//!
//! Invariant: without a word from the operator the system's roots judge the server's certificate and its name.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject as _},
    },
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::config::Tls;

/// What the configuration says; texts are PEM.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Who may vouch for the server; the system's roots when `None`.
    pub server_ca_pem: Option<String>,
    /// Our certificate, for servers that want one; with `key_pem`.
    pub cert_pem: Option<String>,
    pub key_pem: Option<String>,
    /// The name in the server's certificate; the host of the address when `None`.
    pub server_name: Option<String>,
    pub insecure_skip_verify: bool,
}

/// Why the settings make no TLS client.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    #[error("{key} holds no PEM certificate")]
    Certificate {
        key: &'static str,
        #[source]
        source: Option<pem::Error>,
    },
    #[error("key_pem holds no PEM private key")]
    Key(#[source] pem::Error),
    #[error("cert_pem and key_pem belong together: set both or neither")]
    HalfAPair,
    #[error("cert_pem and key_pem do not fit")]
    Pair(#[source] Error),
    #[error("server_name is no host name")]
    ServerName,
    #[error("the system has no root certificates; set server_ca_pem")]
    NoRoots,
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
            let verifier = Arc::new(AcceptAnything { provider });
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        } else {
            builder.with_root_certificates(roots(server_ca_pem.as_deref())?)
        };
        let client = match (cert_pem, key_pem) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates("cert_pem", &cert)?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(BadTls::Key)?;
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
        })
    }

    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        let connector = TlsConnector::from(Arc::clone(&self.client));
        connector.connect(name, stream).await
    }
}

fn roots(server_ca_pem: Option<&str>) -> Result<RootCertStore, BadTls> {
    let mut roots = RootCertStore::empty();
    match server_ca_pem {
        Some(pem) => {
            for certificate in certificates("server_ca_pem", pem)? {
                let added = roots.add(certificate);
                added.map_err(|_| BadTls::Certificate {
                    key: "server_ca_pem",
                    source: None,
                })?;
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
        Ok(certificates) if certificates.is_empty() => {
            Err(BadTls::Certificate { key, source: None })
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(BadTls::Certificate {
            key,
            source: Some(error),
        }),
    }
}

/// Believes every certificate: `tls.insecure_skip_verify`, for a laboratory.
#[derive(Debug)]
struct AcceptAnything {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
