//! Properties of the codec as a whole: whatever arrives, in whatever pieces.

use super::*;
use crate::seeded::Seeded;

const LIMITS: Limits = Limits { key_bytes_max: 250, value_bytes_max: 4_096 };

/// A request of any kind, built from the generator.
fn random_request(seeded: &mut Seeded, store: &mut Vec<Vec<u8>>) -> RequestParts {
    store.clear();
    let mut key = seeded.bytes(249);
    key.push(b'k');
    let value_max = *seeded.pick(&[0, 1, 24, 100, 4_096]);
    let value = seeded.bytes(value_max);
    let frame_extras = if seeded.one_in(4) { seeded.bytes(255) } else { Vec::new() };
    store.extend([key, value, frame_extras]);
    RequestParts {
        kind: seeded.below(23),
        quiet: seeded.one_in(2),
        numbers: [seeded.next(), seeded.next(), seeded.next(), seeded.next()],
    }
}

/// What `random_request` chose, so that the request can borrow its bytes.
struct RequestParts {
    kind: usize,
    quiet: bool,
    numbers: [u64; 4],
}

impl RequestParts {
    fn request<'a>(&self, store: &'a [Vec<u8>]) -> Request<'a> {
        let (key, value, frame_extras) = (&store[0][..], &store[1][..], &store[2][..]);
        let [a, b, c, d] = self.numbers;
        let expiration = c as u32;
        let return_key = if d % 2 == 0 { ReturnKey::No } else { ReturnKey::Yes };
        let store_as = |mode| Command::Store { mode, key, value, flags: a as u32, expiration };
        let count = |direction| Command::Count { direction, key, delta: a, initial: b, expiration };
        let command = match self.kind {
            0 | 1 => Command::Get { key, return_key },
            2 => store_as(StoreMode::Set),
            3 => store_as(StoreMode::Add),
            4 => store_as(StoreMode::Replace),
            5 => Command::Delete { key },
            6 => count(Direction::Increment),
            7 => count(Direction::Decrement),
            8 => Command::Quit,
            9 => Command::Flush { expiration: None },
            10 => Command::Flush { expiration: Some(expiration) },
            11 => Command::Noop,
            12 => Command::Version,
            13 => Command::Extend { end: End::Append, key, value },
            14 => Command::Extend { end: End::Prepend, key, value },
            15 => Command::Stat { group: if d % 2 == 0 { &[] } else { key } },
            16 => Command::Verbosity { level: expiration },
            17 => Command::Touch { key, expiration },
            18 => Command::GetAndTouch { key, expiration, return_key },
            19 => Command::Hello { agent: key, features: &value[..value.len() / 2 * 2] },
            20 => Command::SaslAuth { mechanism: key, data: value },
            21 => Command::SaslStep { mechanism: key, data: value },
            _ if d % 2 == 0 => Command::SaslList,
            _ => Command::ClusterConfig,
        };
        let mut request = Request {
            command,
            loudness: if self.quiet { Loudness::Quiet } else { Loudness::Loud },
            vbucket: a as u16,
            opaque: b as u32,
            cas: d,
            frame_extras,
        };
        if request.opcode().is_none() {
            request.loudness = Loudness::Loud;
        }
        request
    }
}

/// A session in miniature: gathers what arrives in `pieces`, parses, skips, and writes down what
/// it saw.
fn transcript<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let (mut buffer, mut seen, mut skip) = (Vec::new(), Vec::new(), 0_usize);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let skipped = skip.min(buffer.len());
            buffer.drain(..skipped);
            skip -= skipped;
            if skip > 0 {
                break;
            }
            match parse_request(&buffer, &LIMITS) {
                Ok(ParsedRequest::Incomplete { needed }) => {
                    assert!(needed > buffer.len(), "{needed} of {}", buffer.len());
                    assert!(needed <= packet_bytes_max(&LIMITS));
                    break;
                }
                Ok(ParsedRequest::Request { request, length }) => {
                    assert!(length <= buffer.len());
                    seen.push(format!("{request:?}"));
                    buffer.drain(..length);
                }
                Ok(ParsedRequest::Refused { echo, refusal, length }) => {
                    assert!(length >= HEADER_BYTES);
                    seen.push(format!("{echo:?} {refusal}"));
                    skip = length;
                }
                Err(error) => {
                    seen.push(format!("closed: {error}"));
                    return seen;
                }
            }
        }
    }
    seen
}

