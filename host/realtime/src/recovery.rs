//! Recovery: works out what a reconnecting client has missed.
//!
//! Owns the offset arithmetic and nothing else: no I/O, no sockets, no clock. Invariant: `Recovered` lists every
//! publication after the client's position without a hole, up to the position that live delivery goes on from;
//! whatever cannot be proved whole is `Lost` or `Torn` (threat model R6).

use std::sync::Arc;

use tidegate_protocol::{Publication, StreamPosition};

use crate::{
    broker::{HistoryPage, publication_cost},
    hub::{Buffered, BufferedPublication},
};

/// Most that one recovery hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryLimits {
    pub max_publications: usize,
    pub max_bytes: usize,
}

/// How a subscription begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Merged {
    /// Everything after the client's position, oldest first, what follows the reply, and where live delivery goes
    /// on.
    Recovered {
        publications: Vec<Arc<Publication>>,
        live: Vec<Arc<Publication>>,
        position: StreamPosition,
    },
    /// The client's position cannot be recovered, or it named none: the reply carries `top`, `live` follows it.
    Lost {
        top: StreamPosition,
        live: Vec<Arc<Publication>>,
        position: StreamPosition,
    },
    /// What was broadcast meanwhile cannot be joined to the history without a hole: the subscription must start
    /// over.
    Torn,
}

/// Joins history and what was broadcast since the join.
///
/// `since` is the position that the client claims; `None` for a first subscribe. `page` was read after the
/// join: publications after `since`, and the top at that moment.
pub fn merge(
    since: Option<&StreamPosition>,
    page: HistoryPage,
    buffered: &Buffered,
    limits: RecoveryLimits,
) -> Merged {
    let HistoryPage { publications, top } = page;
    if buffered.has_overflowed {
        return Merged::Torn;
    }
    let Some(following) = follow(&top, &buffered.publications) else {
        return Merged::Torn;
    };
    let Following {
        joined,
        live,
        offset,
    } = following;
    let position = StreamPosition {
        offset,
        epoch: top.epoch.clone(),
    };
    let is_whole = since.is_some_and(|since| {
        is_same_stream(since, &top) && is_contiguous(since.offset, &publications, top.offset)
    });
    let num_bytes: usize = publications
        .iter()
        .chain(&joined)
        .map(|publication| publication_cost(publication))
        .sum();
    let fits = publications.len() + joined.len() <= limits.max_publications
        && num_bytes <= limits.max_bytes;
    if !is_whole || !fits {
        return Merged::Lost {
            top,
            live: joined.into_iter().chain(live).collect(),
            position,
        };
    }
    let mut recovered = publications;
    recovered.extend(joined);
    Merged::Recovered {
        publications: recovered,
        live,
        position,
    }
}

/// Whether what was broadcast cannot be joined to a history that ends at `top`.
pub fn is_torn(top: &StreamPosition, broadcast: &[BufferedPublication]) -> bool {
    follow(top, broadcast).is_none()
}

/// An empty epoch names whatever stream there is.
fn is_same_stream(since: &StreamPosition, top: &StreamPosition) -> bool {
    since.epoch.is_empty() || since.epoch == top.epoch
}

/// Whether `publications` are exactly the offsets after `held` up to `top`.
fn is_contiguous(held: u64, publications: &[Arc<Publication>], top: u64) -> bool {
    let mut last = held;
    for publication in publications {
        if last.checked_add(1) != Some(publication.offset) {
            return false;
        }
        last = publication.offset;
    }
    last == top
}

/// What was broadcast since the join and is not in the history, in the order of the broadcasts.
#[derive(Default)]
struct Following {
    /// Continues the history.
    joined: Vec<Arc<Publication>>,
    /// From the first publication on that is in no history: those come after the reply, and so does what follows
    /// them.
    live: Vec<Arc<Publication>>,
    /// The last offset in either, or the history's.
    offset: u64,
}

