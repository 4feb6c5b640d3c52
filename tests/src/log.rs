//! What a node has logged, line by line.

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use crate::within;

/// The lines so far, as the bytes that came.
#[derive(Debug, Default)]
pub struct Log {
    lines: Mutex<Vec<Vec<u8>>>,
    added: Notify,
}

impl Log {
    pub(crate) fn push(&self, line: Vec<u8>) {
        self.lines.lock().push(line);
        self.added.notify_waiters();
    }

    /// The next line from `cursor` on that `is_wanted`; the cursor is moved behind it.
    ///
    /// # Panics
    /// When no such line comes, or a line on the way is not one JSON object in plain text: nothing that somebody
    /// sends may break out of its field.
    pub async fn next(&self, cursor: &mut usize, is_wanted: impl Fn(&Value) -> bool) -> Value {
        within("a line of the log", async {
            loop {
                let added = self.added.notified();
                while let Some(line) = self.line(*cursor) {
                    *cursor += 1;
                    let value = parsed(&line);
                    if is_wanted(&value) {
                        return value;
                    }
                }
                added.await;
            }
        })
        .await
    }

    /// Whether any line so far holds these bytes.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        let lines = self.lines.lock();
        lines
            .iter()
            .any(|line| line.windows(bytes.len()).any(|window| window == bytes))
    }

    fn line(&self, index: usize) -> Option<Vec<u8>> {
        self.lines.lock().get(index).cloned()
    }
}

fn parsed(line: &[u8]) -> Value {
    let text = std::str::from_utf8(line).unwrap_or_else(|_| panic!("not UTF-8: {line:?}"));
    assert!(!text.contains(char::is_control), "raw bytes: {text:?}");
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    assert!(value.is_object(), "not one JSON object: {text}");
    value
}
