//! Names of everything in Redis: keys and pub/sub channels.
//!
//! Owns the one encoder (threat model N1): nobody else puts a name together. A name is the prefix, the kind of thing
//! and, for what belongs to a channel, the [`ChannelKey`] in braces. The braces are Redis Cluster's hash tag: all
//! names of a channel lie in one slot, since they agree in everything from the first brace on as far as the tag
//! reaches, whatever braces the channel's own name holds; the tag is never empty, since a [`ChannelKey`] starts with
//! digits. Distinct things have distinct names: kinds hold neither braces nor colons, and where something follows
//! the channel, its length stands before it.

use tidegate_realtime::{cluster::NodeUid, ids::ChannelKey, leases::LeaseName, store::Owner};

/// What every name starts with; checked by [`Prefix::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(Box<str>);

/// The prefix of our ACL example: `~tg:*`, `&tg:*`.
pub const DEFAULT_PREFIX: &str = "tg";

const MAX_PREFIX_BYTES: usize = 64;

/// The text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a prefix is 1 to {MAX_PREFIX_BYTES} characters of a-z, A-Z, 0-9, '.', '-' and '_', for example {DEFAULT_PREFIX}"
)]
pub struct BadPrefix;

impl Prefix {
    /// # Errors
    /// [`BadPrefix`] for anything that a hash tag, a pattern of an ACL or a reader could take for something else.
    pub fn parse(text: &str) -> Result<Self, BadPrefix> {
        let is_ok = (1..=MAX_PREFIX_BYTES).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        if is_ok {
            Ok(Self(text.into()))
        } else {
            Err(BadPrefix)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self(DEFAULT_PREFIX.into())
    }
}

/// What a name names. The texts are the layout of the store: a change loses what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stream,
    Meta,
    Result,
    Version,
    PresenceClients,
    PresenceExpiry,
    PresenceUsers,
    Channel,
    Control,
    Node,
    NodeRegistry,
    Lease,
    Book,
    Mark,
    User,
    Store,
    StoreEnds,
    Probe,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Meta => "meta",
            Self::Result => "result",
            Self::Version => "version",
            Self::PresenceClients => "presence",
            Self::PresenceExpiry => "presence_expiry",
            Self::PresenceUsers => "presence_users",
            Self::Channel => "client",
            Self::Control => "control",
            Self::Node => "node",
            Self::NodeRegistry => "nodes",
            Self::Lease => "lease",
            Self::Book => "book",
            Self::Mark => "mark",
            Self::User => "user",
            Self::Store => "store",
            Self::StoreEnds => "store_ends",
            Self::Probe => "probe",
        }
    }
}

/// The encoder of one deployment.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: Prefix,
}

impl Keys {
    pub fn new(prefix: Prefix) -> Self {
        Self { prefix }
    }

    pub fn prefix(&self) -> &str {
        self.prefix.as_str()
    }

    /// History: a stream, the id of an entry is its offset.
    pub fn stream(&self, channel: &ChannelKey) -> String {
        self.of_channel(Kind::Stream, channel.as_str())
    }

    /// Epoch, generation, top offset and version of the stream.
    pub fn meta(&self, channel: &ChannelKey) -> String {
        self.of_channel(Kind::Meta, channel.as_str())
    }

    /// The last version and its epoch.
    pub fn version(&self, channel: &ChannelKey) -> String {
        self.of_channel(Kind::Version, channel.as_str())
    }

    /// The result of an idempotent publish.
    pub fn result(&self, channel: &ChannelKey, idempotency_key: &str) -> String {
        let channel = channel.as_str();
        let digits = channel.len().to_string();
        let kind = Kind::Result.as_str();
        let parts = [
            self.prefix(),
            ":",
            kind,
            ":",
            &digits,
            ":{",
            channel,
            "}:",
            idempotency_key,
        ];
        parts.concat()
    }

    /// Presence: session to what it shows of itself.
    pub fn presence_clients(&self, channel: &ChannelKey) -> String {
        self.of_channel(Kind::PresenceClients, channel.as_str())
    }

    /// Presence: session to the time of its end.
    pub fn presence_expiry(&self, channel: &ChannelKey) -> String {
        self.of_channel(Kind::PresenceExpiry, channel.as_str())
    }

