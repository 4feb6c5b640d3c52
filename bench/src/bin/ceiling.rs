//! The ceiling server as a program: `ceiling --port 0 --workers 1 --groups 1`; prints where it listens.

#![expect(
    clippy::print_stdout,
    reason = "announces its address to the program that started it"
)]

use std::net::{Ipv4Addr, SocketAddr};

use clap::Parser;

/// The same allocator as the server it is compared with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The least that a server with our socket design can cost.
#[derive(Debug, Parser)]
struct Options {
    /// Port on the loopback address; 0 takes any.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Worker threads, and flushers.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Groups of connections; publications go to one after the other.
    #[arg(long, default_value_t = 1)]
    groups: usize,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.workers.max(1))
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, options.port)))?;
        let listener = socket.listen(4096)?;
        println!("{}", serde_json::json!({ "event": "listening", "client": listener.local_addr()?.to_string() }));
        tidegate_bench::ceiling::serve(listener, options.workers, options.groups).await
    })
}
