//! TLS towards PostgreSQL.
//!
//! Invariant: where TLS is required, the server's certificate and its name are checked, unless the operator switched
//! that off by name. Where it is only preferred nothing is checked, as everywhere: whoever can stand in between can
//! also say that there is no TLS.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Socket,
    config::SslMode,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_rustls::TlsConnector;

/// What the configuration says; texts are PEM.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Who may vouch for the server; the system's roots when `None`.
    pub server_ca_pem: Option<String>,
    /// Our certificate, for servers that want one; with `key_pem`.
    pub cert_pem: Option<String>,
    pub key_pem: Option<crate::Secret>,
    /// The name in the server's certificate; the host of the address when `None`.
    pub server_name: Option<String>,
    pub insecure_skip_verify: bool,
}

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
    Pair(#[source] Error),
    #[error("server_name is no host name")]
    ServerName,
    #[error("the system has no root certificates; set server_ca_pem")]
    NoRoots,
}

/// Makes TLS of a connection.
#[derive(Clone)]
pub(super) struct Connector {
    client: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Connector {
    pub(super) fn new(files: TlsFiles, mode: SslMode) -> Result<Self, BadTls> {
        let TlsFiles {
            server_ca_pem,
            cert_pem,
            key_pem,
            server_name,
            insecure_skip_verify,
        } = files;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(BadTls::Pair)?;
        // A certificate authority that was named is asked, whatever the mode.
        let is_checked =
            !insecure_skip_verify && (mode == SslMode::Require || server_ca_pem.is_some());
        let builder = if is_checked {
            builder.with_root_certificates(roots(server_ca_pem.as_deref())?)
        } else {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAnything { provider }))
        };
        let client = match (cert_pem, key_pem) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates("cert_pem", &cert)?;
                let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes());
                let key = key.map_err(|_| BadTls::Key)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(BadTls::Pair)?
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
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
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
        Ok(_) | Err(_) => Err(BadTls::Certificate(key)),
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Stream;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Handshake, io::Error> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(domain.to_owned()).map_err(io::Error::other)?,
        };
        Ok(Handshake {
            connector: TlsConnector::from(Arc::clone(&self.client)),
            name,
        })
    }
}

/// One handshake to come.
pub(super) struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let stream = self.connector.connect(self.name, socket).await?;
            Ok(Stream(Box::new(stream)))
        })
    }
}

/// A connection inside TLS.
pub(super) struct Stream(Box<tokio_rustls::client::TlsStream<Socket>>);

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        // The certificate is checked against roots, which binding to it would add nothing to.
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(ctx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(ctx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(ctx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(ctx)
    }
}

/// Believes every certificate.
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
