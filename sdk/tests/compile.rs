//! What the compiler says to plugin authors. `TRYBUILD=overwrite cargo test -p tidegate-sdk --test compile` blesses.

#[test]
fn misuse_is_reported_at_the_users_token() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
