//! What commands answer, through a session and the engine in memory of the session's tests.

mod cluster;
mod data;
mod handshake;

use crate::commands::table::{COMMANDS, CommandSpec};
use crate::session::PortKind;
use crate::session::tests::Rig;

/// Sends each command and compares its reply; `\r\n` at the end of replies is understood.
fn dialogue(rig: &mut Rig, lines: &[(&str, &str)]) {
    for (words, expected) in lines {
        let expected = format!("{}\r\n", expected.replace(' ', "\r\n").replace('_', " "));
        assert_eq!(rig.command(words), expected, "{words}");
    }
}

#[test]
fn every_command_refuses_a_wrong_number_of_arguments() {
    let check = |name: String, words: Vec<&[u8]>, spec: &CommandSpec| {
        let wanted = usize::from(spec.arity.unsigned_abs());
        let mut counts = vec![wanted - 1];
        if spec.arity > 0 {
            counts.push(wanted + 1);
        }
        for count in counts.into_iter().filter(|&count| count >= words.len()) {
            let mut rig = Rig::new(PortKind::AnyCore);
            let mut request = words.clone();
            request.resize(count, b"x");
            assert_eq!(
                rig.request(&request),
                format!("-ERR wrong number of arguments for '{name}' command\r\n")
            );
        }
    };
    for spec in COMMANDS {
        if spec.subcommands.is_empty() {
            check(spec.name.to_owned(), vec![spec.name.as_bytes()], spec);
        }
        for subcommand in spec.subcommands {
            let name = format!("{}|{}", spec.name, subcommand.name);
            check(name, vec![spec.name.as_bytes(), subcommand.name.as_bytes()], subcommand);
        }
    }
}

#[test]
fn every_command_answers_exactly_once() {
    use proto::resp::reply::{Scanned, scan};
    for port in [PortKind::AnyCore, PortKind::Core] {
        for spec in COMMANDS {
            for extra in 0..4 {
                let mut rig = Rig::new(port);
                let wanted = usize::from(spec.arity.unsigned_abs());
                let mut request = vec![spec.name.as_bytes()];
                request.resize(wanted + extra, b"1");
                let reply = rig.request(&request);
                match scan(reply.as_bytes()) {
                    Ok(Scanned::Reply { consumed, .. }) => {
                        assert_eq!(consumed, reply.len(), "{} {reply}", spec.name);
                    }
                    other => panic!("{}: {other:?}", spec.name),
                }
            }
        }
    }
}
