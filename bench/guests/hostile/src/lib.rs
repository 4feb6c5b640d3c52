//! Guest of the benches: does its worst when it is told to, so that it shows what others notice of it.

use std::{hint::black_box, time::Duration};

use tidegate_sdk::{Refusal, Rpc, budget, plugin, rpc};

/// Steps between two looks at what is left of the deadline; a call may ask its host a hundred times.
const STEPS: u32 = 500_000;
/// Memory that a bomb takes: nearly all that an instance may have.
const BOMB_MIB: usize = 28;

struct Hostile;

impl Rpc for Hostile {
    fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal> {
        match request.data() {
            br#""spin""# => spin(),
            br#""burn""# => burn(),
            br#""bomb""# => bomb(),
            _ => {}
        }
        Ok(rpc::Verdict::Reply(b"true".to_vec()))
    }
}

/// Never ends.
fn spin() {
    loop {
        black_box(());
    }
}

/// Takes all the time there is and answers just before its end.
fn burn() {
    while budget::remaining() > Duration::from_millis(2) {
        for step in 0..STEPS {
            black_box(step);
        }
    }
}

/// Takes all the memory there is, writes to each page of it, and answers.
fn bomb() {
    const MIB: usize = 1 << 20;
    let mut hoard: Vec<Vec<u8>> = Vec::with_capacity(BOMB_MIB);
    for _ in 0..BOMB_MIB {
        hoard.push(black_box(vec![1; MIB]));
    }
    // What is not given back lives as long as the instance, and is what the node has to get rid of.
    std::mem::forget(hoard);
}

plugin!(Hostile: rpc);
