//! Certificates for tests of TLS, whatever the server: made when they are needed, trusted by nobody else.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// Who vouches for servers and clients.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// # Panics
    /// When the system has no randomness.
    #[expect(
        clippy::new_without_default,
        reason = "each is another one, which a default is not"
    )]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed").pem();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// In PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a host or a client of this name.
    ///
    /// # Panics
    /// When it is no name.
    pub fn pair_for(&self, name: &str) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        // Without a subject of its own it would look as if it had signed itself.
        params
            .distinguished_name
            .push(DnType::CommonName, name.to_owned());
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}
