//! Which server, which key: where a key comes from, and what is said when it is the wrong one.

use tokio::io::AsyncWriteExt as _;

use tidegate_tests::cli::run_with;

use super::{ROOM, node, text};

#[tokio::test]
async fn a_key_comes_from_a_file_or_standard_input_and_on_the_command_line_it_warns() {
    let node = node();
    let folder = tempfile::tempdir().unwrap();
    let (client, admin) = (
        format!("http://{}", node.client_addr()),
        format!("http://{}", node.admin_addr()),
    );
    let servers = [("TIDEGATE_URL", &*client), ("TIDEGATE_ADMIN_URL", &*admin)];
    let (admin_file, api_file) = (folder.path().join("admin"), folder.path().join("api"));
    std::fs::write(&admin_file, node.admin_key()).unwrap();
    std::fs::write(&api_file, node.api_key()).unwrap();
    let (admin_file, api_file) = (
        admin_file.display().to_string(),
        api_file.display().to_string(),
    );
    let (admin_key, api_key) = (node.admin_key(), node.api_key());
    for (args, warns) in [
        (
            &["plugin", "list", "--admin-key-file", &admin_file][..],
            false,
        ),
        (&["plugin", "list", "--admin-key", &admin_key], true),
        (&["publish", ROOM, "{}", "--api-key-file", &api_file], false),
        (&["publish", ROOM, "{}", "--api-key", &api_key], true),
    ] {
        let ended = run_with(folder.path(), &servers, args).await;
        assert_eq!(ended.stderr.contains("warning: "), warns, "{args:?}");
        text(ended);
    }

    // The environment has a good key; the option wins.
    let mut child = tokio::process::Command::new(tidegate_tests::node::binary())
        .args(["plugin", "list", "--admin-key-file", "-"])
        .current_dir(folder.path())
        .envs(servers)
        .env("TIDEGATE_ADMIN_KEY", "tga_wrong")
        .stdin(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(admin_key.as_bytes()).await.unwrap();
    drop(stdin);
    assert!(child.wait().await.unwrap().success());

    std::fs::write(&api_file, "tga_wrong").unwrap();
    let list = ["plugin", "list", "--admin-key-file", &api_file];
    let refused = run_with(folder.path(), &servers, &list).await;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("refused the admin key") && refused.stderr.contains(&api_file),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn a_command_that_asks_the_other_listener_says_so() {
    let node = node();
    let (client, admin) = (
        format!("http://{}", node.client_addr()),
        format!("http://{}", node.admin_addr()),
    );
    for (args, says) in [
        (
            &["plugin", "list", "--admin-url", &client][..],
            "not the admin API",
        ),
        (
            &["explain", "a71cd982164b", "--admin-url", &client],
            "not the admin API",
        ),
        (
            &["publish", ROOM, "{}", "--url", &admin],
            "is the admin API",
        ),
    ] {
        let ended = node.cli(args).await;
        assert_eq!(ended.code, Some(1), "{args:?}");
        assert!(
            ended.stderr.contains(says) && ended.stderr.contains("url or TIDEGATE"),
            "{args:?}: {}",
            ended.stderr
        );
    }
}