/// `None` unless what was broadcast follows `top` without a hole.
fn follow(top: &StreamPosition, broadcast: &[BufferedPublication]) -> Option<Following> {
    let mut following = Following {
        offset: top.offset,
        ..Following::default()
    };
    for BufferedPublication {
        publication,
        position,
    } in broadcast
    {
        let publication = Arc::clone(publication);
        let Some(position) = position else {
            following.live.push(publication);
            continue;
        };
        if position.epoch != top.epoch {
            return None;
        }
        if position.offset <= following.offset {
            continue; // The history already has it.
        }
        if position.offset != following.offset + 1 {
            return None;
        }
        following.offset = position.offset;
        if following.live.is_empty() {
            following.joined.push(publication);
        } else {
            following.live.push(publication);
        }
    }
    Some(following)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: RecoveryLimits = RecoveryLimits {
        max_publications: 300,
        max_bytes: 1024 * 1024,
    };

    fn publication(offset: u64) -> Arc<Publication> {
        Arc::new(Publication {
            offset,
            ..Publication::default()
        })
    }

    fn position(offset: u64, epoch: &str) -> StreamPosition {
        StreamPosition {
            offset,
            epoch: epoch.to_owned(),
        }
    }

    fn broadcast(offset: u64, epoch: &str) -> BufferedPublication {
        BufferedPublication {
            publication: publication(offset),
            position: Some(position(offset, epoch)),
        }
    }

    fn offsets(publications: &[Arc<Publication>]) -> Vec<u64> {
        publications
            .iter()
            .map(|publication| publication.offset)
            .collect()
    }

    proptest! {
        /// The stream has offsets `trimmed+1..=top` when history is read; `late` more are broadcast afterwards
        /// and `early` of the newest before were broadcast while history was being read.
        #[test]
        fn r6_recovery_is_whole_or_refused(
            top in 0_u64..40,
            trimmed in 0_u64..40,
            held in 0_u64..45,
            early in 0_u64..10,
            late in 0_u64..10,
            lost in proptest::option::of(0_usize..10),
            is_same_epoch in any::<bool>(),
        ) {
            let trimmed = trimmed.min(top);
            let epoch = if is_same_epoch { "here" } else { "gone" };
            let page = HistoryPage {
                publications: (trimmed + 1..=top).filter(|offset| *offset > held).map(publication).collect(),
                top: position(top, "here"),
            };
            let mut publications: Vec<_> =
                (top.saturating_sub(early) + 1..=top + late).map(|offset| broadcast(offset, "here")).collect();
            let mut is_torn = false;
            if let Some(index) = lost.filter(|index| *index < publications.len()) {
                let removed = publications.remove(index);
                let offset = removed.publication.offset;
                // A hole shows when something after it was broadcast.
                is_torn = offset > top && offset < top + late;
            }
            let last = publications.last().map_or(top, |last| last.publication.offset.max(top));
            let buffered = Buffered { publications, has_overflowed: false };
            match merge(Some(&position(held, epoch)), page, &buffered, LIMITS) {
                Merged::Recovered { publications, live, position } => {
                    prop_assert!(live.is_empty());
                    prop_assert!(!is_torn && is_same_epoch && held >= trimmed && held <= top);
                    prop_assert_eq!(offsets(&publications), (held + 1..=last).collect::<Vec<_>>());
                    prop_assert_eq!(position.offset, last);
                }
                Merged::Lost { top: told, live, position } => {
                    prop_assert!(!is_torn && (!is_same_epoch || held < trimmed || held > top));
                    prop_assert_eq!(told.offset, top);
                    prop_assert_eq!(offsets(&live), (top + 1..=last).collect::<Vec<_>>());
                    prop_assert_eq!(position.offset, last);
                }
                Merged::Torn => prop_assert!(is_torn),
            }
        }
    }

    proptest! {
        /// What was published with `skip_history` while the client was joining is given once, after what was
        /// broadcast before it, whether the rest was recovered or lost.
        #[test]
        fn publications_outside_the_history_are_not_lost_in_the_join(
            top in 0_u64..5,
            first in 1_u64..8,
            is_outside in proptest::collection::vec(any::<bool>(), 0..20),
            since in proptest::option::of(0_u64..5),
        ) {
            let page = HistoryPage {
                publications: (1..=top).filter(|offset| Some(*offset) > since).map(publication).collect(),
                top: position(top, "here"),
            };
            let mut offset = first.min(top + 1);
            let mut expected = Vec::new();
            let mut publications = Vec::new();
            for (number, is_outside) in is_outside.into_iter().enumerate() {
                if is_outside {
                    let publication = Arc::new(Publication {
                        data: format!("{number}").into(),
                        ..Publication::default()
                    });
                    expected.push(Arc::clone(&publication));
                    publications.push(BufferedPublication { publication, position: None });
                } else {
                    if offset > top {
                        expected.push(publication(offset));
                    }
                    publications.push(broadcast(offset, "here"));
                    offset += 1;
                }
            }
            let buffered = Buffered { publications, has_overflowed: false };
            let since = since.map(|offset| position(offset, "here"));
            let given = match merge(since.as_ref(), page, &buffered, LIMITS) {
                Merged::Recovered { publications, live, .. } => publications
                    .into_iter()
                    .filter(|one| one.offset > top)
                    .chain(live)
                    .collect(),
                Merged::Lost { live, .. } => live,
                Merged::Torn => return Err(TestCaseError::fail("nothing is missing")),
            };
            prop_assert_eq!(given, expected);
        }
    }

    #[test]
    fn an_empty_epoch_on_an_empty_stream_is_recovered() {
        let page = HistoryPage {
            publications: Vec::new(),
            top: position(0, "new"),
        };
        let buffered = Buffered {
            publications: Vec::new(),
            has_overflowed: false,
        };
        assert_eq!(
            merge(Some(&position(0, "")), page, &buffered, LIMITS),
            Merged::Recovered {
                publications: Vec::new(),
                live: Vec::new(),
                position: position(0, "new")
            }
        );
    }

    #[test]
    fn an_overflowed_buffer_is_torn_and_never_whole() {
        let page = HistoryPage {
            publications: Vec::new(),
            top: position(0, "new"),
        };
        let buffered = Buffered {
            publications: Vec::new(),
            has_overflowed: true,
        };
        assert_eq!(merge(None, page, &buffered, LIMITS), Merged::Torn);
    }

    #[test]
    fn more_than_the_limit_is_lost_and_not_cut_short() {
        let page = HistoryPage {
            publications: (1..=5).map(publication).collect(),
            top: position(5, "e"),
        };
        let buffered = Buffered {
            publications: vec![broadcast(6, "e")],
            has_overflowed: false,
        };
        let limits = RecoveryLimits {
            max_publications: 5,
            ..LIMITS
        };
        let merged = merge(Some(&position(0, "e")), page, &buffered, limits);
        assert!(
            matches!(merged, Merged::Lost { live, .. } if offsets(&live) == [6]),
            "five in history and one live are one too many"
        );
    }
}
