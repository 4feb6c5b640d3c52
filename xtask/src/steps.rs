//! Steps: named pieces of work that say what they do, how long they took, and what to do when they fail.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// What was done so far, for the summary at the end.
#[derive(Debug)]
pub(crate) struct Steps {
    started: Instant,
    done: Vec<(String, Duration)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            done: Vec::new(),
        }
    }

    /// Runs `work` under a heading; `remedy` is the one thing to do when it fails.
    pub(crate) fn step<T>(
        &mut self,
        what: &str,
        remedy: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        println!("\n=== {what}");
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        match result {
            Ok(value) => {
                println!("--- done in {}: {what}", text(took));
                self.done.push((what.to_owned(), took));
                Ok(value)
            }
            Err(error) => {
                println!("--- FAILED after {}: {what}", text(took));
                Err(anyhow!("{what}: {error:#}\n  what to do: {remedy}"))
            }
        }
    }

    /// A step that is one command.
    pub(crate) fn command(
        &mut self,
        what: &str,
        remedy: &str,
        command: &mut Command,
    ) -> Result<()> {
        self.step(what, remedy, || run(command))
    }

    /// Says how long each step took.
    pub(crate) fn print_summary(&self) {
        if self.done.is_empty() {
            return;
        }
        println!("\n=== steps that passed");
        for (what, took) in &self.done {
            println!("  {:>9}  {what}", text(*took));
        }
        println!("  {:>9}  in all", text(self.started.elapsed()));
    }
}

/// Runs a command with its output shown, and insists on success.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("    $ {}", line(command));
    let status = command
        .status()
        .with_context(|| format!("`{}` could not be started", line(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs a command and returns what it printed; its error output is shown.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("`{}` could not be started", line(command)))?;
    if !output.status.success() {
        bail!("`{}` ended with {}", line(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` did not print text", line(command)))
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut words = vec![
        program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    ];
    words.extend(command.get_args().map(|arg| match arg.to_string_lossy() {
        arg if arg.contains([' ', '"', '{']) || arg.is_empty() => format!("'{arg}'"),
        arg => arg.into_owned(),
    }));
    words.join(" ")
}

/// A duration for people.
fn text(took: Duration) -> String {
    match took.as_secs() {
        0..=99 => format!("{:.1} s", took.as_secs_f64()),
        secs => format!("{} min {:02} s", secs / 60, secs % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_names_itself_and_the_remedy() {
        let error = Steps::new()
            .step("grinding", "add grain", || -> Result<()> {
                bail!("empty hopper")
            })
            .unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "grinding: empty hopper\n  what to do: add grain"
        );
    }

    #[test]
    fn durations_read_like_a_person_would_say_them() {
        assert_eq!(text(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(text(Duration::from_secs(125)), "2 min 05 s");
    }
}