fn stream(seeded: &mut Seeded, requests: usize) -> Vec<u8> {
    let (mut bytes, mut store) = (Vec::new(), Vec::new());
    for _ in 0..requests {
        let parts = random_request(seeded, &mut store);
        parts.request(&store).encode(&mut bytes).expect("an encodable request");
    }
    bytes
}

#[test]
fn every_request_survives_its_encoding() {
    let mut seeded = Seeded::new("every_request_survives_its_encoding");
    let mut store = Vec::new();
    for _ in 0..5_000 {
        let parts = random_request(&mut seeded, &mut store);
        let request = parts.request(&store);
        let mut bytes = Vec::new();
        request.encode(&mut bytes).expect("an encodable request");
        let length = bytes.len();
        bytes.extend_from_slice(b"\x80next");
        let parsed = parse_request(&bytes, &LIMITS);
        assert_eq!(parsed, Ok(ParsedRequest::Request { request, length }));
        let Ok(ParsedRequest::Request { request, .. }) = parsed else { unreachable!() };
        let mut again = Vec::new();
        request.encode(&mut again).expect("an encodable request");
        assert_eq!(again, bytes[..length]);
    }
}

#[test]
fn every_prefix_of_a_request_is_incomplete_and_says_how_much_is_missing() {
    let mut seeded = Seeded::new("every_prefix_of_a_request_is_incomplete");
    for _ in 0..300 {
        let bytes = stream(&mut seeded, 1);
        for length in 0..bytes.len() {
            let needed = if length < HEADER_BYTES { HEADER_BYTES } else { bytes.len() };
            assert_eq!(
                parse_request(&bytes[..length], &LIMITS),
                Ok(ParsedRequest::Incomplete { needed })
            );
        }
    }
}

#[test]
fn split_input_gives_the_same_requests() {
    let mut seeded = Seeded::new("split_input_gives_the_same_requests");
    for round in 0..400 {
        let mut bytes = stream(&mut seeded, 6);
        if round % 2 == 1 {
            seeded.mutate(&mut bytes);
        }
        let whole = transcript([&bytes[..]]);
        assert_eq!(transcript(bytes.chunks(1)), whole);
        for _ in 0..8 {
            let middle = seeded.below(bytes.len() + 1);
            let (left, right) = bytes.split_at(middle);
            assert_eq!(transcript([left, right]), whole, "split at {middle}");
        }
    }
}

#[test]
fn pairs_of_quiet_sets_split_at_every_byte_do_not_run_into_each_other() {
    let mut bytes = Vec::new();
    let value = vec![b'v'; 2_048];
    for key in [&b"first"[..], b"second"] {
        let command =
            Command::Store { mode: StoreMode::Set, key, value: &value, flags: 1, expiration: 2 };
        let request = Request { loudness: Loudness::Quiet, ..Request::new(command, 9) };
        request.encode(&mut bytes).expect("an encodable request");
    }
    let whole = transcript([&bytes[..]]);
    assert_eq!(whole.len(), 2);
    for middle in 0..=bytes.len() {
        let (left, right) = bytes.split_at(middle);
        assert_eq!(transcript([left, right]), whole, "split at {middle}");
    }
}

