//! What one request may cost as a whole.

use super::*;

fn many(command: &str, number: usize, separator: &str) -> String {
    vec![command; number].join(separator)
}

#[tokio::test]
async fn p2_the_replies_of_one_request_are_bounded_as_a_whole() {
    let bench = Bench::new();
    let commands = many(r#"{"history":{"channel":"large","limit":1}}"#, 20, ",");
    let legacy = many(
        r#"{"method":"history","params":{"channel":"large","limit":1}}"#,
        20,
        "\n",
    );
    for (path, body) in [
        ("/api/batch", format!(r#"{{"commands":[{commands}]}}"#)),
        (
            "/api/batch",
            format!(r#"{{"commands":[{commands}],"parallel":true}}"#),
        ),
        ("/api", legacy),
    ] {
        let got = bench.post(path, &body).await;
        assert_eq!(got.status, 200);
        // Pages of a little more than 1 MiB: the fourth goes over the bound.
        assert_eq!(got.body.matches("publications").count(), 4, "{path}");
        assert_eq!(got.body.matches("\"code\":106").count(), 16, "{path}");
    }
}

#[tokio::test]
async fn p2_a_request_with_too_many_commands_is_refused_before_any_is_carried_out() {
    let bench = Bench::new();
    let batch = many(r#"{"publish":{"channel":"a","data":1}}"#, 10_001, ",");
    let got = bench
        .post("/api/batch", &format!(r#"{{"commands":[{batch}]}}"#))
        .await;
    assert_eq!(got.status, 400);
    let legacy = many(
        r#"{"method":"publish","params":{"channel":"a","data":1}}"#,
        10_001,
        "\n",
    );
    assert_eq!(bench.post("/api", &legacy).await.status, 400);
    assert!(bench.published().is_empty());
}