    /// Presence: user to the number of their sessions.
    pub fn presence_users(&self, channel: &ChannelKey) -> String {
        self.of_channel(Kind::PresenceUsers, channel.as_str())
    }

    /// The pub/sub channel of a channel.
    pub fn channel(&self, channel: &ChannelKey) -> String {
        self.of_channel(Kind::Channel, channel.as_str())
    }

    /// The channel that a pub/sub channel belongs to, as [`ChannelKey::as_str`]; `None` for any other name.
    pub fn parse_channel<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_prefix(self.prefix())?.strip_prefix(':')?;
        let rest = rest.strip_prefix(Kind::Channel.as_str())?;
        rest.strip_prefix(":{")?.strip_suffix('}')
    }

    /// The pub/sub channel that every node hears.
    pub fn control(&self) -> String {
        self.plain(Kind::Control)
    }

    /// The pub/sub channel of one node.
    pub fn node(&self, uid: &str) -> String {
        self.of_channel(Kind::Node, uid)
    }

    /// The nodes there are, by their last heartbeats.
    pub fn nodes(&self) -> String {
        self.plain(Kind::NodeRegistry)
    }

    /// Who does what one node at a time does.
    pub fn lease(&self, name: &LeaseName) -> String {
        self.of_channel(Kind::Lease, &name.to_string())
    }

    /// A node's sessions, and what others see of them.
    pub fn book(&self, node: &NodeUid) -> String {
        self.of_channel(Kind::Book, node.as_str())
    }

    /// What is missing when a server has lost what a node had entered there; `tag` names node and server.
    pub fn mark(&self, tag: &str) -> String {
        self.of_channel(Kind::Mark, tag)
    }

    /// The sessions of a user, who is encoded with its app as a channel is.
    pub fn user(&self, user: &ChannelKey) -> String {
        self.of_channel(Kind::User, user.as_str())
    }

    /// What a plugin keeps in its store; the same encoder serves its app and name.
    pub fn store(&self, owner: &Owner) -> String {
        self.of_channel(Kind::Store, owner.key().as_str())
    }

    /// When what a plugin keeps in its store ends.
    pub fn store_ends(&self, owner: &Owner) -> String {
        self.of_channel(Kind::StoreEnds, owner.key().as_str())
    }

    /// The pub/sub channel with which one connection finds out whether it still hears; `tag` names the connection.
    pub fn probe(&self, tag: &str) -> String {
        self.of_channel(Kind::Probe, tag)
    }

    fn plain(&self, kind: Kind) -> String {
        [self.prefix(), ":", kind.as_str()].concat()
    }

    fn of_channel(&self, kind: Kind, name: &str) -> String {
        [self.prefix(), ":", kind.as_str(), ":{", name, "}"].concat()
    }
}

/// What Redis Cluster hashes of a name: the text between the first opening brace and the first closing one after it,
/// unless that is empty or there is none.
pub fn hash_tag(name: &[u8]) -> &[u8] {
    let Some(open) = name.iter().position(|byte| *byte == b'{') else {
        return name;
    };
    let inner = &name[open + 1..];
    match inner.iter().position(|byte| *byte == b'}') {
        Some(len) if len > 0 => &inner[..len],
        Some(_) | None => name,
    }
}

/// Slots of a Redis Cluster.
pub const NUM_SLOTS: u16 = 16_384;

/// The slot of a name: CRC16 (XMODEM) of its [`hash_tag`].
pub fn slot(name: &[u8]) -> u16 {
    let crc = hash_tag(name).iter().fold(0_u16, |crc, byte| {
        let [high, low] = crc.to_be_bytes();
        (u16::from(low) << 8) ^ CRC_OF_BYTE[usize::from(high ^ byte)]
    });
    crc % NUM_SLOTS
}

/// Every name of a Cluster goes through it, and a search for a probe's name many thousand times.
static CRC_OF_BYTE: [u16; 256] = crc_of_bytes();

const fn crc_of_bytes() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u16;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
}

