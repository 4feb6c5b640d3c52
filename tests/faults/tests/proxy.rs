//! The fault proxy does to bytes what its modes say, and nothing else.

use std::{future::Future, time::Duration};

use tidegate_faults::proxy::{Direction, Mode, Proxy};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

/// For what should happen at once, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// For what should not happen: a stalled byte is on its way for far less than this.
const A_WHILE: Duration = Duration::from_millis(200);

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future)
        .await
        .expect("it happens soon")
}

/// Nothing comes for a while.
async fn nothing(stream: &mut TcpStream) {
    let read = tokio::time::timeout(A_WHILE, stream.read_u8()).await;
    assert!(read.is_err(), "{read:?}");
}

struct Pair {
    proxy: Proxy,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let proxy = Proxy::start(listener.local_addr().expect("it is bound"))
            .await
            .expect("a free port");
        let client = TcpStream::connect(proxy.addr())
            .await
            .expect("the proxy listens");
        let (server, _) = soon(listener.accept()).await.expect("the proxy connects");
        let mut pair = Self {
            proxy,
            listener,
            client,
            server,
        };
        pair.exchange().await;
        pair
    }

    /// A byte each way arrives.
    async fn exchange(&mut self) {
        self.client
            .write_all(b">")
            .await
            .expect("the connection is open");
        assert_eq!(
            soon(self.server.read_u8())
                .await
                .expect("the connection is open"),
            b'>'
        );
        self.server
            .write_all(b"<")
            .await
            .expect("the connection is open");
        assert_eq!(
            soon(self.client.read_u8())
                .await
                .expect("the connection is open"),
            b'<'
        );
    }
}

#[tokio::test]
async fn megabytes_pass_unchanged_both_ways_and_so_does_the_end() {
    let mut pair = Pair::open().await;
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 3])
        .collect();
    let (mut from_client, mut to_client) = pair.client.split();
    let (mut from_server, mut to_server) = pair.server.split();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let sending = async {
        tokio::try_join!(
            async {
                to_client.write_all(&sent).await?;
                to_client.shutdown().await
            },
            async {
                to_server.write_all(&sent).await?;
                to_server.shutdown().await
            },
        )
    };
    let (written, received_up, received_down) = soon(async {
        tokio::join!(
            sending,
            from_server.read_to_end(&mut up),
            from_client.read_to_end(&mut down)
        )
    })
    .await;
    written.unwrap();
    assert_eq!(
        (received_up.unwrap(), received_down.unwrap()),
        (sent.len(), sent.len())
    );
    assert!(up == sent && down == sent);
    assert_eq!(pair.proxy.bytes_to_server(), sent.len() as u64 + 1);
}

