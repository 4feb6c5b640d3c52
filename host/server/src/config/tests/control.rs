//! The section `control`.

use super::*;

const POSTGRES: &str = "[control]\nstore = \"postgres\"\n[control.postgres]\n";

#[test]
fn a_file_is_the_control_store_unless_told_otherwise() {
    assert!(matches!(good("", &[]).control, ControlConfig::Sqlite));
    let url = "postgresql://tide:hunter2@db:5433/control?sslmode=disable";
    let config = good(POSTGRES, &[("TIDEGATE_CONTROL_POSTGRES_URL", url)]);
    let ControlConfig::Postgres(postgres) = &config.control else {
        panic!("a file");
    };
    assert_eq!(postgres.place(), "db:5433/control/tidegate");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn what_is_wrong_with_the_database_is_told_without_its_password() {
    refused(
        "[control]\nstore = \"mysql\"",
        &[(2, "control.store", "\"sqlite\" or \"postgres\"")],
    );
    refused(
        POSTGRES,
        &[(0, "control.postgres.url", "name the database")],
    );
    refused(
        "[control.postgres]\nurl = \"postgresql://u:hunter2@h/d\"",
        &[(2, "control.postgres.url", "control.store is \"sqlite\"")],
    );
    let text = format!("{POSTGRES}url = \"postgresql://u:hunter2@h:no/d\"");
    refused(&text, &[(4, "control.postgres.url", "no address")]);
    let problems = load_text(&text, "toml", &[]).unwrap_err();
    assert!(!problems.to_string().contains("hunter2"), "{problems}");
    refused(
        &format!("{POSTGRES}url = \"postgresql://u@h/d?sslmode=none\""),
        &[(4, "control.postgres.url", "sslmode is one of")],
    );
    refused(
        &format!("{POSTGRES}url = \"postgresql://u@h/d\"\nschema = \"Upper\""),
        &[(5, "control.postgres.schema", "[a-z0-9_]")],
    );
    refused(
        &format!(
            "{POSTGRES}url = \"postgresql://u@h/d?sslmode=require\"\n[control.postgres.tls]\nserver_ca_pem = \"/nowhere\""
        ),
        &[(6, "control.postgres.tls.server_ca_pem", "nor a file")],
    );
}