/// The shard of a channel: jump consistent hash over 64-bit FNV-1a, so that with one shard more only the channels that
/// move there lose their place.
pub fn shard(channel: &ChannelKey, num_shards: usize) -> usize {
    jump_hash(fnv1a(channel.as_str().as_bytes()), num_shards)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// "A Fast, Minimal Memory, Consistent Hash Algorithm", Lamping and Veach.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the algorithm is defined in doubles, and its result is below num_buckets"
)]
fn jump_hash(mut key: u64, num_buckets: usize) -> usize {
    let (mut bucket, mut next) = (0_u64, 0_u64);
    while next < num_buckets as u64 {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let scale = (1_u64 << 31) as f64 / (((key >> 33) + 1) as f64);
        next = ((bucket + 1) as f64 * scale) as u64;
    }
    bucket as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use tidegate_realtime::ids::AppId;

    use super::*;

    fn keys() -> Keys {
        Keys::new(Prefix::default())
    }

    fn channel(app: &str, channel: &str) -> ChannelKey {
        ChannelKey::new(&AppId::parse(app).unwrap(), channel)
    }

    fn all_names(keys: &Keys, channel: &ChannelKey) -> Vec<String> {
        // A plugin of the channel's name.
        let app = AppId::parse(channel.app()).unwrap();
        let owner = Owner::new(&app, channel.channel());
        vec![
            keys.stream(channel),
            keys.meta(channel),
            keys.version(channel),
            keys.result(channel, ""),
            keys.result(channel, "}:{x"),
            keys.presence_clients(channel),
            keys.presence_expiry(channel),
            keys.presence_users(channel),
            keys.channel(channel),
            keys.store(&owner),
            keys.store_ends(&owner),
        ]
    }

    #[test]
    fn all_names_of_a_channel_share_a_slot_whatever_braces_it_has() {
        for name in ["news", "", "{", "}", "{}", "a}b{c", "{x}y", "chat:{a}#1,2"] {
            let names = all_names(&keys(), &channel("default", name));
            let slots: HashSet<_> = names.iter().map(|name| slot(name.as_bytes())).collect();
            assert_eq!(slots.len(), 1, "{name}");
            for full in &names {
                assert_ne!(
                    hash_tag(full.as_bytes()),
                    full.as_bytes(),
                    "{full} has a tag"
                );
            }
        }
    }

    #[test]
    fn slots_are_those_of_redis() {
        // As CLUSTER KEYSLOT of Redis 7 answers.
        for (name, expected) in [
            ("123456789", 12_739),
            ("user1000", 3_443),
            ("{user1000}.following", 3_443),
            ("foo{}{bar}", 8_363),
            ("foo{{bar}}zap", 4_015),
            ("foo{bar}{zap}", 5_061),
        ] {
            assert_eq!(slot(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn prefixes_that_could_be_misread_are_refused() {
        for bad in ["", "a:b", "a{b", "a*", "a b", "ä", &"a".repeat(65)] {
            assert_eq!(Prefix::parse(bad), Err(BadPrefix), "{bad:?}");
        }
        assert!(Prefix::parse("centrifugo").is_ok());
    }

    #[test]
    fn a_shard_more_moves_only_what_goes_there() {
        let mut moved = 0;
        for number in 0..10_000 {
            let channel = channel("default", &format!("channel{number}"));
            let (before, after) = (shard(&channel, 3), shard(&channel, 4));
            assert!(before < 3 && (after == before || after == 3));
            moved += usize::from(after == 3);
        }
        assert!((2_000..3_000).contains(&moved), "{moved}");
    }

    #[test]
    fn a_pub_sub_channel_gives_back_its_channel() {
        let channel = channel("default", "a}:{b");
        let name = keys().channel(&channel);
        assert_eq!(keys().parse_channel(&name), Some(channel.as_str()));
        for foreign in [
            "",
            "tg",
            "tg:client:",
            "other:client:{07defaulta}",
            &keys().control(),
        ] {
            assert_eq!(keys().parse_channel(foreign), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn n1_distinct_things_have_distinct_names(
            one in "[a{}:0-9]{0,6}", two in "[a{}:0-9]{0,6}",
            first in "[a{}:0-9]{0,6}", second in "[a{}:0-9]{0,6}",
        ) {
            let keys = keys();
            let (a, b) = (channel("a", &one), channel("a", &two));
            if one != two {
                for name in all_names(&keys, &a) {
                    prop_assert!(!all_names(&keys, &b).contains(&name));
                }
            }
            if (&one, &first) != (&two, &second) {
                prop_assert_ne!(keys.result(&a, &first), keys.result(&b, &second));
            }
        }
    }
}