#[test]
fn mutated_streams_neither_panic_nor_reach_beyond_the_buffer() {
    let mut seeded = Seeded::new("mutated_streams_neither_panic_nor_reach_beyond_the_buffer");
    for _ in 0..20_000 {
        let mut bytes = if seeded.one_in(8) { seeded.bytes(200) } else { stream(&mut seeded, 2) };
        seeded.mutate(&mut bytes);
        transcript([&bytes[..]]);
        let _ = parse_response(&bytes, 4_096);
        if let Some(magic) = bytes.first_mut() {
            *magic = *seeded.pick(&[RESPONSE_MAGIC, FLEXIBLE_RESPONSE_MAGIC]);
        }
        match parse_response(&bytes, 4_096) {
            Ok(ParsedResponse::Response { length, .. }) => assert!(length <= bytes.len()),
            Ok(ParsedResponse::Incomplete { needed }) => assert!(needed > bytes.len()),
            Err(_) => {}
        }
    }
}

/// A header with the given fields and nothing behind it.
fn header(opcode: u8, key: u16, extras: u8, data_type: u8, body: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0] = REQUEST_MAGIC;
    bytes[1] = opcode;
    bytes[2..4].copy_from_slice(&key.to_be_bytes());
    bytes[4] = extras;
    bytes[5] = data_type;
    bytes[8..12].copy_from_slice(&body.to_be_bytes());
    bytes[12..16].copy_from_slice(&0x0bad_cafe_u32.to_be_bytes());
    bytes
}

fn refusal(bytes: &[u8]) -> Option<(Refusal, usize)> {
    match parse_request(bytes, &LIMITS) {
        Ok(ParsedRequest::Refused { echo, refusal, length }) => {
            assert_eq!(echo, Echo { opcode: bytes[1], opaque: 0x0bad_cafe });
            Some((refusal, length))
        }
        _ => None,
    }
}

#[test]
fn every_opcode_is_a_command_or_refused_and_skippable() {
    let mut commands = 0;
    for opcode in 0..=u8::MAX {
        let accepted = [(1, 0), (0, 0), (1, 4), (1, 8), (1, 20), (0, 4)].iter().any(
            |&(key, extras): &(u16, u8)| {
                let mut bytes =
                    header(opcode, key, extras, 0, u32::from(key) + u32::from(extras)).to_vec();
                bytes.resize(HEADER_BYTES + usize::from(key) + usize::from(extras), 0);
                match parse_request(&bytes, &LIMITS) {
                    Ok(ParsedRequest::Request { request, length }) => {
                        assert_eq!(request.opcode(), Some(opcode));
                        assert_eq!(length, bytes.len());
                        true
                    }
                    Ok(ParsedRequest::Refused { length, .. }) => {
                        assert_eq!(length, bytes.len());
                        false
                    }
                    other => panic!("{other:?}"),
                }
            },
        );
        commands += usize::from(accepted);
        if !accepted {
            let refused = refusal(&header(opcode, 0, 0, 0, 1_000));
            assert_eq!(refused, Some((Refusal::UnknownOpcode, 1_024)));
        }
    }
    assert_eq!(commands, 0x25 + 1);
}

#[test]
fn impossible_requests_are_refused_by_their_header_alone() {
    let key_max = u32::from(LIMITS.key_bytes_max);
    let value_max = LIMITS.value_bytes_max;
    for (bytes, expected) in [
        (header(0x00, 0, 0, 0, 0), Refusal::KeyMissing),
        (header(0x00, 251, 0, 0, 251), Refusal::KeyTooLong),
        (header(0x00, u16::MAX, 0, 0, 65_535), Refusal::KeyTooLong),
        (header(0x00, 1, 1, 0, 2), Refusal::Extras),
        (header(0x00, 1, 0, 0, 2), Refusal::UnexpectedValue),
        (header(0x00, 1, 0, 1, 1), Refusal::DataType),
        (header(0x01, 1, 0, 0, 1), Refusal::Extras),
        (header(0x01, 1, 255, 0, 256), Refusal::Extras),
        (header(0x01, 0, 8, 0, 8), Refusal::KeyMissing),
        (header(0x01, 250, 8, 0, 8 + key_max + value_max + 1), Refusal::ValueTooLong),
        (header(0x05, 1, 19, 0, 20), Refusal::Extras),
        (header(0x0a, 1, 0, 0, 1), Refusal::UnexpectedKey),
        (header(0x0b, 0, 0, 0, 1), Refusal::UnexpectedValue),
        (header(0x1f, 0, 0, 0, 3), Refusal::Features),
        (header(0xff, 0, 0, 0, 0), Refusal::UnknownOpcode),
    ] {
        let body = u32::from_be_bytes(bytes[8..12].try_into().expect("four bytes"));
        assert_eq!(refusal(&bytes), Some((expected, HEADER_BYTES + body as usize)), "{bytes:02x?}");
    }
}

