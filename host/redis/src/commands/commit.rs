//! Commands that count only when a replica has their result, confirmed in groups (threat model R8).
//!
//! `WAIT` counts what its own connection has written, and Redis does nothing else for a connection that waits. So
//! commands are sent as they come, and one `WAIT` at a time follows them: its answer is that of everybody whose command
//! was answered before it was sent. However many wait, none waits for more than the `WAIT` under way and its own.
//! Invariant: whoever waits is told, also when the connection ends.

use std::mem;

use parking_lot::Mutex;
use redis::{Value, aio::MultiplexedConnection};
use tokio::sync::{Notify, oneshot};

use super::{REPLICA_TIMEOUT, RedisFailure, value::number};

type Outcome = Result<(), RedisFailure>;

/// Those of one connection who wait for a replica.
#[derive(Debug, Default)]
pub(super) struct Commits {
    queue: Mutex<Queue>,
    /// Somebody waits.
    wanted: Notify,
}

/// Bounded by the commands in flight: each of them waits once.
#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<oneshot::Sender<Outcome>>,
    /// The connection has ended: nobody would answer.
    is_closed: bool,
}

impl Commits {
    /// Waits until a replica has everything that this connection has written up to now.
    ///
    /// # Errors
    /// [`RedisFailure::Unreplicated`] when none has in time; [`RedisFailure::Unanswered`] when the connection ends.
    pub(super) async fn confirmed(&self) -> Outcome {
        let (sender, outcome) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            if queue.is_closed {
                return Err(RedisFailure::Unanswered);
            }
            queue.waiting.push(sender);
        }
        self.wanted.notify_one();
        outcome.await.unwrap_or(Err(RedisFailure::Unanswered))
    }

    /// Asks for those who wait, until the connection ends. Dropped, nobody waits any more.
    pub(super) async fn run(&self, mut connection: MultiplexedConnection) {
        let _closing = Closing(self);
        let mut wait = redis::cmd("WAIT");
        wait.arg(1).arg(REPLICA_TIMEOUT.as_millis().to_string());
        loop {
            self.wanted.notified().await;
            // Whoever was answered together with the last `WAIT` joins the next one, and not the one after it.
            tokio::task::yield_now().await;
            let group = mem::take(&mut self.queue.lock().waiting);
            if group.is_empty() {
                continue;
            }
            let Ok(answer) = connection.send_packed_command(&wait).await else {
                return;
            };
            let outcome = judge(&answer);
            for waiter in group {
                // Who has gone does not want to know.
                let _ = waiter.send(outcome.clone());
            }
        }
    }
}

fn judge(answer: &Value) -> Outcome {
    if let Value::ServerError(error) = answer {
        return Err(RedisFailure::Refused {
            code: error.code().into(),
            detail: error.details().unwrap_or_default().into(),
        });
    }
    match number(answer).ok_or(RedisFailure::Unexpected)? {
        0 => Err(RedisFailure::Unreplicated),
        1.. => Ok(()),
    }
}

/// Ends the wait of everybody when the connection ends.
struct Closing<'a>(&'a Commits);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.is_closed = true;
        let waiting = mem::take(&mut queue.waiting);
        drop(queue);
        // Unlocked first: dropping wakes whoever waits.
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r8_only_a_replica_that_has_it_confirms() {
        assert_eq!(judge(&Value::Int(1)), Ok(()));
        assert_eq!(judge(&Value::Int(2)), Ok(()));
        assert_eq!(judge(&Value::Int(0)), Err(RedisFailure::Unreplicated));
        for nonsense in [Value::Nil, Value::Int(-1), Value::Okay] {
            assert_eq!(judge(&nonsense), Err(RedisFailure::Unexpected));
        }
    }

    #[tokio::test]
    async fn who_comes_after_the_end_of_the_connection_does_not_wait() {
        let commits = Commits::default();
        drop(Closing(&commits));
        assert_eq!(commits.confirmed().await, Err(RedisFailure::Unanswered));
    }
}
