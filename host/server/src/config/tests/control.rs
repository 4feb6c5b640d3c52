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

#[test]
fn a_copy_may_be_three_days_old_unless_told_otherwise() {
    let url = (
        "TIDEGATE_CONTROL_POSTGRES_URL",
        "postgresql://u@localhost/d",
    );
    let age = |line: &str| match good(&format!("{POSTGRES}{line}"), &[url]).control {
        ControlConfig::Postgres(postgres) => postgres.max_copy_age(),
        ControlConfig::Sqlite => panic!("a file"),
    };
    let hours = |hours: u64| Some(Duration::from_secs(hours * 3_600));
    assert_eq!(age(""), hours(72));
    assert_eq!(age("max_copy_age = \"2h\""), hours(2));
    assert_eq!(age("max_copy_age = \"0s\""), None);
}

#[test]
fn p5_a_database_elsewhere_without_checked_tls_is_an_insecure_switch() {
    let keys = |url: &str, tls: &str| -> Vec<_> {
        let text = format!("{POSTGRES}url = \"postgresql://u@{url}\"\n{tls}");
        let switches = good(&text, &[]).insecure_switches().into_iter();
        switches.map(|switch| switch.key).collect()
    };
    let skip = "tls.insecure_skip_verify = true";
    assert_eq!(keys("db/d?sslmode=prefer", ""), ["control.postgres.url"]);
    assert_eq!(keys("db/d?sslmode=disable", skip), ["control.postgres.url"]);
    let switch = ["control.postgres.tls.insecure_skip_verify"];
    assert_eq!(keys("db/d", skip), switch);
    assert_eq!(keys("db/d?sslmode=verify-full", skip), switch);
    assert!(keys("localhost/d", "").is_empty());
    assert!(keys("127.0.0.1/d?sslmode=disable", "").is_empty());
}
