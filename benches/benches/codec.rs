//! Requests and replies of both protocols: what one of them costs to parse and to encode, with keys
//! of 16 bytes and values of 64 bytes, 64 requests behind each other as a pipeline brings them.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::memcached::{
    Command, Limits, ParsedRequest, Request, ReturnKey, StoreMode, parse_request,
};
use proto::resp::encode;
use proto::resp::request::{Parsed, RequestParser};
use proto::slot::slot_of;
use std::hint::black_box;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REQUESTS: usize = 64;
const KEY: &[u8] = b"key:000000012345";
const VALUE: [u8; 64] = [b'v'; 64];

fn parse_resp(parser: &mut RequestParser, input: &[u8]) -> usize {
    let mut rest = input;
    let mut slots = 0;
    while let Ok(Parsed::Request { consumed }) = parser.parse(rest, 1 << 20) {
        slots += usize::from(slot_of(parser.arguments(rest).at(1)));
        rest = &rest[consumed..];
    }
    slots
}

fn parse_binary(limits: &Limits, input: &[u8]) -> usize {
    let mut rest = input;
    let mut slots = 0;
    while let Ok(ParsedRequest::Request { request, length }) = parse_request(rest, limits) {
        if let Command::Get { key, .. } | Command::Store { key, .. } = request.command {
            slots += usize::from(slot_of(key));
        }
        rest = &rest[length..];
    }
    slots
}

fn binary(command: Command<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for opaque in 0..REQUESTS as u32 {
        let encoded = Request::new(command, opaque).encode(&mut out);
        encoded.unwrap_or_else(|error| panic!("{error}"));
    }
    out
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(REQUESTS as u64));
    let resp = |arguments: &[&[u8]]| {
        let mut out = Vec::new();
        (0..REQUESTS).for_each(|_| encode::request(&mut out, arguments));
        out
    };
    let set =
        Command::Store { mode: StoreMode::Set, key: KEY, value: &VALUE, flags: 0, expiration: 0 };
    let get = Command::Get { key: KEY, return_key: ReturnKey::No };
    for (name, input) in [("get", resp(&[b"GET", KEY])), ("set", resp(&[b"SET", KEY, &VALUE]))] {
        let mut parser = RequestParser::default();
        group.bench_function(format!("resp_parse_{name}"), |bencher| {
            bencher.iter(|| parse_resp(&mut parser, black_box(&input)));
        });
    }
    for (name, input) in [("get", binary(get)), ("set", binary(set))] {
        let limits = Limits::default();
        group.bench_function(format!("binary_parse_{name}"), |bencher| {
            bencher.iter(|| parse_binary(&limits, black_box(&input)));
        });
    }
    let mut out = Vec::new();
    group.bench_function("resp_reply_value", |bencher| {
        bencher.iter(|| {
            out.clear();
            (0..REQUESTS).for_each(|_| encode::bulk(&mut out, black_box(&VALUE)));
        });
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
