//! What commands say when they cannot do it: exit codes, messages, the next step.

use std::{net::TcpListener, path::Path};

use super::*;

/// Runs a command that must fail, for people and for programs: same code, nothing on standard output, a message, and
/// what to do next, which must say `next`.
async fn check_failure(
    dir: &Path,
    variables: &[(&str, &str)],
    args: &[&str],
    code: i32,
    next: &str,
) {
    let ended = run_with(dir, variables, args).await;
    assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
    assert_eq!(ended.stdout, "", "{args:?}");
    assert!(
        ended.stderr.starts_with("error: "),
        "{args:?}: {}",
        ended.stderr
    );
    assert!(ended.stderr.contains(next), "{args:?}: {}", ended.stderr);
    let args = [args, &["--json"]].concat();
    let ended = run_with(dir, variables, &args).await;
    assert_eq!((ended.code, &*ended.stdout), (Some(code), ""), "{args:?}");
    let said: Value = serde_json::from_str(&ended.stderr)
        .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", ended.stderr));
    assert_eq!(
        members(&said["error"]),
        ["details", "hint", "message"],
        "{args:?}"
    );
    let all = format!("{} {}", said["error"]["message"], said["error"]["hint"]);
    assert!(all.contains(next), "{args:?}: {all}");
}

/// Every command that asks a server, with arguments that are good.
const ASKING: [&[&str]; 19] = [
    &["plugin", "list"],
    &["plugin", "schedule"],
    &["plugin", "versions", "nope"],
    &["plugin", "inspect", "nope"],
    &["plugin", "activate", "nope", "1"],
    &["plugin", "rollback", "nope"],
    &["plugin", "bind", "nope", "filtering"],
    &["plugin", "unbind", "nope"],
    &["plugin", "logs", "nope"],
    &["plugin", "logs", "nope", "--follow"],
    &["plugin", "delete", "nope"],
    &["explain", "a71cd982164b"],
    &["app", "list"],
    &["app", "create", "nope"],
    &["app", "delete", "nope"],
    &["app", "keys", "nope"],
    &["publish", ROOM, "{}"],
    &["health"],
    &["subscribe", ROOM],
];

#[tokio::test]
async fn without_a_server_every_command_exits_with_3_and_says_how_to_start_one() {
    // A port that is free: it was just given back.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{address}");
    let variables = [
        ("TIDEGATE_URL", &*url),
        ("TIDEGATE_ADMIN_URL", &*url),
        ("TIDEGATE_API_KEY", "tgk_any"),
        ("TIDEGATE_ADMIN_KEY", "tga_any"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for args in ASKING {
        check_failure(folder.path(), &variables, args, 3, "tidegate serve").await;
    }
}

#[tokio::test]
async fn with_a_wrong_key_or_none_every_command_says_which_key_it_needs() {
    let node = node();
    let (client, admin) = (
        format!("http://{}", node.client_addr()),
        format!("http://{}", node.admin_addr()),
    );
    let servers = [("TIDEGATE_URL", &*client), ("TIDEGATE_ADMIN_URL", &*admin)];
    let wrong = [
        &servers[..],
        &[
            ("TIDEGATE_API_KEY", "tgk_wrong"),
            ("TIDEGATE_ADMIN_KEY", "tga_wrong"),
        ],
    ]
    .concat();
    let folder = tempfile::tempdir().unwrap();
    for args in ASKING
        .iter()
        .filter(|args| !["health", "subscribe"].contains(&args[0]))
    {
        check_failure(
            folder.path(),
            &wrong,
            args,
            1,
            "it came from the environment variable",
        )
        .await;
        check_failure(folder.path(), &servers, args, 2, "--data-dir").await;
    }
}

#[tokio::test]
async fn what_does_not_exist_or_is_no_plugin_is_refused_with_the_next_step() {
    let node = node();
    let (client, admin) = (
        format!("http://{}", node.client_addr()),
        format!("http://{}", node.admin_addr()),
    );
    let (api_key, admin_key) = (node.api_key(), node.admin_key());
    let variables = [
        ("TIDEGATE_URL", &*client),
        ("TIDEGATE_ADMIN_URL", &*admin),
        ("TIDEGATE_API_KEY", &*api_key),
        ("TIDEGATE_ADMIN_KEY", &*admin_key),
    ];
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("script.wasm"), "#!/bin/sh").unwrap();
    let core = b"\0asm\x01\0\0\0";
    std::fs::write(folder.path().join("empty.wasm"), core).unwrap();
    let rows: [(&[&str], i32, &str); 19] = [
        (&["plugin", "versions", "nope"], 1, "tidegate plugin list"),
        (&["plugin", "inspect", "nope"], 1, "tidegate plugin list"),
        (
            &["plugin", "activate", "nope", "1"],
            1,
            "tidegate plugin list",
        ),
        (&["plugin", "rollback", "nope"], 1, "tidegate plugin list"),
        (
            &["plugin", "bind", "nope", "filtering"],
            1,
            "tidegate plugin list",
        ),
        (&["plugin", "unbind", "nope"], 1, "tidegate plugin list"),
        (&["plugin", "logs", "nope"], 1, "tidegate plugin list"),
        (
            &["plugin", "logs", "nope", "--follow"],
            1,
            "tidegate plugin list",
        ),
        (&["plugin", "delete", "nope"], 1, "tidegate plugin list"),
        (
            &["plugin", "list", "--app", "nope"],
            1,
            "the app does not exist",
        ),
        (&["app", "keys", "nope"], 1, "tidegate app list"),
        (
            &["app", "keys", "nope", "--revoke", "nope"],
            1,
            "tidegate app list",
        ),
        (
            &["app", "keys", "default", "--revoke", "nope"],
            1,
            "tidegate app keys default",
        ),
        (
            &["plugin", "push", "script.wasm"],
            1,
            "tidegate plugin build",
        ),
        (&["plugin", "push", "empty.wasm"], 1, "tidegate-sdk"),
        (&["plugin", "push", "absent.wasm"], 2, "plugin new"),
        (&["plugin", "push", "."], 2, "plugin new"),
        (&["publish", "nowhere:x", "{}"], 1, "name a namespace"),
        (&["publish", ROOM, "{text}"], 2, "not JSON"),
    ];
    for (args, code, next) in rows {
        check_failure(folder.path(), &variables, args, code, next).await;
    }
    let listed = run_with(folder.path(), &variables, &["plugin", "list", "--json"])
        .await
        .json();
    assert_eq!(
        listed["plugins"],
        json!([]),
        "nothing of a refused upload is stored"
    );
}
