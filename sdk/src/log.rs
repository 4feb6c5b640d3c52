//! Lines for the plugin's own log, which its author and the operator read.
//!
//! ```
//! use tidegate_sdk::{Filtering, Message, Refusal, filtering::Verdict, log};
//!
//! struct Chatty;
//!
//! impl Filtering for Chatty {
//!     fn filter(message: Message) -> Result<Verdict, Refusal> {
//!         log::info!("{} bytes for {}", message.data().len(), message.channel());
//!         Ok(Verdict::Pass)
//!     }
//! }
//!
//! let mut host = tidegate_sdk::testing::Host::new();
//! host.filter::<Chatty>("room", "{}")?;
//! assert_eq!(host.log()[0].text, "2 bytes for room");
//! # Ok::<(), Refusal>(())
//! ```
//!
//! `tidegate plugin logs NAME` shows the lines, each with the user, the session and the channel that the call was about, and
//! with a trace id that all lines about one command share. A panic is logged by itself. A line of more than 1 KiB is cut,
//! control characters are escaped, more than 100 lines a second are dropped and counted. Formatting costs time and size in the component: on a hot path, log what is rare.

use std::fmt;

use crate::host;

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What happened.
    Info,
    /// What should not happen often.
    Warn,
    /// What somebody must look at.
    Error,
}

/// Writes one line.
pub fn write(level: Level, text: &str) {
    host::log(level, text);
}

/// Formats and writes one line; the macros of this module end here.
#[doc(hidden)]
pub fn write_formatted(level: Level, arguments: fmt::Arguments<'_>) {
    match arguments.as_str() {
        Some(text) => write(level, text),
        None => write(level, &arguments.to_string()),
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $($argument:tt)+) => {
        $crate::log::write_formatted($crate::log::Level::$level, ::core::format_args!($($argument)+))
    };
}

/// Writes a line of level *trace*; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace { ($($argument:tt)+) => { $crate::__log!(Trace, $($argument)+) }; }

/// Writes a line of level *debug*; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug { ($($argument:tt)+) => { $crate::__log!(Debug, $($argument)+) }; }

/// Writes a line of level *info*; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info { ($($argument:tt)+) => { $crate::__log!(Info, $($argument)+) }; }

/// Writes a line of level *warn*; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn { ($($argument:tt)+) => { $crate::__log!(Warn, $($argument)+) }; }

/// Writes a line of level *error*; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error { ($($argument:tt)+) => { $crate::__log!(Error, $($argument)+) }; }

#[doc(inline)]
pub use crate::{
    __log_debug as debug, __log_error as error, __log_info as info, __log_trace as trace,
    __log_warn as warn,
};
