//! Generated code survives whatever the user's module is called.
#![allow(dead_code, non_camel_case_types)]

use tidegate_sdk::{Filtering as Filters, Message, Refusal as No, filtering::Verdict as Answer};

mod core {}
mod std {}
struct Result;
struct Option;
struct String;
struct Vec;
struct u32;
type Filtering = ();

struct Odd;

impl Filters for Odd {
    fn filter(_: Message) -> ::core::result::Result<Answer, No> {
        Ok(Answer::Pass)
    }
}

tidegate_sdk::plugin!(Odd: filtering);

fn main() {}
