//! Continuity segments: what a subscriber saw between two statements that it did not see everything.

use crate::record::{Body, Event, Subscribed, SubscriberLog};

/// From a subscribe on until the server says `recovered: false`, or the client begins anew.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    /// Empty as long as the stream was.
    pub(super) epoch: String,
    /// The position reached.
    pub(super) offset: u64,
    /// It began with `recovered: false`.
    pub(super) is_signalled: bool,
    pub(super) publications: Vec<(u64, Body)>,
    /// Offsets that came when the client was past them.
    pub(super) repeated: Vec<u64>,
    /// What was missing, in words.
    pub(super) gaps: Vec<String>,
}

impl Segment {
    /// A recovery goes on from the place that was asked for, which is where this segment is.
    fn continued(&mut self, result: &Subscribed) {
        match &result.asked {
            None => {
                let what = "was said to recover, and had not asked to".to_owned();
                self.gaps.push(what);
            }
            Some(asked) if asked.offset != result.offset => {
                let what = format!(
                    "asked to recover from {} and was recovered from {}",
                    asked.offset, result.offset
                );
                self.gaps.push(what);
            }
            Some(asked) if (&asked.epoch, asked.offset) != (&self.epoch, self.offset) => {
                let what = format!(
                    "recovered from {asked:?}, being at {} of epoch {:?}",
                    self.offset, self.epoch
                );
                self.gaps.push(what);
            }
            Some(_) => {}
        }
    }

    fn take(&mut self, offset: u64, epoch: &str, body: Body) {
        if self.epoch.is_empty() {
            // Subscribed to an empty stream: its first publication tells.
            epoch.clone_into(&mut self.epoch);
        }
        if !epoch.is_empty() && epoch != self.epoch {
            let what = format!(
                "{offset} of epoch {epoch:?} came to a subscriber at {} of epoch {:?}",
                self.offset, self.epoch
            );
            self.gaps.push(what);
            epoch.clone_into(&mut self.epoch);
        } else if offset <= self.offset {
            self.repeated.push(offset);
            return;
        } else if offset != self.offset + 1 {
            self.gaps
                .push(format!("{offset} came after {}", self.offset));
        }
        self.offset = offset;
        self.publications.push((offset, body));
    }
}

/// Cuts a log into its segments.
pub(super) fn of(log: &SubscriberLog) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for entry in &log.entries {
        match &entry.event {
            Event::Subscribed(result) if result.was_recovering && result.recovered => {
                match segments.last_mut() {
                    Some(segment) => {
                        segment.continued(result);
                        if !segment.epoch.is_empty() && result.epoch != segment.epoch {
                            let what = format!(
                                "epoch {:?} was said to continue epoch {:?}",
                                result.epoch, segment.epoch
                            );
                            segment.gaps.push(what);
                        }
                        result.epoch.clone_into(&mut segment.epoch);
                    }
                    None => segments.push(Segment {
                        gaps: vec!["the first subscribe was said to recover".to_owned()],
                        ..begun(result.epoch.clone(), result.offset, false)
                    }),
                }
            }
            Event::Subscribed(result) => {
                let is_signalled = result.was_recovering;
                let mut segment = begun(result.epoch.clone(), result.offset, is_signalled);
                if let (Some(asked), false) = (&result.asked, result.was_recovering) {
                    let what = format!("asked to recover from {asked:?} and was begun anew");
                    segment.gaps.push(what);
                }
                segments.push(segment);
            }
            Event::Publication {
                offset,
                epoch,
                body,
            } => match segments.last_mut() {
                Some(segment) => segment.take(*offset, epoch, *body),
                None => segments.push(Segment {
                    gaps: vec![format!("{offset} came before the subscribe succeeded")],
                    ..begun(epoch.clone(), *offset, false)
                }),
            },
            Event::Unsubscribed { .. }
            | Event::Refused { .. }
            | Event::Disconnected { .. }
            | Event::NotConnected { .. } => {}
        }
    }
    segments
}

fn begun(epoch: String, offset: u64, is_signalled: bool) -> Segment {
    Segment {
        epoch,
        offset,
        is_signalled,
        ..Segment::default()
    }
}
