//! Stories: what plugins made of a question.
//!
//! Those of questions that failed are kept always, those that were refused up to ten a second, and of the others one
//! now and then (`plugins.explain_interval`), each for every plugin and hook. Each kind has a place of its own, so
//! that successes never push a failure out, and in each an app pushes out its own stories first. No payloads and no
//! tokens are in a story, unless a plugin wrote them into its log or its refusal.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tidegate_realtime::ids::AppId;

use crate::{binding::Hook, capabilities::clock::unix_millis, failure::FailureKind, lane::Lane};

/// Stories of one kind that an app may have. A few hundred bytes each; failed ones have up to 6 KiB of the plugin's
/// log and stack.
const PER_APP: usize = 512;
/// Stories of one kind in all, and what they may take.
const IN_ALL: usize = 4_096;
const BYTES: usize = 4 << 20;
/// Random bytes of a trace id; shown as twice as many characters.
const TRACE_ID_BYTES: usize = 6;
/// Refusals of a plugin at a hook are kept this often at most.
const REFUSAL_INTERVAL: Duration = Duration::from_millis(100);

/// One question and what the plugins made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    pub trace_id: Arc<str>,
    pub app: AppId,
    pub hook: Hook,
    /// Milliseconds since 1970.
    pub at_millis: u64,
    /// Channel or method that the question was about; empty for authentication.
    pub subject: Arc<str>,
    /// Who asked; empty for anonymous clients, before authentication, and for messages that no client sent.
    pub user: Arc<str>,
    /// The plugins in the order they ran.
    pub steps: Vec<StoryStep>,
}

/// One plugin's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoryStep {
    pub plugin: Arc<str>,
    pub version: u32,
    pub ended: StepEnd,
    /// Code and text of a refusal.
    pub reason: Option<Arc<str>>,
    /// What was measured, if the call was made, and failed or was timed: most quick ones inline are not.
    pub measured: Option<Measured>,
}

/// What a call took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    pub lane: Lane,
    pub took: Took,
    /// For other machines, which is not part of `took`.
    pub waited: Duration,
    /// Linear memory of the instance afterwards.
    pub memory_bytes: usize,
}

