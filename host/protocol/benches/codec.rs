//! The hot paths of the codecs: publish commands in, publication pushes out, joining.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate_protocol::{
    Codec, Command, Frame, Framing, Limits, Publication, PublishRequest, Raw, decode_frame,
    encode_commands, frame::join,
};

const CODECS: [(Codec, &str); 2] = [(Codec::Json, "json"), (Codec::Protobuf, "protobuf")];
const SIZES: [usize; 3] = [64, 1024, 16_384];

fn payload(size: usize) -> String {
    format!("{{\"text\":\"{}\"}}", "x".repeat(size - 11))
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (codec, name) in CODECS {
        for size in SIZES {
            let command = Command {
                id: 7,
                publish: Some(Box::new(PublishRequest {
                    channel: "room:lobby".to_owned(),
                    data: payload(size).into(),
                    ..PublishRequest::default()
                })),
                ..Command::default()
            };
            let frame = encode_commands(codec, &[command]).expect("the payload is JSON");
            group.throughput(Throughput::Bytes(frame.len() as u64));
            group.bench_function(
                BenchmarkId::new(format!("publish/{size}B"), name),
                |bencher| {
                    let limits = Limits::default();
                    bencher.iter(|| decode_frame(codec, black_box(&frame), &limits));
                },
            );
        }
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for size in SIZES {
        let unchecked = Raw::from(payload(size));
        let checked = Raw::parse_json(payload(size)).expect("the payload is JSON");
        for (codec, data, name) in [
            (Codec::Json, &unchecked, "json-unchecked"),
            (Codec::Json, &checked, "json-checked"),
            (Codec::Protobuf, &unchecked, "protobuf"),
        ] {
            let publication = Publication {
                data: data.clone(),
                offset: 123_456,
                ..Publication::default()
            };
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(
                BenchmarkId::new(format!("publication/{size}B"), name),
                |bencher| {
                    bencher.iter(|| {
                        Frame::publication(
                            codec,
                            Framing::WebSocket,
                            "room:lobby",
                            black_box(&publication),
                        )
                    });
                },
            );
        }
    }
    group.finish();
}

fn joining(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("join");
    for (codec, name) in CODECS {
        let publication = Publication {
            data: payload(128).into(),
            ..Publication::default()
        };
        let frame = Frame::publication(codec, Framing::WebSocket, "room:lobby", &publication)
            .expect("the payload is JSON");
        let frames = vec![frame; 16];
        group.bench_function(BenchmarkId::new("16x128B", name), |bencher| {
            let mut out = Vec::with_capacity(8192);
            bencher.iter(|| {
                out.clear();
                join(codec, Framing::WebSocket, black_box(&frames), &mut out);
                out.len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encode, joining);
criterion_main!(benches);
