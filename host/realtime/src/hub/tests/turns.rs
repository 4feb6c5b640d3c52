//! Who has their turn when, and what an app is said to have.

use super::*;

#[tokio::test]
async fn c5_members_that_are_still_joining_do_not_hold_the_flusher() {
    const MEMBERS: usize = 2_000;
    let hub = Hub::new(HubConfig {
        shards: 1,
        ..HubConfig::default()
    });
    let members: Vec<_> = (0..MEMBERS)
        .map(|_| {
            let link: Arc<Link> = hub.link(
                ClientId::random(),
                Codec::Json,
                Framing::WebSocket,
                TestWire::default(),
            );
            hub.join(&key("news"), &link).membership
        })
        .collect();
    let kept_back = |member: &Membership| {
        let mut number = 0;
        member.activate(|buffered| {
            number = buffered.publications.len();
            Activation::Withdraw
        });
        number
    };
    hub.broadcast(&key("news"), &publication("1"), None);
    let mut flusher = std::pin::pin!(flusher::run(Arc::clone(&hub), 0, CancellationToken::new()));
    let mut context = std::task::Context::from_waker(Waker::noop());
    assert!(flusher.as_mut().poll(&mut context).is_pending());
    assert_eq!(kept_back(&members[0]), 1);
    assert_eq!(
        kept_back(&members[300]),
        0,
        "the others have their turn first"
    );
    for _ in 0..MEMBERS / 256 {
        assert!(flusher.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(kept_back(&members[MEMBERS - 1]), 1);
}

#[tokio::test]
async fn an_apps_channels_and_members_are_counted_and_listed() {
    let hub = Hub::new(HubConfig::default());
    let other = AppId::parse("other").unwrap();
    let join = |key: &ChannelKey| {
        let link: Arc<Link> = hub.link(
            ClientId::random(),
            Codec::Json,
            Framing::WebSocket,
            TestWire::default(),
        );
        hub.join(key, &link).membership
    };
    let mut members = vec![
        join(&key("a")),
        join(&key("a")),
        join(&key("b")),
        join(&ChannelKey::new(&other, "a")),
    ];
    assert_eq!(hub.num_channels_and_members_of("default"), (2, 3));
    assert_eq!(hub.num_channels_and_members_of("other"), (1, 1));
    assert_eq!(hub.num_channels_and_members_of("none"), (0, 0));
    drop(members.swap_remove(2));
    drop(members.swap_remove(0));
    assert_eq!(hub.num_channels_and_members_of("default"), (1, 1));
    // The channel without members lingers, and is in no list.
    assert_eq!(hub.num_channels(), 3);
    assert_eq!(hub.channels_of("default").await, [(key("a"), 1)]);
    members.clear();
    assert_eq!(hub.num_channels_and_members_of("default"), (0, 0));
    assert_eq!(hub.num_channels_and_members_of("other"), (0, 0));
}