/// The time of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    Exactly(Duration),
    /// No clock was read at its beginning, but the ticker, which counts milliseconds, tells this.
    Under(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEnd {
    /// The word of the verdict: `pass`, `replace`, `not-mine`, ….
    Answered(&'static str),
    Failed {
        kind: FailureKind,
        detail: Arc<str>,
        /// The last lines that the plugin logged in this call, a panic's message among them; escaped and cut.
        log: Arc<[Box<str>]>,
        /// Where the plugin was, innermost first.
        frames: Arc<[Box<str>]>,
        /// Whether the policy let the question go on without the plugin.
        is_passed_over: bool,
    },
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoryOutcome {
    /// A plugin failed, be it that an open policy passed over it.
    Failed,
    /// A plugin refused.
    Refused,
    Answered,
}

/// Which stories are wanted; all of an app, if nothing is named.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoryQuery<'a> {
    pub user: Option<&'a str>,
    /// Channel or method.
    pub subject: Option<&'a str>,
    pub outcome: Option<StoryOutcome>,
}

#[derive(Debug)]
pub(crate) struct Stories {
    /// How often a question that went well is kept, of each plugin and hook; never, if that is zero.
    interval: Duration,
    /// By [`StoryOutcome`].
    kept: [Mutex<Shelf>; 3],
}

/// When the next story of a plugin at a hook is due.
#[derive(Debug, Default)]
pub(crate) struct Due {
    success_millis: AtomicU64,
    refusal_millis: AtomicU64,
}

/// Stories of one kind.
#[derive(Debug, Default)]
struct Shelf {
    /// The newest at the end.
    apps: FxHashMap<AppId, AppShelf>,
    n_stories: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct AppShelf {
    stories: VecDeque<Arc<Story>>,
    bytes: usize,
}

impl Stories {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            kept: Default::default(),
        }
    }

    pub(crate) fn keep(&self, story: Story) {
        let shelf = &self.kept[story.outcome() as usize];
        let dropped = shelf.lock().keep(Arc::new(story));
        drop(dropped);
    }

    /// Whether a question that went well is to be kept; counts as kept then.
    pub(crate) fn is_success_due(&self, due: &Due, now_millis: u64) -> bool {
        !self.interval.is_zero() && is_due(&due.success_millis, self.interval, now_millis)
    }

    /// Whether a question that was refused is to be kept; counts as kept then.
    pub(crate) fn is_refusal_due(&self, due: &Due, now_millis: u64) -> bool {
        is_due(&due.refusal_millis, REFUSAL_INTERVAL, now_millis)
    }

    pub(crate) fn find(&self, trace_id: &str) -> Option<Story> {
        self.kept.iter().find_map(|shelf| {
            let shelf = shelf.lock();
            let mut all = shelf.apps.values().flat_map(|app| app.stories.iter().rev());
            let found = all.find(|story| *story.trace_id == *trace_id).cloned();
            drop(shelf);
            found.map(|story| Story::clone(&story))
        })
    }

    pub(crate) fn forget_app(&self, app: &AppId) {
        for shelf in &self.kept {
            let forgotten = shelf.lock().forget_app(app);
            drop(forgotten);
        }
    }

    /// The newest stories of an app that fit, at most so many, the newest first.
    pub(crate) fn list(&self, app: &str, query: StoryQuery<'_>, most: usize) -> Vec<Story> {
        let mut found: Vec<Arc<Story>> = Vec::new();
        for shelf in &self.kept {
            let shelf = shelf.lock();
            let own = shelf.apps.iter().find(|(name, _)| name.as_str() == app);
            let stories = own
                .into_iter()
                .flat_map(|(_, own)| own.stories.iter().rev());
            found.extend(
                stories
                    .filter(|story| query.fits(story))
                    .take(most)
                    .cloned(),
            );
        }
        found.sort_by_key(|story| std::cmp::Reverse(story.at_millis));
        found.truncate(most);
        found.iter().map(|story| Story::clone(story)).collect()
    }
}

/// Whether the moment has come; if so, the next one is that much later.
fn is_due(next_millis: &AtomicU64, interval: Duration, now_millis: u64) -> bool {
    let next = next_millis.load(Ordering::Relaxed);
    let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    now_millis >= next
        && next_millis
            .compare_exchange(
                next,
                now_millis.saturating_add(interval),
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .is_ok()
}

impl Shelf {
    /// Answers what had to go.
    fn keep(&mut self, story: Arc<Story>) -> Vec<Arc<Story>> {
        let mut dropped = Vec::new();
        let own = self.apps.entry(story.app.clone()).or_default();
        if own.stories.len() >= PER_APP {
            dropped.extend(own.drop_oldest());
        }
        let bytes = story.bytes();
        own.bytes += bytes;
        own.stories.push_back(story);
        self.bytes += bytes;
        self.n_stories += 1;
        self.forget(&dropped);
        let mut has_emptied = false;
        while self.n_stories > IN_ALL || self.bytes > BYTES {
            // Of the app that has most, which is seldom one that has little to tell.
            let Some(largest) = self.apps.values_mut().max_by_key(|own| own.bytes) else {
                break;
            };
            let oldest = largest.drop_oldest();
            has_emptied |= largest.stories.is_empty();
            let is_last = oldest.is_none();
            self.forget(oldest.as_slice());
            dropped.extend(oldest);
            if is_last {
                break;
            }
        }
        // Seldom: it walks all apps.
        if has_emptied {
            self.apps.retain(|_, own| !own.stories.is_empty());
        }
        dropped
    }

    fn forget_app(&mut self, app: &AppId) -> Option<AppShelf> {
        let own = self.apps.remove(app)?;
        self.n_stories -= own.stories.len();
        self.bytes -= own.bytes;
        Some(own)
    }

    fn forget(&mut self, dropped: &[Arc<Story>]) {
        self.n_stories -= dropped.len();
        self.bytes -= dropped.iter().map(|story| story.bytes()).sum::<usize>();
    }
}

impl AppShelf {
    fn drop_oldest(&mut self) -> Option<Arc<Story>> {
        let oldest = self.stories.pop_front()?;
        self.bytes -= oldest.bytes();
        Some(oldest)
    }
}

impl StoryQuery<'_> {
    fn fits(&self, story: &Story) -> bool {
        self.user.is_none_or(|user| *story.user == *user)
            && self
                .subject
                .is_none_or(|subject| *story.subject == *subject)
            && self
                .outcome
                .is_none_or(|outcome| story.outcome() == outcome)
    }
}

impl StoryOutcome {
    pub const ALL: [Self; 3] = [Self::Failed, Self::Refused, Self::Answered];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Answered => "answered",
        }
    }
}

