//! The binary carries the SDK for `plugin new`; a change of the SDK has to rebuild it.

fn main() {
    println!("cargo::rerun-if-changed=../../sdk");
}
