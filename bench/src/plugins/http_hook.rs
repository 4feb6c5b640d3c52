//! The other way to ask somebody else: a hook over HTTP on the loopback, as small and quick as it gets. Kept-alive
//! connections, hyper on both sides, JSON both ways, a handler that does nothing. A real one has a network too.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    process, thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, body::Incoming, client::conn::http1::SendRequest, service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, net::TcpStream, runtime, sync::oneshot, task::JoinSet};

use crate::{histogram::Histogram, process::cpu_time};

/// Requests under way when the processor time is taken.
const IN_FLIGHT: usize = 64;

/// What a hook over HTTP costs.
#[derive(Debug)]
pub struct Found {
    /// One request after the other, in nanoseconds.
    pub one_at_a_time: Histogram,
    /// Processor time of both sides for one request, 64 under way.
    pub cpu_ns: f64,
}

/// Asks a server in this process.
///
/// # Errors
/// When the loopback does not work.
pub fn measure(requests: u32) -> Result<Found> {
    let (told, address) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let server = thread::spawn(move || serve(told, stopped));
    let runtime = single()?;
    let found = runtime.block_on(async {
        let address = address.await.context("the server ended")?;
        let one_at_a_time = sequential(address, requests).await?;
        let before = cpu_time(process::id())?;
        let each = requests as usize / IN_FLIGHT;
        let mut tasks = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            tasks.spawn(async move {
                let mut connection = connect(address).await?;
                for _ in 0..each {
                    ask(&mut connection).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let cpu = cpu_time(process::id())? - before;
        let cpu_ns = cpu.as_nanos() as f64 / (each * IN_FLIGHT) as f64;
        anyhow::Ok(Found {
            one_at_a_time,
            cpu_ns,
        })
    });
    // The server may have ended by itself, which `found` tells.
    let _ = stop.send(());
    server
        .join()
        .map_err(|_| anyhow::anyhow!("the server panicked"))??;
    found
}

fn single() -> Result<runtime::Runtime> {
    Ok(runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn serve(told: oneshot::Sender<SocketAddr>, stopped: oneshot::Receiver<()>) -> Result<()> {
    single()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let _ = told.send(listener.local_addr()?);
        let accepting = async {
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(answer)),
                );
            }
            #[expect(unreachable_code, reason = "gives the block its type")]
            anyhow::Ok(())
        };
        tokio::select! {
            ended = accepting => ended,
            _ = stopped => Ok(()),
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await;
    let question: Option<Value> = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
    let verdict = match question
        .as_ref()
        .and_then(|question| question["channel"].as_str())
    {
        Some("room") => "pass",
        _ => "refuse",
    };
    let answer = json!({ "verdict": verdict }).to_string();
    Ok(Response::new(Full::new(Bytes::from(answer))))
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(connection: &mut SendRequest<Full<Bytes>>) -> Result<()> {
    let question = json!({ "channel": "room", "user": "ann", "data": "1".repeat(128) }).to_string();
    let request = Request::post("/hook")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(question)))?;
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    let answer: Value = serde_json::from_slice(&body)?;
    ensure!(answer["verdict"] == "pass", "the hook answered {answer}");
    Ok(())
}

async fn sequential(address: SocketAddr, requests: u32) -> Result<Histogram> {
    let mut connection = connect(address).await?;
    let mut found = Histogram::default();
    for _ in 0..requests {
        let before = Instant::now();
        ask(&mut connection).await?;
        found.add(u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(found)
}