impl Story {
    pub(crate) fn new(
        trace_id: Arc<str>,
        app: &AppId,
        hook: Hook,
        (subject, user): (&Arc<str>, &str),
        steps: Vec<StoryStep>,
    ) -> Self {
        Self {
            trace_id,
            app: app.clone(),
            hook,
            at_millis: unix_millis(),
            subject: Arc::clone(subject),
            user: user.into(),
            steps,
        }
    }

    pub fn outcome(&self) -> StoryOutcome {
        let has_failed = |step: &StoryStep| matches!(step.ended, StepEnd::Failed { .. });
        if self.steps.is_empty() || self.steps.iter().any(has_failed) {
            StoryOutcome::Failed
        } else if self.steps.iter().any(|step| step.reason.is_some()) {
            StoryOutcome::Refused
        } else {
            StoryOutcome::Answered
        }
    }

    /// What it takes, about.
    fn bytes(&self) -> usize {
        let steps = self.steps.iter().map(|step| {
            let text = match &step.ended {
                StepEnd::Answered(_) => 0,
                StepEnd::Failed {
                    detail,
                    log,
                    frames,
                    ..
                } => {
                    let lines = log.iter().chain(frames.iter());
                    detail.len() + lines.map(|line| line.len() + 16).sum::<usize>()
                }
            };
            mem::size_of::<StoryStep>() + text + step.reason.as_ref().map_or(0, |text| text.len())
        });
        mem::size_of::<Self>() + self.subject.len() + self.user.len() + steps.sum::<usize>()
    }
}

