//! TLS towards a real Redis, which wants our certificate too. Names and keys are made anew for every run.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tidegate_redis::{
    Pipe, RedisFailure, Route, Topology,
    commands::{InFlight, value::text},
    config::{Address, Login, Tls},
    connect::{ConnectError, Connector, TlsFiles},
};
use tidegate_test_redis::{FREE_PORT, RedisOptions, RedisServer};
use tokio::time::Duration;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The name in the server's certificate; its address is 127.0.0.1.
const NAME: &str = "redis.test";

/// A certificate and its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
}

/// Who vouches for servers and clients.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed").pem();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn pair_for(&self, name: &str) -> Pair {
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

/// A server with TLS and what it takes to be let in.
struct World {
    server: RedisServer,
    /// Where TLS is spoken.
    port: u16,
    files: TlsFiles,
    _folder: TempDir,
}

impl World {
    fn start() -> Self {
        let authority = Authority::new();
        let (ours, its) = (authority.pair_for("node.test"), authority.pair_for(NAME));
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("the folder is ours");
            path.display().to_string()
        };
        let server = RedisServer::start(&RedisOptions {
            lines: vec![
                format!("tls-port {FREE_PORT}"),
                format!("tls-cert-file {}", write("server.pem", &its.certificate)),
                format!("tls-key-file {}", write("server.key.pem", &its.key)),
                format!(
                    "tls-ca-cert-file {}",
                    write("ca.pem", &authority.certificate)
                ),
                "tls-auth-clients yes".to_owned(),
            ],
            ..RedisOptions::default()
        });
        let answer = server.command(&["CONFIG", "GET", "tls-port"]);
        let port = answer.list()[1].text().parse().expect("a port");
        let files = TlsFiles {
            server_ca_pem: Some(authority.certificate),
            cert_pem: Some(ours.certificate),
            key_pem: Some(ours.key),
            server_name: Some(NAME.to_owned()),
            insecure_skip_verify: false,
        };
        Self {
            server,
            port,
            files,
            _folder: folder,
        }
    }

    fn connector(&self, files: TlsFiles) -> Connector {
        let login = Login {
            tls: Some(Tls::build(files).expect("the settings fit")),
            ..Login::default()
        };
        let topology = Topology::Standalone {
            address: self.address(),
            login,
        };
        Connector::new(topology, Duration::from_secs(10))
    }

    fn address(&self) -> Address {
        Address::new("127.0.0.1", self.port)
    }

    async fn open(&self, files: TlsFiles) -> Result<(), ConnectError> {
        let connector = self.connector(files);
        connector.open(&self.address()).await.map(|_| ())
    }

    /// Whether commands get through within a while; what was refused last otherwise.
    async fn command(&self, files: TlsFiles) -> Result<String, RedisFailure> {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let _stops = stop.clone().drop_guard();
        let pipe = Pipe::start(
            self.connector(files),
            Duration::from_secs(4),
            InFlight::new(10),
            &tracker,
            &stop,
        );
        let mut command = redis::cmd("ECHO");
        command.arg("over TLS");
        let answer = pipe.run(&command, Route::Any).await?;
        Ok(text(&answer).unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn r1_redis_is_reached_over_tls_and_each_side_shows_who_it_is() {
    let world = World::start();
    let files = || world.files.clone();
    world.open(files()).await.expect("connected");
    let answered = world.command(files()).await;
    assert_eq!(answered.as_deref(), Ok("over TLS"));
    let another = Authority::new();
    let stranger = another.pair_for("node.test");
    for (wrong, what) in [
        (
            TlsFiles {
                server_ca_pem: Some(another.certificate.clone()),
                ..files()
            },
            "another CA",
        ),
        (
            TlsFiles {
                server_name: None,
                ..files()
            },
            "a name that is not in the certificate",
        ),
        (
            TlsFiles {
                cert_pem: None,
                key_pem: None,
                ..files()
            },
            "no certificate of ours",
        ),
        (
            TlsFiles {
                cert_pem: Some(stranger.certificate),
                key_pem: Some(stranger.key),
                ..files()
            },
            "a certificate that another authority made",
        ),
    ] {
        let refused = world.open(wrong).await;
        assert!(
            matches!(refused, Err(ConnectError::Unreachable { .. })),
            "{what}: {refused:?}"
        );
    }
    let unchecked = TlsFiles {
        server_ca_pem: None,
        server_name: None,
        insecure_skip_verify: true,
        ..files()
    };
    world.open(unchecked).await.expect("connected");
    assert_eq!(world.server.command(&["PING"]).text(), "PONG");
}

#[tokio::test]
async fn r1_nothing_is_said_to_a_server_that_has_no_tls() {
    let world = World::start();
    let plain = Address::new("127.0.0.1", world.server.port());
    let connector = world.connector(world.files.clone());
    let refused = connector.open(&plain).await;
    assert!(
        matches!(refused, Err(ConnectError::Unreachable { .. })),
        "{refused:?}"
    );
}

#[test]
fn settings_that_do_not_fit_say_which() {
    let authority = Authority::new();
    let (ours, other) = (authority.pair_for("node.test"), authority.pair_for(NAME));
    let files = || TlsFiles {
        server_ca_pem: Some(authority.certificate.clone()),
        cert_pem: Some(ours.certificate.clone()),
        key_pem: Some(ours.key.clone()),
        server_name: Some(NAME.to_owned()),
        insecure_skip_verify: false,
    };
    Tls::build(files()).expect("these fit");
    for (wrong, part) in [
        (
            TlsFiles {
                key_pem: None,
                ..files()
            },
            "belong together",
        ),
        (
            TlsFiles {
                key_pem: Some(other.key),
                ..files()
            },
            "do not fit",
        ),
        (
            TlsFiles {
                server_ca_pem: Some("nothing".to_owned()),
                ..files()
            },
            "server_ca_pem",
        ),
        (
            TlsFiles {
                server_name: Some("not a name".to_owned()),
                ..files()
            },
            "server_name",
        ),
    ] {
        let error = Tls::build(wrong).expect_err("refused").to_string();
        assert!(error.contains(part), "{error}");
    }
}
