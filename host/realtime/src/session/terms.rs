//! From what was asked, what the namespace says and what a plugin granted to the terms of a subscription.
//!
//! Pure. A grant with a part that this node cannot honour is refused with a clear error: dropping an audience
//! predicate would widen what the plugin allowed.

use tidegate_protocol::ErrorCode;

use super::asks::{Failure, SubscribeAsk, Terms, Wishes};
use crate::{
    hooks::{AuthorizationVerdict, Grant},
    namespace::{Applicant, NamespaceOptions},
    presence::roster::Visibility,
};

/// Decides a subscription that a client asked for.
///
/// # Errors
/// The reply or the disconnect that the client gets.
pub fn decide(
    ask: &SubscribeAsk,
    verdict: AuthorizationVerdict,
    now_unix: u64,
) -> Result<Terms, Failure> {
    match verdict {
        AuthorizationVerdict::Refuse(refusal) => Err(refusal.into()),
        AuthorizationVerdict::NotMine => {
            ask.builtin.clone()?;
            Ok(terms(&ask.options, &Grant::default(), &ask.wishes))
        }
        AuthorizationVerdict::Allow(grant) => {
            // A hook that decides decides alone; of the wishes only the held position counts.
            let wishes = Wishes {
                is_positioned: false,
                is_recoverable: false,
                hears_joins: false,
                ..ask.wishes.clone()
            };
            granted(&ask.options, *grant, &wishes, now_unix)
        }
    }
}

/// The terms of a grant by a hook or a token.
///
/// # Errors
/// The grant has a part that is not available, or is over already.
pub fn granted(
    options: &NamespaceOptions,
    grant: Grant,
    wishes: &Wishes,
    now_unix: u64,
) -> Result<Terms, Failure> {
    if let Some(part) = missing_part(options, &grant) {
        // The client hears it too; a line for each would be one for each subscription.
        tracing::debug!(
            part,
            "a grant asks for what this node does not have; refused"
        );
        return Err(Failure::error(
            ErrorCode::NotAvailable,
            format!("not available: the grant asks for {part}"),
        ));
    }
    if grant.expires_at.is_some_and(|at| at <= now_unix) {
        return Err(ErrorCode::Expired.into());
    }
    let mut terms = terms(options, &grant, wishes);
    terms.expires_at = grant.expires_at;
    terms.data = grant.data;
    terms.info = grant.info;
    Ok(terms)
}

/// What a grant asks for that cannot be given.
fn missing_part(options: &NamespaceOptions, grant: &Grant) -> Option<&'static str> {
    let has_no_history = options.history.is_none();
    let audience = &grant.audience;
    [
        (audience.predicate.is_some(), "an audience predicate"),
        (audience.class.is_some(), "an audience class"),
        (!audience.attributes.is_empty(), "audience attributes"),
        (
            has_no_history && grant.force_recovery == Some(true),
            "recovery in a namespace without history",
        ),
        (
            has_no_history && grant.force_positioning == Some(true),
            "positioning in a namespace without history",
        ),
    ]
    .into_iter()
    .find_map(|(is_asked, part)| is_asked.then_some(part))
}

fn terms(options: &NamespaceOptions, grant: &Grant, wishes: &Wishes) -> Terms {
    let has_history = options.history.is_some();
    let is_recoverable = has_history
        && (grant.force_recovery.unwrap_or(options.force_recovery) || wishes.is_recoverable);
    let is_positioned = has_history
        && (is_recoverable
            || grant.force_positioning.unwrap_or(options.force_positioning)
            || wishes.is_positioned);
    Terms {
        is_positioned,
        is_recoverable,
        recover_from: wishes.recover_from.clone().filter(|_| is_recoverable),
        must_recover: wishes.must_recover,
        visibility: Visibility {
            is_present: grant.presence.unwrap_or(options.presence),
            is_announced: grant.join_leave.unwrap_or(options.join_leave),
        },
        hears_joins: wishes.hears_joins
            || grant
                .force_push_join_leave
                .unwrap_or(options.force_push_join_leave),
        ..Terms::default()
    }
}

