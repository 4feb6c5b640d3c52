//! TLS towards a real PostgreSQL, which wants our certificate too. Names and keys are made anew for every run.

use std::{error::Error, iter};

use tidegate_control::{OpenError, PostgresConfig, PostgresSettings, Secret, Store};
use tidegate_test_postgres::{PostgresServer, ServerTls};
use tidegate_test_redis::Authority;
use tidegate_tls::TlsFiles;

/// The name in the server's certificate; its address is 127.0.0.1.
const NAME: &str = "db.test";

/// Connects and reads something.
fn connect(server: &PostgresServer, mode: &str, tls: TlsFiles) -> Result<(), OpenError> {
    let config = PostgresConfig::parse(PostgresSettings {
        url: Secret::stored(format!("{}{mode}", server.url())),
        schema: "tidegate".to_owned(),
        tls,
        max_copy_age: None,
    });
    let store = Store::connect_for_a_command(config.expect("the settings fit"))?;
    store.revision()?;
    Ok(())
}

#[track_caller]
fn is_refused(what: &str, connected: Result<(), OpenError>, says: &str) {
    let Err(error) = connected else {
        panic!("{what}: connected");
    };
    let causes = iter::successors(Some(&error as &dyn Error), |&error| error.source());
    let text: Vec<String> = causes.map(ToString::to_string).collect();
    let text = text.join(": ");
    assert!(text.contains(says), "{what}: {text}");
}

#[test]
fn a_database_is_reached_over_tls_and_each_side_shows_who_it_is() {
    let authority = Authority::new();
    let (ours, its) = (authority.pair_for("node.test"), authority.pair_for(NAME));
    let server = PostgresServer::start_with_tls(&ServerTls {
        pair: its,
        clients: authority.certificate().to_owned(),
    });
    let files = || TlsFiles {
        server_ca_pem: Some(authority.certificate().to_owned()),
        cert_pem: Some(ours.certificate.clone()),
        key_pem: Some(ours.key.clone().into()),
        server_name: Some(NAME.to_owned()),
        insecure_skip_verify: false,
    };
    for mode in ["?sslmode=require", "?sslmode=verify-full", ""] {
        connect(&server, mode, files()).expect("connected");
    }

    let another = Authority::new();
    let stranger = another.pair_for("node.test");
    let require = |tls| connect(&server, "?sslmode=require", tls);
    let tls = TlsFiles {
        server_ca_pem: Some(another.certificate().to_owned()),
        ..files()
    };
    is_refused("another CA", require(tls.clone()), "certificate");
    // Who was named is asked, also where TLS is no must.
    is_refused("another CA", connect(&server, "", tls), "certificate");
    let tls = TlsFiles {
        server_name: None,
        ..files()
    };
    is_refused("another name", require(tls), "certificate");
    let tls = TlsFiles {
        cert_pem: None,
        key_pem: None,
        ..files()
    };
    is_refused("no certificate of ours", require(tls), "certificate");
    let tls = TlsFiles {
        cert_pem: Some(stranger.certificate),
        key_pem: Some(stranger.key.into()),
        ..files()
    };
    let refused = require(tls);
    assert!(refused.is_err(), "a certificate of another authority");
    let plain = connect(&server, "?sslmode=disable", files());
    is_refused("no TLS", plain, "no encryption");

    let unchecked = TlsFiles {
        server_ca_pem: None,
        server_name: None,
        insecure_skip_verify: true,
        ..files()
    };
    require(unchecked).expect("connected");
}

#[test]
fn nothing_is_said_to_a_database_that_has_no_tls() {
    let server = PostgresServer::start();
    let unchecked = || TlsFiles {
        insecure_skip_verify: true,
        ..TlsFiles::default()
    };
    let refused = connect(&server, "?sslmode=require", unchecked());
    is_refused("no TLS", refused, "does not support TLS");
    connect(&server, "", unchecked()).expect("on the loopback it need not");
}
