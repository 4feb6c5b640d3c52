//! Random commands against a simple model.

use proptest::prelude::*;

use super::*;

/// Commands that a random client may send.
fn random_command() -> impl Strategy<Value = String> {
    let channel = prop::sample::select(vec!["a", "b", "c", "d", "e", "bad:x", "$a", ""]);
    let channel_of = move |kind: &'static str| {
        channel
            .clone()
            .prop_map(move |channel| format!(r#""{kind}":{{"channel":"{channel}","data":1}}"#))
    };
    prop_oneof![
        4 => channel_of("subscribe"),
        3 => channel_of("unsubscribe"),
        4 => channel_of("publish"),
        2 => channel_of("history"),
        1 => channel_of("presence"),
        1 => Just(r#""rpc":{"method":"m"}"#.to_owned()),
    ]
}

proptest! {
    /// One reply per command, in order, with its id; subscriptions as a set of names says; limits hold.
    #[test]
    fn every_command_gets_one_reply_with_its_id(
        commands in prop::collection::vec(random_command(), 1..60),
        limit in 1_usize..4,
        delayed in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut settings = settings();
        settings.client.channel_limit = limit;
        let mut harness = Harness::connected_with(settings);
        let mut model = std::collections::BTreeSet::new();
        for (index, command) in commands.iter().enumerate() {
            let id = u32::try_from(index).unwrap() + 2;
            let step = harness.say(&format!(r#"{{"id":{id},{command}}}"#));
            let step = match step {
                Step::Ask(ask) => {
                    prop_assert!(harness.session.is_waiting());
                    prop_assert!(harness.take().is_empty(), "nothing is said before the answer");
                    if delayed[index] {
                        harness.with(Session::on_deadline);
                    }
                    let answer = harness.answer_of(ask);
                    harness.answer(answer)
                }
                step => step,
            };
            if let Step::Close(closing) = step {
                // The only command here that ends a connection is a subscribe to nothing.
                prop_assert_eq!(closing.code, 3501);
                prop_assert!(command.contains(r#""subscribe":{"channel":"""#), "{}", command);
                return Ok(());
            }
            let reply = harness.reply();
            prop_assert_eq!(reply.id, id);
            let channel = command.split('"').nth(5).unwrap_or_default().to_owned();
            if reply.subscribe.is_some() {
                prop_assert!(model.insert(channel));
            } else if command.starts_with(r#""unsub"#) {
                prop_assert!(reply.unsubscribe.is_some());
                model.remove(&channel);
            }
            let known: std::collections::BTreeSet<_> =
                harness
                    .session
                    .subscriptions
                    .iter()
                    .map(|subscription| subscription.seat.key().channel().to_owned())
                    .collect();
            prop_assert_eq!(&known, &model);
            prop_assert!(model.len() <= limit);
        }
    }
}
