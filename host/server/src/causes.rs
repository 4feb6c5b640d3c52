//! An error with everything that is behind it, for people.

use std::{error::Error, iter};

/// The whole chain of causes in one line.
pub(crate) fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let chain = iter::successors(Some(error), |&error| error.source());
    let causes: Vec<String> = chain.map(ToString::to_string).collect();
    causes.join(": ")
}
