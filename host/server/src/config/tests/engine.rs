//! The section `engine`.

use tidegate_redis::{
    Topology,
    config::{Ack, Address},
};

use super::*;

#[track_caller]
fn redis(text: &str, variables: &[(&str, &str)]) -> RedisConfig {
    match good(text, variables).engine {
        EngineConfig::Redis(config) => *config,
        EngineConfig::Memory { .. } => panic!("memory"),
    }
}

#[test]
fn memory_is_the_engine_unless_told_otherwise() {
    let text =
        "[engine.memory]\nmax_bytes = \"1MiB\"\n[engine.redis]\naddress = [\"redis://redis\"]";
    let config = good(text, &[]).engine;
    assert!(matches!(
        config,
        EngineConfig::Memory {
            max_bytes: 1_048_576
        }
    ));
}

#[test]
fn addresses_are_shards_and_say_more_than_the_keys_beside_them() {
    let config = redis(
        "[engine]\ntype = \"redis\"\n[engine.redis]\nuser = \"app\"\naddress = [\"redis://one:7000\", \"redis://other:pw@two/2\"]",
        &[("TIDEGATE_ENGINE_REDIS_PASSWORD", "of the environment")],
    );
    assert_eq!(config.prefix.as_str(), "tg");
    let shards: Vec<_> = config
        .shards
        .iter()
        .map(|shard| match shard {
            Topology::Standalone { address, login } => (
                address.to_string(),
                &*login.user,
                &*login.password,
                login.db,
            ),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        shards,
        [
            ("one:7000".to_owned(), "app", "of the environment", 0),
            ("two:6379".to_owned(), "other", "pw", 2),
        ]
    );
    assert!(!format!("{config:?}").contains("of the environment"));
}

#[test]
fn sentinels_and_clusters_are_configured_as_in_the_reference() {
    let config = redis(
        "[engine]\ntype = \"redis\"\n[engine.redis]\nsentinel_address = [\"s1\", \"s2:26380\"]\nsentinel_master_name = \"mymaster\"\nsentinel_password = \"sp\"\npassword = \"rp\"",
        &[],
    );
    let [
        Topology::Sentinel {
            sentinels,
            sentinel_login,
            master_name,
            login,
        },
    ] = &config.shards[..]
    else {
        panic!("{config:?}");
    };
    assert_eq!(
        sentinels[..],
        [Address::new("s1", 26379), Address::new("s2", 26380)]
    );
    assert_eq!(
        (&**master_name, &*sentinel_login.password, &*login.password),
        ("mymaster", "sp", "rp")
    );
    let config = redis(
        "[engine]\ntype = \"redis\"\n[engine.redis]\ncluster_address = [\"c1\", \"c2\"]\n[engine.redis.tls]\nenabled = true\ninsecure_skip_verify = true",
        &[],
    );
    let [Topology::Cluster { seeds, login }] = &config.shards[..] else {
        panic!("{config:?}");
    };
    assert_eq!(seeds.len(), 2);
    assert!(login.tls.as_ref().is_some_and(|tls| !tls.is_checked()));
    assert!(config.trusts_anybody(), "which the node warns of");
}

#[test]
fn what_cannot_be_is_refused_by_key_and_no_address_is_shown() {
    refused(
        r#"
[engine]
type = "redis"
[engine.redis]
prefix = "a:b"
connect_timeout = "2s"
io_timeout = "5s"
address = ["redis://user:hunter2@host:port"]
"#,
        &[
            (5, "engine.redis.prefix", "a-z"),
            (6, "engine.redis.connect_timeout", "at most 1s"),
            (7, "engine.redis.io_timeout", "at most 4s"),
            (8, "engine.redis.address", "rediss://"),
        ],
    );
    let text =
        "[engine]\ntype = \"redis\"\n[engine.redis]\naddress = [\"redis://u:hunter2@host:port\"]";
    let problems = load_text(text, "toml", &[]).unwrap_err();
    assert!(!problems.to_string().contains("hunter2"), "{problems}");
    refused(
        "[engine]\ntype = \"redis\"\n[engine.redis]\ncluster_address = [\"a\"]\nsentinel_address = [\"b\"]",
        &[(4, "engine.redis.cluster_address", "keep one")],
    );
    refused(
        "[engine]\ntype = \"redis\"\n[engine.redis]\nsentinel_address = [\"b\"]",
        &[(0, "engine.redis.sentinel_master_name", "sentinel monitor")],
    );
    refused(
        "[engine]\ntype = \"redis\"\n[engine.redis]\naddress = [\"rediss://b\"]\n[engine.redis.tls]\nserver_ca_pem = \"/nowhere\"",
        &[(6, "engine.redis.tls.server_ca_pem", "nor a file")],
    );
}

#[test]
fn only_redis_has_replicas_to_wait_for() {
    let config = redis(
        "[engine]\ntype = \"redis\"\n[publish]\nack = \"replicated\"",
        &[],
    );
    assert_eq!(config.ack, Ack::Replicated);
    refused(
        "[publish]\nack = \"replicated\"",
        &[(2, "publish.ack", "no replicas")],
    );
    refused(
        "[publish]\nack = \"all\"",
        &[(2, "publish.ack", "\"primary\"")],
    );
}
