//! Whose turn it is to compile: one at a time, in the order of arrival, a bounded number waiting.
//!
//! Compiling uses a whole core. One at a time leaves the others to the sessions; the bound keeps uploads that
//! nobody can serve in time from piling up with their bytes in memory.

use parking_lot::{Condvar, Mutex};

/// Waiting at most; whoever comes then is turned away and told so. With the longest compilation before each of
/// them the last one waits four minutes, which is as long as clients of the admin API wait.
const MAX_WAITING: u64 = 8;

#[derive(Debug, Default)]
pub(crate) struct Queue {
    tickets: Mutex<Tickets>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Tickets {
    /// The next to be given out.
    next: u64,
    /// Whose turn it is; equal to `next` when nobody compiles. Raised by the drop of a [`Turn`] alone.
    serving: u64,
}

/// The right to compile; its drop passes it on.
#[must_use = "dropping the turn lets the next one compile"]
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Queue);

impl Queue {
    /// Waits for a turn; `None` when too many wait already.
    pub(crate) fn enter(&self) -> Option<Turn<'_>> {
        let mut tickets = self.tickets.lock();
        if tickets.next - tickets.serving > MAX_WAITING {
            return None;
        }
        let mine = tickets.next;
        tickets.next += 1;
        while tickets.serving != mine {
            self.moved.wait(&mut tickets);
        }
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.tickets.lock().serving += 1;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        thread,
    };

    use super::*;

    /// Threads waiting in the queue besides the one that compiles.
    fn waiting(queue: &Queue) -> u64 {
        let tickets = queue.tickets.lock();
        tickets.next - tickets.serving - 1
    }

    #[test]
    fn turns_come_in_the_order_of_arrival_and_too_many_are_turned_away() {
        let queue = Arc::new(Queue::default());
        let first = queue.enter().unwrap();
        let (done, order) = mpsc::sync_channel(usize::try_from(MAX_WAITING).unwrap());
        let mut threads = Vec::new();
        for number in 0..MAX_WAITING {
            let (queue, done) = (Arc::clone(&queue), done.clone());
            let theirs = Arc::clone(&queue);
            threads.push(thread::spawn(move || {
                let _turn = theirs.enter().unwrap();
                done.send(number).unwrap();
            }));
            while waiting(&queue) != number + 1 {
                thread::yield_now();
            }
        }
        assert!(queue.enter().is_none(), "one too many is told at once");
        drop(first);
        let order: Vec<u64> = order.iter().take(threads.len()).collect();
        assert_eq!(order, (0..MAX_WAITING).collect::<Vec<_>>());
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(queue.enter().is_some(), "there is room again");
    }
}