/// Drops the wishes that the namespace does not allow this client.
pub fn permitted(options: &NamespaceOptions, applicant: Applicant, wishes: Wishes) -> Wishes {
    let subscriber = Applicant {
        is_subscribed: true,
        ..applicant
    };
    let reads_history = options.read_history.allows(subscriber);
    let reads_presence = options.read_presence.allows(subscriber);
    Wishes {
        is_positioned: wishes.is_positioned && (options.allow_positioning || reads_history),
        is_recoverable: wishes.is_recoverable && (options.allow_recovery || reads_history),
        hears_joins: wishes.hears_joins && options.join_leave && reads_presence,
        ..wishes
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        hooks::{Audience, Refusal},
        ids::{AppId, ChannelKey},
        namespace::HistoryConfig,
    };

    fn with_history() -> NamespaceOptions {
        NamespaceOptions {
            history: Some(HistoryConfig {
                size: 10,
                ttl: Duration::from_secs(60),
            }),
            ..NamespaceOptions::default()
        }
    }

    fn ask(options: NamespaceOptions, wishes: Wishes) -> SubscribeAsk {
        SubscribeAsk {
            channel: "news".into(),
            key: ChannelKey::new(&AppId::default_app(), "news"),
            options: Arc::new(options),
            is_hook_asked: true,
            builtin: Err(ErrorCode::PermissionDenied.into()),
            data: bytes::Bytes::new(),
            wishes,
        }
    }

    fn allow(grant: Grant) -> AuthorizationVerdict {
        AuthorizationVerdict::Allow(Box::new(grant))
    }

    #[track_caller]
    fn error_of(grant: Grant) -> (u32, String) {
        let ask = ask(NamespaceOptions::default(), Wishes::default());
        match decide(&ask, allow(grant), 100) {
            Err(Failure::Error(error)) => (error.code, error.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn grants_with_parts_not_honoured_are_refused_by_name() {
        let audience = |audience| Grant {
            audience,
            ..Grant::default()
        };
        let rows = [
            (
                audience(Audience {
                    predicate: Some(Box::default()),
                    ..Audience::default()
                }),
                "an audience predicate",
            ),
            (
                audience(Audience {
                    class: Some("gold".into()),
                    ..Audience::default()
                }),
                "an audience class",
            ),
            (
                audience(Audience {
                    attributes: vec![1],
                    ..Audience::default()
                }),
                "audience attributes",
            ),
            (
                Grant {
                    force_recovery: Some(true),
                    ..Grant::default()
                },
                "recovery in a namespace without history",
            ),
        ];
        for (grant, part) in rows {
            let (code, message) = error_of(grant);
            assert_eq!(code, 108);
            assert!(message.contains(part), "{message}");
        }
        let off = Grant {
            presence: Some(false),
            join_leave: Some(false),
            ..Grant::default()
        };
        let ask = ask(NamespaceOptions::default(), Wishes::default());
        assert_eq!(decide(&ask, allow(off), 100), Ok(Terms::default()));
    }

    #[test]
    fn a_grant_shows_or_hides_a_subscriber_whatever_the_namespace_says() {
        #[track_caller]
        fn check(options: &NamespaceOptions, grant: Grant, expected: (bool, bool, bool)) {
            let ask = ask(options.clone(), Wishes::default());
            let terms = decide(&ask, allow(grant), 0).unwrap();
            let Visibility {
                is_present,
                is_announced,
            } = terms.visibility;
            assert_eq!((is_present, is_announced, terms.hears_joins), expected);
        }
        let seen = NamespaceOptions {
            presence: true,
            join_leave: true,
            force_push_join_leave: true,
            ..NamespaceOptions::default()
        };
        let turned = |on| Grant {
            presence: Some(on),
            join_leave: Some(on),
            force_push_join_leave: Some(on),
            ..Grant::default()
        };
        let plain = NamespaceOptions::default();
        check(&plain, Grant::default(), (false, false, false));
        check(&plain, turned(true), (true, true, true));
        check(&seen, Grant::default(), (true, true, true));
        check(&seen, turned(false), (false, false, false));
    }

    #[test]
    fn joins_are_heard_by_who_asked_and_may_know_who_is_there() {
        let applicant = Applicant {
            is_anonymous: false,
            is_subscribed: false,
            is_insecure: false,
        };
        let asked = || Wishes {
            hears_joins: true,
            ..Wishes::default()
        };
        let mut options = NamespaceOptions {
            join_leave: true,
            ..NamespaceOptions::default()
        };
        assert!(!permitted(&options, applicant, asked()).hears_joins);
        options.read_presence.for_subscriber = true;
        assert!(permitted(&options, applicant, asked()).hears_joins);
        assert!(!permitted(&options, applicant, Wishes::default()).hears_joins);
        options.join_leave = false;
        assert!(!permitted(&options, applicant, asked()).hears_joins);
    }

    #[test]
    fn the_first_definite_answer_decides() {
        let ask = ask(with_history(), Wishes::default());
        assert_eq!(
            decide(&ask, AuthorizationVerdict::NotMine, 100),
            Err(ErrorCode::PermissionDenied.into())
        );
        assert!(decide(&ask, allow(Grant::default()), 100).is_ok());
        let refusal = Refusal::Disconnect {
            code: 4001,
            reason: "go".into(),
        };
        assert!(matches!(
            decide(&ask, AuthorizationVerdict::Refuse(refusal), 100),
            Err(Failure::Close(closing)) if closing.code == 4001
        ));
        let over = Grant {
            expires_at: Some(100),
            ..Grant::default()
        };
        assert_eq!(
            decide(&ask, allow(over), 100),
            Err(ErrorCode::Expired.into())
        );
    }

    #[test]
    fn wishes_need_permission_and_forced_options_do_not() {
        let wishes = Wishes {
            is_positioned: true,
            is_recoverable: true,
            ..Wishes::default()
        };
        let applicant = Applicant {
            is_anonymous: false,
            is_subscribed: false,
            is_insecure: false,
        };
        #[track_caller]
        fn check(terms: &Terms, expected: (bool, bool)) {
            assert_eq!((terms.is_positioned, terms.is_recoverable), expected);
        }
        let plain = with_history();
        let refused = permitted(&plain, applicant, wishes.clone());
        check(&terms(&plain, &Grant::default(), &refused), (false, false));
        let mut reading = with_history();
        reading.read_history.for_subscriber = true;
        let kept = permitted(&reading, applicant, wishes.clone());
        check(&terms(&reading, &Grant::default(), &kept), (true, true));
        let positioning = NamespaceOptions {
            allow_positioning: true,
            ..with_history()
        };
        let kept = permitted(&positioning, applicant, wishes.clone());
        check(
            &terms(&positioning, &Grant::default(), &kept),
            (true, false),
        );
        let recovering = NamespaceOptions {
            allow_recovery: true,
            ..with_history()
        };
        let kept = permitted(&recovering, applicant, wishes.clone());
        check(&terms(&recovering, &Grant::default(), &kept), (true, true));
        let forced_position = NamespaceOptions {
            force_positioning: true,
            ..with_history()
        };
        let unasked = Wishes::default();
        check(
            &terms(&forced_position, &Grant::default(), &unasked),
            (true, false),
        );
        // Without history there is nothing to be at.
        let nothing_kept = NamespaceOptions {
            force_recovery: true,
            force_positioning: true,
            ..NamespaceOptions::default()
        };
        check(
            &terms(&nothing_kept, &Grant::default(), &wishes),
            (false, false),
        );
        let forced = NamespaceOptions {
            force_recovery: true,
            ..with_history()
        };
        check(
            &terms(&forced, &Grant::default(), &Wishes::default()),
            (true, true),
        );
        let off = Grant {
            force_recovery: Some(false),
            ..Grant::default()
        };
        check(&terms(&forced, &off, &Wishes::default()), (false, false));
        // A hook's allowance does not take the client's wishes over.
        let ask = ask(reading, wishes);
        check(
            &decide(&ask, allow(Grant::default()), 0).unwrap(),
            (false, false),
        );
    }
}
