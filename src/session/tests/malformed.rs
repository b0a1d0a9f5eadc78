//! Malformed input: a clear error or a close, never a crash.

use super::{Rig, Shuffle};
use crate::session::PortKind;

#[test]
fn malformed_requests_get_a_clear_error_and_a_close() {
    for (input, error) in [
        ("*3000000000\r\n", "invalid multibulk length"),
        ("*1048577\r\n", "invalid multibulk length"),
        ("*99999999999999999999\r\n", "invalid multibulk length"),
        ("*+1\r\n", "invalid multibulk length"),
        ("* 1\r\n", "invalid multibulk length"),
        ("*1\n", "invalid multibulk length"),
        ("*1\r\n$-10\r\n", "invalid bulk length"),
        ("*1\r\n$2000000000\r\n", "invalid bulk length"),
        ("*1\r\n$blabla\r\n", "invalid bulk length"),
        ("*1\r\nfoo\r\n", "expected '$', got 'f'"),
        ("*1\r\n%1\r\n", "expected '$', got '%'"),
        ("*1\r\n*1\r\n*1\r\n", "expected '$', got '*'"),
        ("*1\r\n$5\r\nPINGPONG\r\n", "expected CRLF after a bulk string"),
        ("get \"k\r\n", "unbalanced quotes in request"),
    ] {
        let mut rig = Rig::new(PortKind::AnyCore);
        let input = format!("GET a\r\n{input}SET a stolen\r\n");
        let output = rig.exchange(input.as_bytes());
        let expected = format!("$-1\r\n-ERR Protocol error: {error}\r\n");
        assert_eq!(String::from_utf8_lossy(&output), expected, "{input:?}");
        assert!(rig.session.is_closing() && !rig.session.is_aborted());
        // What follows is never taken for requests.
        assert!(rig.pending.is_empty());
        assert_eq!(rig.exchange(b"SET a stolen\r\n"), b"");
        assert!(rig.requests.is_empty());
        assert_eq!(rig.counters.protocol_errors, 1);
    }
}

#[test]
fn what_is_no_request_gets_no_answer() {
    let mut rig = Rig::new(PortKind::AnyCore);
    assert_eq!(rig.exchange(b"\r\n\n*0\r\n*-1\r\n*-10\r\n   \r\nPING\r\n"), b"+PONG\r\n");
    assert!(rig.session.wants_input());
}

#[test]
fn half_a_request_waits_for_the_rest() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let received = rig.feed(b"*2\r\n$4\r\nECHO\r\n$5\r\nhell");
    assert_eq!(received.needed, 3);
    assert!(rig.session.is_within_request());
    assert_eq!(rig.exchange(b"o\r\n"), b"$5\r\nhello\r\n");
    assert!(!rig.session.is_within_request());
}

#[test]
fn other_protocols_are_hung_up_on() {
    for input in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /set HTTP/1.1\r\n\r\nSET a stolen\r\n",
        b"HEAD / HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"Host: 127.0.0.1\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let mut rig = Rig::new(PortKind::AnyCore);
        let output = rig.exchange(input);
        assert_eq!(output, b"", "{}", String::from_utf8_lossy(input));
        assert!(rig.session.is_aborted());
        assert!(rig.requests.is_empty());
        assert!(rig.pending.is_empty());
    }
    let mut rig = Rig::new(PortKind::AnyCore);
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    assert!(rig.exchange(png).starts_with(b"-ERR unknown command"));
}

#[test]
fn strange_command_names_are_unknown() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let long = "x".repeat(10_000);
    assert_eq!(rig.command("foo"), "-ERR unknown command 'foo', with args beginning with: \r\n");
    assert_eq!(
        rig.command("foo bar baz"),
        "-ERR unknown command 'foo', with args beginning with: 'bar' 'baz' \r\n"
    );
    assert_eq!(
        rig.command(&format!("{long} {long}")),
        format!(
            "-ERR unknown command '{}', with args beginning with: '{}' \r\n",
            &long[..128],
            &long[..128]
        )
    );
    assert!(rig.request(&[b""]).starts_with("-ERR unknown command ''"));
    assert!(rig.request(&[b"\xff\xfe\r\n"]).starts_with("-ERR unknown command '"));
    assert_eq!(rig.command("pInG"), "+PONG\r\n");
    assert!(rig.session.wants_input());
}

#[test]
fn random_input_never_panics() {
    println!("seed 7");
    let mut shuffle = Shuffle::new(7);
    let words: [&[u8]; 24] = [
        b"*3\r\n",
        b"*2\r\n",
        b"*1\r\n",
        b"$3\r\n",
        b"$1\r\n",
        b"$4\r\n",
        b"GET",
        b"SET",
        b"MGET",
        b"PING",
        b"a",
        b"b",
        b"\r\n",
        b"\n",
        b" ",
        b"\"",
        b"'",
        b"*-1\r\n",
        b"$-1\r\n",
        b"\0",
        b"\xff",
        b"CLIENT LIST",
        b"DBSIZE\r\n",
        b"CLUSTER NODES\r\n",
    ];
    for round in 0..3_000 {
        let port = if round % 2 == 0 { PortKind::AnyCore } else { PortKind::Core };
        let mut rig = Rig::with_seed(port, round);
        for _ in 0..shuffle.below(12) {
            let input: Vec<u8> = (0..shuffle.below(8))
                .flat_map(|_| words[shuffle.below(words.len())])
                .copied()
                .collect();
            rig.exchange(&input);
        }
        assert_eq!(rig.session.outstanding(), 0);
    }
}
