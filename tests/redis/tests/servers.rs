//! The servers do what tests rely on: they live and die when told, keep what they should keep, and fail over.

use tidegate_test_redis::{
    ClusterOptions, MinReplicas, RedisCluster, RedisOptions, RedisServer, Reply, SentinelOptions,
    Sentinels, until,
};

#[test]
fn a_server_answers_when_it_has_started_and_is_gone_when_dropped() {
    let server = RedisServer::start(&RedisOptions::default());
    assert_eq!(server.command(&["PING"]), Reply::Status("PONG".to_owned()));
    let (pid, directory) = (server.pid(), server.directory().to_owned());
    drop(server);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(!directory.exists());
}

#[test]
fn a_panicking_test_leaves_no_server_behind() {
    let (pid, seen) = std::sync::mpsc::sync_channel(1);
    let test = std::thread::spawn(move || {
        let server = RedisServer::start(&RedisOptions::default());
        pid.send(server.pid()).unwrap();
        panic!("on purpose");
    });
    assert!(test.join().is_err());
    let pid = seen.recv().unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn twenty_servers_started_at_once_have_ports_of_their_own() {
    let starting: Vec<_> = (0..20)
        .map(|_| std::thread::spawn(|| RedisServer::start(&RedisOptions::default())))
        .collect();
    let servers: Vec<_> = starting
        .into_iter()
        .map(|server| server.join().unwrap())
        .collect();
    let ports: std::collections::BTreeSet<_> = servers.iter().map(RedisServer::port).collect();
    assert_eq!(ports.len(), servers.len());
    assert!(servers.iter().all(|server| server.pid() != 0));
}

#[test]
fn a_killed_server_comes_back_on_its_port_with_what_its_file_held() {
    let mut server = RedisServer::start(&RedisOptions {
        append_only: true,
        ..RedisOptions::default()
    });
    let port = server.port();
    server.command(&["SET", "kept", "yes"]);
    server.kill();
    assert!(server.ask(&["PING"]).is_err());
    server.restart();
    assert_eq!(server.port(), port);
    assert_eq!(server.command(&["GET", "kept"]).text(), "yes");
}

#[test]
fn a_killed_server_without_a_file_comes_back_empty() {
    let mut server = RedisServer::start(&RedisOptions::default());
    server.command(&["SET", "kept", "no"]);
    server.restart();
    assert_eq!(server.command(&["GET", "kept"]), Reply::Nil);
}

#[test]
fn a_paused_server_answers_after_it_resumed() {
    let server = RedisServer::start(&RedisOptions::default());
    server.pause();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    until("the server to stop", || {
        state().contains(") T ").then_some(())
    });
    let mut connection = server.connect().unwrap();
    server.resume();
    assert_eq!(connection.call(&["PING"]).unwrap().text(), "PONG");
}

#[test]
fn passwords_users_debug_memory_and_replicas_are_as_asked_for() {
    let server = RedisServer::start(&RedisOptions {
        password: Some("secret".to_owned()),
        debug_command: true,
        max_memory_bytes: Some(64 << 20),
        min_replicas: Some(MinReplicas {
            count: 1,
            max_lag_seconds: 1,
        }),
        ..RedisOptions::default()
    });
    let mut stranger = tidegate_test_redis::Connection::open(server.port()).unwrap();
    let refused = stranger.call(&["PING"]).unwrap().text();
    assert!(refused.starts_with("NOAUTH"), "{refused}");
    server.command(&["DEBUG", "SLEEP", "0"]);
    assert_eq!(server.info("memory", "maxmemory"), (64 << 20).to_string());
    let refused = server.ask(&["SET", "key", "value"]).unwrap().text();
    assert!(refused.starts_with("NOREPLICAS"), "{refused}");

    let guarded = RedisServer::start(&RedisOptions {
        acl: vec![
            "user default off".to_owned(),
            "user tidegate on >secret ~tg:* &tg:* +@all -@dangerous".to_owned(),
        ],
        ..RedisOptions::default()
    });
    let mut user = guarded.connect().unwrap();
    assert!(user.call(&["PING"]).unwrap().is_error());
    user.call(&["AUTH", "tidegate", "secret"]).unwrap();
    assert_eq!(user.call(&["SET", "tg:key", "1"]).unwrap().text(), "OK");
    assert!(user.call(&["SET", "other", "1"]).unwrap().is_error());
}

#[test]
fn sentinels_promote_a_replica_when_the_primary_is_killed() {
    let mut group = Sentinels::start(&SentinelOptions::default());
    let mut connection = group.primary().connect().unwrap();
    connection.call(&["SET", "kept", "yes"]).unwrap();
    assert_eq!(connection.call(&["WAIT", "2", "5000"]).unwrap().text(), "2");
    let old = group.kill_primary();
    let new = group.failed_over_from(old);
    assert_ne!(old, new);
    assert_eq!(group.primary().command(&["GET", "kept"]).text(), "yes");
}

#[test]
fn a_cluster_survives_the_loss_of_a_primary_at_once_and_moves_slots() {
    let mut cluster = RedisCluster::start(&ClusterOptions::default());
    let key = "{kept}key";
    cluster.primary_of(key).command(&["SET", key, "yes"]);
    cluster.reshard_from(key, 100);
    let mut connection = cluster.primary_of(key).connect().unwrap();
    connection.call(&["SET", key, "again"]).unwrap();
    assert_eq!(connection.call(&["WAIT", "1", "5000"]).unwrap().text(), "1");
    let old = cluster.kill_primary_of(key);
    let new = cluster.failed_over_from(old, key);
    assert_ne!(old, new);
    assert_eq!(
        cluster.primary_of(key).command(&["GET", key]).text(),
        "again"
    );
}