/// A fresh id: short enough to be read out on the telephone, long enough not to be guessed.
pub(crate) fn new_trace_id() -> Arc<str> {
    let bytes: [u8; TRACE_ID_BYTES] = rand::random();
    hex::encode(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(ended: StepEnd) -> StoryStep {
        StoryStep {
            plugin: "shout".into(),
            version: 1,
            ended,
            reason: None,
            measured: None,
        }
    }

    fn failed(detail: &str) -> StoryStep {
        step(StepEnd::Failed {
            kind: FailureKind::Trap,
            detail: detail.into(),
            log: [].into(),
            frames: [].into(),
            is_passed_over: false,
        })
    }

    fn keep(stories: &Stories, app: &str, id: usize, step: StoryStep) {
        let app = AppId::parse(app).unwrap();
        let about = (&"room".into(), "ann");
        let story = Story::new(
            id.to_string().into(),
            &app,
            Hook::Filtering,
            about,
            vec![step],
        );
        stories.keep(story);
    }

    #[test]
    fn an_app_pushes_out_its_own_oldest_story() {
        let stories = Stories::new(Duration::ZERO);
        keep(&stories, "quiet", 999_999, failed(""));
        for id in 0..=PER_APP {
            keep(&stories, "default", id, failed(""));
        }
        assert_eq!(stories.find("0"), None);
        for id in ["1", &PER_APP.to_string(), "999999"] {
            assert!(stories.find(id).is_some(), "{id}");
        }
    }

    #[test]
    fn successes_never_push_out_a_failure() {
        let stories = Stories::new(Duration::ZERO);
        keep(&stories, "default", 0, failed(""));
        for id in 1..2 * PER_APP {
            keep(&stories, "default", id, step(StepEnd::Answered("pass")));
        }
        assert!(stories.find("0").is_some());
        let query = StoryQuery {
            outcome: Some(StoryOutcome::Failed),
            ..StoryQuery::default()
        };
        assert_eq!(stories.list("default", query, 100).len(), 1);
        let all = stories.list("default", StoryQuery::default(), 100);
        assert_eq!(all.len(), 100);
    }

    #[test]
    fn number_and_bytes_in_all_are_bounded_and_the_largest_gives_way() {
        let stories = Stories::new(Duration::ZERO);
        keep(&stories, "quiet", 999_999, failed("why"));
        for id in 0..20_000 {
            let app = format!("app{}", id % 40);
            keep(&stories, &app, id, failed(&"x".repeat(id % 2_000)));
        }
        let shelf = stories.kept[StoryOutcome::Failed as usize].lock();
        assert!(shelf.n_stories <= IN_ALL && shelf.bytes <= BYTES);
        let own = shelf.apps.values();
        let bytes: usize = own
            .flat_map(|own| &own.stories)
            .map(|one| one.bytes())
            .sum();
        assert_eq!(bytes, shelf.bytes);
        drop(shelf);
        assert!(stories.find("999999").is_some());
        assert!(stories.find("19999").is_some());
    }

    #[test]
    fn a_deleted_app_leaves_nothing() {
        let stories = Stories::new(Duration::ZERO);
        keep(&stories, "shop", 1, failed("why"));
        keep(&stories, "default", 2, failed("why"));
        stories.forget_app(&AppId::parse("shop").unwrap());
        assert_eq!(stories.find("1"), None);
        assert!(stories.find("2").is_some());
        let shelf = stories.kept[StoryOutcome::Failed as usize].lock();
        assert_eq!((shelf.n_stories, shelf.apps.len()), (1, 1));
    }

    #[test]
    fn a_story_is_due_once_in_the_interval_and_never_without_one() {
        let due = Due::default();
        let stories = Stories::new(Duration::from_secs(1));
        let seen: Vec<u64> = (0..3_000)
            .step_by(100)
            .filter(|now| stories.is_success_due(&due, *now))
            .collect();
        assert_eq!(seen, [0, 1_000, 2_000]);
        assert!(!Stories::new(Duration::ZERO).is_success_due(&Due::default(), 5));
        assert!(stories.is_refusal_due(&due, 0) && !stories.is_refusal_due(&due, 99));
    }

    #[test]
    fn stories_are_found_by_user_channel_and_outcome() {
        let stories = Stories::new(Duration::ZERO);
        keep(&stories, "default", 1, step(StepEnd::Answered("pass")));
        let mut refused = step(StepEnd::Answered("refuse"));
        refused.reason = Some("499 no".into());
        keep(&stories, "default", 2, refused);
        for (query, ids) in [
            (
                StoryQuery {
                    user: Some("ann"),
                    ..StoryQuery::default()
                },
                2,
            ),
            (
                StoryQuery {
                    user: Some("bob"),
                    ..StoryQuery::default()
                },
                0,
            ),
            (
                StoryQuery {
                    subject: Some("room"),
                    ..StoryQuery::default()
                },
                2,
            ),
            (
                StoryQuery {
                    outcome: Some(StoryOutcome::Refused),
                    ..StoryQuery::default()
                },
                1,
            ),
        ] {
            assert_eq!(stories.list("default", query, 9).len(), ids, "{query:?}");
            assert!(stories.list("other", query, 9).is_empty());
        }
    }
}
