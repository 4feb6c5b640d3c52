//! The words of answers, as stories, statistics and metrics show them.

/// What a plugin answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Authentication, authorization, rpc: the next plugin is asked.
    NotMine,
    /// Authentication: an identity.
    Accept,
    /// Authorization: a grant.
    Allow,
    /// Filtering: the message goes on as it is.
    Pass,
    /// Filtering: the message goes on with other data.
    Replace,
    /// Filtering: the message ends here and its sender is not told.
    Drop,
    /// Routing: the message goes where it would have gone.
    Keep,
    /// Routing: the message goes where the plugin said.
    Routed,
    /// Rpc: a result.
    Reply,
    /// Any hook that is asked something: no, with a reason.
    Refuse,
    /// Events and schedule: it is done.
    Done,
    /// Events and schedule: it could not be done, with a reason.
    Trouble,
}

impl Verdict {
    pub const ALL: [Self; 12] = [
        Self::NotMine,
        Self::Accept,
        Self::Allow,
        Self::Pass,
        Self::Replace,
        Self::Drop,
        Self::Keep,
        Self::Routed,
        Self::Reply,
        Self::Refuse,
        Self::Done,
        Self::Trouble,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotMine => "not-mine",
            Self::Accept => "accept",
            Self::Allow => "allow",
            Self::Pass => "pass",
            Self::Replace => "replace",
            Self::Drop => "drop",
            Self::Keep => "keep",
            Self::Routed => "routed",
            Self::Reply => "reply",
            Self::Refuse => "refuse",
            Self::Done => "done",
            Self::Trouble => "trouble",
        }
    }
}
