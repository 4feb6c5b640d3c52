//! The section `control`: where apps, keys, plugins and bindings are stored.
//!
//! Problems do not repeat the address of the database, which holds a password.

use tidegate_control::{BadPostgres, PostgresConfig, PostgresSettings, Secret};

use super::{
    super::{ControlConfig, settings::Scope, tree::Problem},
    tls,
};
use crate::causes::in_one_line;

const URL: &str = "control.postgres.url";
const SCHEMA: &str = "control.postgres.schema";
const TLS: &str = "control.postgres.tls";
const MAX_COPY_AGE: &str = "control.postgres.max_copy_age";

pub(super) fn control(root: &Scope, problems: &mut Vec<Problem>) -> ControlConfig {
    let store = root.text("control.store");
    match store.as_str() {
        "sqlite" => {
            if root.secret(URL).is_some() {
                let message = "control.store is \"sqlite\", so the database is not used; set control.store = \"postgres\", or remove the address";
                problems.push(root.problem(URL, message));
            }
        }
        "postgres" => {
            if let Some(config) = postgres(root, problems) {
                return ControlConfig::Postgres(Box::new(config));
            }
        }
        _ => problems.push(root.problem(
            "control.store",
            format!("`{store}` is not a store; use \"sqlite\" or \"postgres\""),
        )),
    }
    ControlConfig::Sqlite
}

fn postgres(root: &Scope, problems: &mut Vec<Problem>) -> Option<PostgresConfig> {
    let tls = tls::files(root, TLS, problems);
    let Some(url) = root.secret(URL) else {
        let message = "name the database, as in \"postgresql://tidegate:password@db.example.com:5432/tidegate?sslmode=verify-full\"";
        problems.push(root.problem(URL, message));
        return None;
    };
    let parsed = PostgresConfig::parse(PostgresSettings {
        url: Secret::stored(url.expose().to_owned()),
        schema: root.text(SCHEMA),
        tls,
        max_copy_age: Some(root.duration(MAX_COPY_AGE)).filter(|age| !age.is_zero()),
    });
    match parsed {
        Ok(config) => Some(config),
        Err(error) => {
            let key = match &error {
                BadPostgres::Url | BadPostgres::Missing(_) | BadPostgres::SslMode => URL,
                BadPostgres::Schema => SCHEMA,
                BadPostgres::Tls(_) => TLS,
            };
            problems.push(root.problem(key, what(&error)));
            None
        }
    }
}

/// Without the name of the setting, which the problem has.
fn what(error: &BadPostgres) -> String {
    match error {
        BadPostgres::Tls(bad) => in_one_line(bad),
        BadPostgres::Url | BadPostgres::Missing(_) | BadPostgres::SslMode | BadPostgres::Schema => {
            let text = error.to_string();
            match text.split_once(": ") {
                Some((_, what)) => what.to_owned(),
                None => text,
            }
        }
    }
}