#[test]
fn limits_hold_at_their_edges() {
    let value_max = LIMITS.value_bytes_max;
    for (value, refused) in [(value_max - 1, false), (value_max, false), (value_max + 1, true)] {
        let bytes = header(0x01, 1, 8, 0, 9 + value);
        assert_eq!(refusal(&bytes).is_some(), refused, "a value of {value} bytes");
    }
    for (key, refused) in [(249, false), (250, false), (251, true)] {
        let bytes = header(0x00, key, 0, 0, u32::from(key));
        assert_eq!(refusal(&bytes).is_some(), refused, "a key of {key} bytes");
    }
    let long_keys = Limits { key_bytes_max: u16::MAX, ..LIMITS };
    assert_eq!(
        parse_request(&header(0x00, u16::MAX, 0, 0, 65_535), &long_keys),
        Ok(ParsedRequest::Incomplete { needed: HEADER_BYTES + 65_535 })
    );
}

#[test]
fn lengths_that_contradict_each_other_end_the_stream() {
    for (key, extras, body) in [(2, 0, 1), (1, 8, 8), (0, 255, 0), (u16::MAX, 255, 65_535)] {
        let bytes = header(0x01, key, extras, 0, body);
        let error = parse_request(&bytes, &LIMITS);
        assert!(matches!(error, Err(FrameError::SectionsExceedBody(_))), "{error:?}");
    }
    let limit = SKIPPED_BODY_BYTES_MAX;
    assert!(refusal(&header(0x01, 1, 8, 0, limit)).is_some());
    for body in [limit + 1, i32::MAX as u32, i32::MAX as u32 + 1, u32::MAX] {
        let error = parse_request(&header(0x01, 1, 8, 0, body), &LIMITS).expect_err("too long");
        let echo = Echo { opcode: 1, opaque: 0x0bad_cafe };
        assert_eq!(error, FrameError::BodyTooLong { echo, length: body });
        assert_eq!((error.echo(), error.status()), (Some(echo), Status::TOO_LARGE));
    }
}

#[test]
fn a_foreign_first_byte_ends_the_stream_before_a_header_is_there() {
    for first in (0..=u8::MAX).filter(|first| ![0x80, 0x08].contains(first)) {
        let error = parse_request(&[first], &LIMITS).expect_err("no packet");
        assert_eq!((error, error.echo()), (FrameError::Magic(first), None));
    }
    for first in (0..=u8::MAX).filter(|first| ![0x81, 0x18].contains(first)) {
        assert_eq!(parse_response(&[first], 100), Err(FrameError::Magic(first)));
    }
}

