//! TLS towards PostgreSQL, as its client wants it handed over.
//!
//! Invariant: where TLS is required, the server's certificate and its name are checked, unless the operator switched
//! that off by name. Where it is only preferred nothing is checked, as everywhere: whoever can stand in between can
//! also say that there is no TLS.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tidegate_tls::{BadTls, Tls, TlsFiles};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Socket,
    config::SslMode,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};

/// Makes TLS of a connection.
#[derive(Debug, Clone)]
pub(super) struct Connector(Tls);

impl Connector {
    pub(super) fn new(files: TlsFiles, mode: SslMode) -> Result<Self, BadTls> {
        // A certificate authority that was named is asked, whatever the mode.
        let is_wanted = mode == SslMode::Require || files.server_ca_pem.is_some();
        let insecure_skip_verify = files.insecure_skip_verify || !is_wanted;
        let tls = Tls::build(TlsFiles {
            insecure_skip_verify,
            ..files
        })?;
        Ok(Self(tls))
    }

    pub(super) fn is_checked(&self) -> bool {
        self.0.is_checked()
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Stream;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Handshake, io::Error> {
        Ok(Handshake {
            tls: self.0.clone(),
            domain: domain.to_owned(),
        })
    }
}

/// One handshake to come.
pub(super) struct Handshake {
    tls: Tls,
    domain: String,
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let Self { tls, domain } = self;
            let stream = tls.connect(&domain, socket).await?;
            Ok(Stream(Box::new(stream)))
        })
    }
}

/// A connection inside TLS.
pub(super) struct Stream(Box<tidegate_tls::TlsStream<Socket>>);

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
