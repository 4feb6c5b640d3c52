//! Holds: lines that stay in the book for as long as somebody has to be told of their end.
//!
//! Owns which lines those are. Whoever tells takes a [`Hold`] before the end is noted, and gives it back when it was
//! heard; a line that is held is not struck, so a survivor finds it if the node dies first. Invariant: a hold that is
//! dropped without having been told leaves the line in the book, and asks for a look through it: the node then does
//! what a survivor would.

use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::Registrar;
use crate::{directory::Slot, events::Then};

/// The lines that are held. Empty where no plugin is told of ends.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashMap<Slot, Held>>);

#[derive(Debug, Default)]
struct Held {
    num: u32,
    /// All else that the end means is done.
    is_over: bool,
    /// Somebody was not told.
    is_untold: bool,
}

/// What becomes of a line one of whose holds has ended.
enum End {
    /// Nothing yet.
    Open,
    /// It is struck.
    Over,
    /// It stays, and nobody has it in hand any more.
    Untold,
}

impl Holds {
    fn add(&self, slot: Slot) {
        self.0.lock().entry(slot).or_default().num += 1;
    }

    fn end(&self, slot: &Slot, is_told: bool) -> End {
        let mut holds = self.0.lock();
        let Some(held) = holds.get_mut(slot) else {
            return End::Open;
        };
        held.num -= 1;
        held.is_untold |= !is_told;
        let end = match (held.num, held.is_over, held.is_untold) {
            (1.., _, _) => return End::Open,
            // Whoever comes to strike the line has to find out.
            (0, false, true) => return End::Open,
            (0, false, false) => End::Open,
            (0, true, false) => End::Over,
            (0, true, true) => End::Untold,
        };
        holds.remove(slot);
        end
    }

    /// All else that the ends of these lines mean is done. Leaves those that can be struck; the others follow when they
    /// are held no more. True if one of them stays for good, since somebody was not told.
    pub(super) fn retain_free(&self, over: &mut Vec<Slot>) -> bool {
        let mut holds = self.0.lock();
        if holds.is_empty() {
            return false;
        }
        let mut has_untold = false;
        over.retain(|slot| {
            let Some(held) = holds.get_mut(slot) else {
                return true;
            };
            held.is_over = true;
            if held.num == 0 {
                holds.remove(slot);
                has_untold = true;
            }
            false
        });
        has_untold
    }

    /// All else that the end of the line means is done but for one thing, which was tried. True if the line is held: then
    /// it is seen to when it is no more.
    pub(super) fn fail(&self, slot: &Slot) -> bool {
        let mut holds = self.0.lock();
        match holds.get_mut(slot) {
            Some(held) if held.num > 0 => {
                (held.is_over, held.is_untold) = (true, true);
                true
            }
            Some(_) | None => {
                holds.remove(slot);
                false
            }
        }
    }

    /// The lines are written anew: what is told of an end before is not theirs.
    pub(super) fn reopen<'a>(&self, slots: impl Iterator<Item = &'a Slot>) {
        let mut holds = self.0.lock();
        if holds.is_empty() {
            return;
        }
        for slot in slots {
            if let Some(held) = holds.get_mut(slot) {
                held.is_over = false;
            }
        }
    }

    /// There is no such line.
    pub(super) fn forget(&self, slot: &Slot) {
        self.0.lock().remove(slot);
    }

    pub(super) fn has(&self, slot: &Slot) -> bool {
        self.0.lock().contains_key(slot)
    }
}

/// Keeps a line in the book until somebody was told of its end.
#[must_use = "dropping the hold says that nobody was told"]
#[derive(Debug)]
pub(crate) struct Hold {
    registrar: Weak<Registrar>,
    slot: Slot,
    is_told: bool,
}

impl Hold {
    /// They were told.
    pub(crate) fn told(mut self) {
        self.is_told = true;
    }

    /// For an event, whose taking it is.
    pub(crate) fn until_taken(self) -> Then {
        Box::new(move || self.told())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(registrar) = self.registrar.upgrade() else {
            return;
        };
        match registrar.holds.end(&self.slot, self.is_told) {
            End::Open => {}
            End::Over => registrar.note_over(self.slot.clone()),
            End::Untold => registrar.note_untold(),
        }
    }
}

impl Registrar {
    /// Keeps the line of something that ends.
    pub(crate) fn hold(self: &Arc<Self>, slot: Slot) -> Hold {
        self.holds.add(slot.clone());
        Hold {
            registrar: Arc::downgrade(self),
            slot,
            is_told: false,
        }
    }
}
