//! TLS towards a real Redis, which wants our certificate too. Names and keys are made anew for every run.

use std::fs;

use tempfile::TempDir;
use tidegate_redis::{
    Pipe, RedisFailure, Route, Topology,
    commands::{InFlight, value::text},
    config::{Address, Login},
    connect::{ConnectError, Connector},
};
use tidegate_test_redis::{Authority, FREE_PORT, RedisOptions, RedisServer};
use tidegate_tls::{Tls, TlsFiles};
use tokio::time::Duration;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The name in the server's certificate; its address is 127.0.0.1.
const NAME: &str = "redis.test";

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
                    write("ca.pem", authority.certificate())
                ),
                "tls-auth-clients yes".to_owned(),
            ],
            ..RedisOptions::default()
        });
        let answer = server.command(&["CONFIG", "GET", "tls-port"]);
        let port = answer.list()[1].text().parse().expect("a port");
        let files = TlsFiles {
            server_ca_pem: Some(authority.certificate().to_owned()),
            cert_pem: Some(ours.certificate),
            key_pem: Some(ours.key.into()),
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
                server_ca_pem: Some(another.certificate().to_owned()),
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
                key_pem: Some(stranger.key.into()),
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
