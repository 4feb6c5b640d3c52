//! `publish`: one message through the server API.

use std::io::Read as _;

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::{
    Failure, Output, block_on, explain::after_internal_error, server::ApiServer,
    token::json_argument,
};

/// Largest message read from standard input; the server's own limit is lower.
const MAX_INPUT_BYTES: u64 = 4 << 20;

/// Publishes a message
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate publish chat:lobby '{\"text\": \"hello\"}'
  date +'\"%c\"' | tidegate publish clock -
  tidegate publish news '\"once\"' --idempotency-key 42 --tag lang=en")]
pub struct Publish {
    /// Channel to publish to
    channel: String,
    /// The data, as JSON; `-` reads it from standard input
    data: String,
    /// Key and value for tag filters and plugins; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    tags: Vec<(String, String)>,
    /// Publishing again with the same key within five minutes answers with the first result
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Do not keep the message in the channel's history
    #[arg(long)]
    skip_history: bool,
    #[command(flatten)]
    server: ApiServer,
}

fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

pub(super) fn run(command: Publish, output: Output) -> Result<(), Failure> {
    let data = if command.data == "-" {
        let mut text = String::new();
        std::io::stdin()
            .take(MAX_INPUT_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| Failure::usage(format!("standard input cannot be read: {error}")))?;
        text
    } else {
        command.data
    };
    let data = json_argument(data.trim())
        .map_err(|error| Failure::usage(format!("the data is {error}")))?;
    let mut request = json!({"channel": command.channel, "data": data});
    if !command.tags.is_empty() {
        request["tags"] = command
            .tags
            .into_iter()
            .map(|(key, value)| (key, Value::String(value)))
            .collect();
    }
    if let Some(key) = command.idempotency_key {
        request["idempotency_key"] = key.into();
    }
    if command.skip_history {
        request["skip_history"] = true.into();
    }
    let client = command.server.client(output)?;
    let path = format!(
        "{}/publish",
        command.server.api_prefix.trim_end_matches('/')
    );
    let answer = block_on(client.call(Method::POST, &path, &request))?;
    let result = api_result(&answer)?;
    output.result(result, || {
        match (result["offset"].as_u64(), result["epoch"].as_str()) {
            (Some(offset), Some(epoch)) => format!("published at offset {offset} of epoch {epoch}"),
            _ => "published".to_owned(),
        }
    });
    Ok(())
}

/// The `result` of the server API's envelope, or its `error` as a failure.
pub(super) fn api_result(answer: &Value) -> Result<&Value, Failure> {
    let error = &answer["error"];
    if error.is_object() {
        let code = error["code"].as_u64().unwrap_or_default();
        let message = error["message"].as_str().unwrap_or_default();
        let after_internal = after_internal_error(message);
        let hint = match code {
            100 => after_internal.as_str(),
            102 => "name a namespace that the configuration has",
            107 => "check channel name and data",
            // Codes of the protocol end below; from here on they are those of plugins.
            400.. => {
                "a plugin said so: `tidegate explain --recent --refused` tells which, and what else it knows"
            }
            _ => "",
        };
        return Err(
            Failure::new(format!("the server refused: {message} (code {code})"))
                .hint(hint)
                .details(error.clone()),
        );
    }
    Ok(&answer["result"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_api_is_a_failure_with_its_code() {
        let answer = json!({"error": {"code": 102, "message": "unknown channel"}});
        let failure = api_result(&answer).unwrap_err();
        assert!(failure.message.contains("unknown channel (code 102)"));
        let answer = json!({"error": {"code": 451, "message": "not that word"}});
        assert!(
            api_result(&answer)
                .unwrap_err()
                .hint
                .contains("explain --recent --refused")
        );
        let internal = |message: &str| {
            let answer = json!({"error": {"code": 100, "message": message}});
            api_result(&answer).unwrap_err().hint
        };
        let hint = internal("internal server error (trace a71cd982164b)");
        assert!(
            hint.contains("tidegate explain a71cd982164b"),
            "the command with the id: {hint}"
        );
        let hint = internal("internal server error");
        assert!(!hint.contains("explain"), "there is no id: {hint}");
        assert!(hint.contains("tidegate health"), "{hint}");
        assert_eq!(
            api_result(&json!({"result": {"offset": 1}})).unwrap()["offset"],
            1
        );
    }

    #[test]
    fn tags_are_pairs() {
        assert_eq!(tag("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(tag("a").is_err());
        assert!(tag("=b").is_err());
    }
}