#[test]
fn what_does_not_fit_into_a_packet_is_not_encoded() {
    let mut out = vec![1, 2, 3];
    let key = vec![b'k'; 65_536];
    let get = |key| Command::Get { key, return_key: ReturnKey::No };
    let long = Request::new(get(&key), 0);
    assert_eq!(long.encode(&mut out), Err(EncodeError::KeyTooLong(65_536)));
    let flexible = Request { frame_extras: &[0], ..Request::new(get(&key[..256]), 0) };
    assert_eq!(flexible.encode(&mut out), Err(EncodeError::KeyTooLong(256)));
    let extras = Request { frame_extras: &key[..256], ..Request::new(get(b"k"), 0) };
    assert_eq!(extras.encode(&mut out), Err(EncodeError::FrameExtrasTooLong(256)));
    let quiet = Request { loudness: Loudness::Quiet, ..Request::new(Command::Noop, 0) };
    assert_eq!(quiet.encode(&mut out), Err(EncodeError::NoQuietForm));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn every_response_survives_its_encoding_and_every_prefix_is_incomplete() {
    let mut seeded = Seeded::new("every_response_survives_its_encoding");
    for round in 0..500 {
        let (mut frame_extras, extras) = (seeded.bytes(20), seeded.bytes(255));
        if round % 2 == 0 {
            frame_extras.clear();
        }
        let (key, value) = (seeded.bytes(255), seeded.bytes(500));
        let response = Response {
            opcode: seeded.next() as u8,
            status: Status(seeded.next() as u16),
            opaque: seeded.next() as u32,
            cas: seeded.next(),
            frame_extras: &frame_extras,
            extras: &extras,
            key: &key,
            value: &value,
        };
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        let length = bytes.len();
        for cut in 0..length {
            let needed = if cut < HEADER_BYTES { HEADER_BYTES } else { length };
            let parsed = parse_response(&bytes[..cut], 2_000);
            assert_eq!(parsed, Ok(ParsedResponse::Incomplete { needed }));
        }
        bytes.push(RESPONSE_MAGIC);
        let parsed = parse_response(&bytes, 2_000);
        assert_eq!(parsed, Ok(ParsedResponse::Response { response, length }));
    }
}

#[test]
fn a_response_longer_than_the_client_expects_ends_the_stream() {
    let mut bytes = Vec::new();
    Echo { opcode: 0, opaque: 7 }.value(&mut bytes, 1, 2, b"", &[0; 96]);
    assert!(matches!(parse_response(&bytes, 100), Ok(ParsedResponse::Response { .. })));
    assert!(matches!(parse_response(&bytes, 99), Err(FrameError::BodyTooLong { .. })));
}

#[test]
fn kinds_of_responses_read_back_as_what_they_are() {
    let echo = Echo { opcode: 0x0c, opaque: 0x0102_0304 };
    let mut bytes = Vec::new();
    echo.value(&mut bytes, 9, 0xdead_beef, b"key", b"value");
    echo.counter(&mut bytes, 10, u64::MAX - 1);
    echo.error(&mut bytes, Status::AMBIGUOUS, b"text");
    echo.stat(&mut bytes, b"pid", b"1");
    echo.miss_with_key(&mut bytes, b"key");
    echo.ok(&mut bytes, 11);
    let mut responses = Vec::new();
    let mut rest = &bytes[..];
    while let Ok(ParsedResponse::Response { response, length }) = parse_response(rest, 1_000) {
        assert_eq!((response.opcode, response.opaque), (echo.opcode, echo.opaque));
        responses.push(response);
        rest = &rest[length..];
    }
    assert!(rest.is_empty());
    assert_eq!(responses[0].flags(), Some(0xdead_beef));
    assert_eq!((responses[0].key, responses[0].value), (&b"key"[..], &b"value"[..]));
    assert_eq!((responses[1].cas, responses[1].counter()), (10, Some(u64::MAX - 1)));
    assert_eq!((responses[2].status, responses[2].value), (Status::AMBIGUOUS, &b"text"[..]));
    assert_eq!((responses[3].key, responses[3].value), (&b"pid"[..], &b"1"[..]));
    assert_eq!((responses[4].status, responses[4].key), (Status::NOT_FOUND, &b"key"[..]));
    assert_eq!((responses[5].status, responses[5].cas), (Status::OK, 11));
    assert_eq!(responses[0].counter(), None);
    assert_eq!(responses[1].flags(), None);
}

#[test]
fn feature_lists_read_as_pairs_of_bytes() {
    assert_eq!(features(&[0, 1, 0xc0, 2]).collect::<Vec<_>>(), [1, 0xc002]);
    assert_eq!(features(&[]).count(), 0);
}