#[tokio::test]
async fn delayed_bytes_come_later_and_in_order() {
    let mut pair = Pair::open().await;
    let delay = Duration::from_millis(300);
    pair.proxy.set(Mode::Delay(delay));
    let start = Instant::now();
    pair.client.write_all(b"12").await.unwrap();
    let mut bytes = [0; 2];
    soon(pair.server.read_exact(&mut bytes)).await.unwrap();
    assert!(start.elapsed() >= delay);
    pair.client.write_all(b"3").await.unwrap();
    // What is sent without delay does not overtake what is on its way.
    pair.proxy.set(Mode::Pass);
    pair.client.write_all(b"4").await.unwrap();
    assert_eq!(bytes, *b"12");
    soon(pair.server.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(bytes, *b"34");
}

#[tokio::test]
async fn a_stall_holds_bytes_both_ways_and_lets_them_go_afterwards() {
    let mut pair = Pair::open().await;
    pair.proxy.set(Mode::Stall(Direction::Both));
    pair.client.write_all(b"a").await.unwrap();
    pair.server.write_all(b"b").await.unwrap();
    nothing(&mut pair.server).await;
    nothing(&mut pair.client).await;
    // A connection that is opened meanwhile looks alive and carries nothing.
    let mut late = TcpStream::connect(pair.proxy.addr()).await.unwrap();
    late.write_all(b"c").await.unwrap();
    let (mut late_server, _) = soon(pair.listener.accept()).await.unwrap();
    nothing(&mut late_server).await;

    pair.proxy.set(Mode::Pass);
    assert_eq!(soon(pair.server.read_u8()).await.unwrap(), b'a');
    assert_eq!(soon(pair.client.read_u8()).await.unwrap(), b'b');
    assert_eq!(soon(late_server.read_u8()).await.unwrap(), b'c');
}

#[tokio::test]
async fn a_stall_of_one_direction_leaves_the_other() {
    let mut pair = Pair::open().await;
    pair.proxy.set(Mode::Stall(Direction::ToClient));
    pair.client.write_all(b"a").await.unwrap();
    assert_eq!(soon(pair.server.read_u8()).await.unwrap(), b'a');
    pair.server.write_all(b"b").await.unwrap();
    nothing(&mut pair.client).await;
    pair.proxy.set(Mode::Stall(Direction::ToServer));
    assert_eq!(soon(pair.client.read_u8()).await.unwrap(), b'b');
    pair.client.write_all(b"c").await.unwrap();
    nothing(&mut pair.server).await;
}

#[tokio::test]
async fn a_stall_of_subscribers_leaves_the_others() {
    let mut pair = Pair::open().await;
    // In two pieces: the word is found across reads.
    pair.client.write_all(b"*2\r\n$9\r\nSUBSC").await.unwrap();
    let mut bytes = [0; 14];
    soon(pair.server.read_exact(&mut bytes[..13]))
        .await
        .unwrap();
    pair.client.write_all(b"RIBE\r\n$1\r\na\r\n").await.unwrap();
    soon(pair.server.read_exact(&mut bytes[..13]))
        .await
        .unwrap();
    let mut other = TcpStream::connect(pair.proxy.addr()).await.unwrap();
    let (mut other_server, _) = soon(pair.listener.accept()).await.unwrap();

    pair.proxy.set(Mode::StallSubscribers);
    pair.server.write_all(b"m").await.unwrap();
    nothing(&mut pair.client).await;
    // What a subscriber sends still arrives.
    pair.client.write_all(b"p").await.unwrap();
    assert_eq!(soon(pair.server.read_u8()).await.unwrap(), b'p');
    other.write_all(b">").await.unwrap();
    assert_eq!(soon(other_server.read_u8()).await.unwrap(), b'>');
    other_server.write_all(b"<").await.unwrap();
    assert_eq!(soon(other.read_u8()).await.unwrap(), b'<');

    pair.proxy.set(Mode::Pass);
    assert_eq!(soon(pair.client.read_u8()).await.unwrap(), b'm');
}

#[tokio::test]
async fn a_reset_ends_open_connections_and_new_ones() {
    let mut pair = Pair::open().await;
    pair.proxy.set(Mode::Reset);
    let ended = soon(pair.client.read_u8()).await.unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    let ended = soon(pair.server.read_u8()).await.unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    let mut late = TcpStream::connect(pair.proxy.addr()).await.unwrap();
    assert!(soon(late.read_u8()).await.is_err());
}

#[tokio::test]
async fn a_half_close_ends_one_direction_and_passes_the_other() {
    let mut pair = Pair::open().await;
    pair.proxy.set(Mode::HalfClose(Direction::ToServer));
    let ended = soon(pair.server.read_u8()).await.unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::UnexpectedEof);
    pair.server.write_all(b"b").await.unwrap();
    assert_eq!(soon(pair.client.read_u8()).await.unwrap(), b'b');
}

#[tokio::test]
async fn new_connections_go_where_they_are_sent_now() {
    let mut pair = Pair::open().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pair.proxy.forward_to(other.local_addr().unwrap());
    let mut late = TcpStream::connect(pair.proxy.addr()).await.unwrap();
    let (mut moved, _) = soon(other.accept()).await.unwrap();
    late.write_all(b">").await.unwrap();
    assert_eq!(soon(moved.read_u8()).await.unwrap(), b'>');
    pair.exchange().await;
    assert_eq!(pair.proxy.accepted(), 2);
}

#[tokio::test]
async fn a_move_ends_open_connections_and_sends_new_ones_elsewhere() {
    let mut pair = Pair::open().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pair.proxy.move_to(other.local_addr().unwrap());
    assert!(soon(pair.client.read_u8()).await.is_err());
    let _late = TcpStream::connect(pair.proxy.addr()).await.unwrap();
    soon(other.accept()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_listen_is_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let proxy = Proxy::start(nobody).await.unwrap();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(soon(client.read_u8()).await.is_err());
}
