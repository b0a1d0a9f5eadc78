//! Commands on the connection: greeting, protocol version, names, reply mode, farewell.

use proto::limits::CLIENT_NAME_BYTES_MAX;
use proto::resp::request::Arguments;
use proto::resp::{Version, encode, parse_integer};
use shards::command::ReadFrom;

use crate::commands::server_info::REDIS_VERSION;
use crate::commands::{Execution, errors, shown};
use crate::session::resp::ReplyMode;

/// PING \[message\]
pub(super) fn ping(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    match (arguments.get(1), arguments.len()) {
        (None, _) => execution.answer(|out, _| encode::simple(out, "PONG")),
        (Some(message), 2) => execution.answer(|out, _| encode::bulk(out, message)),
        _ => execution.wrong_number_of_arguments("ping"),
    }
}

/// ECHO message
pub(super) fn echo(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    execution.answer(|out, _| encode::bulk(out, arguments.at(1)));
}

/// QUIT
pub(super) fn quit(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.ok();
    execution.connection.close_after_replies();
}

/// RESET: as if the connection were new.
pub(super) fn reset(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.settings.reply_mode = ReplyMode::On;
    execution.set_version(Version::Resp2);
    execution.connection.replies.set_read_from(ReadFrom::Leader);
    execution.connection.replies.set_peeking(false);
    if let Some(client) = execution.connection.client(execution.context.clients) {
        client.name.clear();
    }
    execution.answer(|out, _| encode::simple(out, "RESET"));
}

/// SELECT index
pub(super) fn select(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    match parse_integer(arguments.at(1)) {
        Some(0) => execution.ok(),
        Some(_) => execution.error("ERR SELECT is not allowed in cluster mode"),
        None => execution.error("ERR invalid DB index"),
    }
}

/// AUTH \[username\] password. There are no users yet but the default one, who needs no password.
pub(super) fn authenticate(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    match arguments.len() {
        2 => execution.error(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        ),
        3 if is_default_user(arguments.at(1)) => execution.ok(),
        3 => execution.error(WRONG_PASSWORD),
        _ => execution.error(errors::SYNTAX),
    }
}

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

fn is_default_user(name: &[u8]) -> bool {
    name == b"default"
}

/// HELLO \[version \[AUTH username password\] \[SETNAME name\]\]
pub(super) fn hello(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let version = match arguments.get(1).map(parse_integer) {
        None => execution.settings.version,
        Some(Some(2)) => Version::Resp2,
        Some(Some(3)) => Version::Resp3,
        Some(Some(_)) => return execution.error("NOPROTO unsupported protocol version"),
        Some(None) => {
            return execution.error("ERR Protocol version is not an integer or out of range");
        }
    };
    let mut name = None;
    let mut options = arguments.from(2);
    while let Some(option) = options.get(0) {
        if option.eq_ignore_ascii_case(b"AUTH") && options.len() >= 3 {
            if !is_default_user(options.at(1)) {
                return execution.error(WRONG_PASSWORD);
            }
            options = options.from(3);
        } else if option.eq_ignore_ascii_case(b"SETNAME") && options.len() >= 2 {
            name = Some(options.at(1));
            options = options.from(2);
        } else {
            let option = shown(option, 128);
            return execution.error(&format!("ERR Syntax error in HELLO option '{option}'"));
        }
    }
    if let Some(name) = name {
        match checked_name("Client names", name) {
            Err(text) => return execution.error(&text),
            Ok(name) => set_name(execution, name),
        }
    }
    execution.set_version(version);
    let id = execution.client_id();
    execution.answer(|out, version| {
        encode::map(out, version, 7);
        for (key, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
            encode::bulk(out, key.as_bytes());
            encode::bulk(out, value.as_bytes());
        }
        encode::bulk(out, b"proto");
        encode::integer(out, version.number());
        encode::bulk(out, b"id");
        encode::integer(out, id);
        for (key, value) in [("mode", "cluster"), ("role", "master")] {
            encode::bulk(out, key.as_bytes());
            encode::bulk(out, value.as_bytes());
        }
        encode::bulk(out, b"modules");
        encode::array(out, 0);
    });
}

/// CLIENT ID
pub(super) fn client_id(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    let id = execution.client_id();
    execution.answer(|out, _| encode::integer(out, id));
}

/// CLIENT GETNAME
pub(super) fn client_get_name(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    let client = execution.connection.client(execution.context.clients);
    let name = client.map(|client| client.name.clone()).unwrap_or_default();
    execution.answer(|out, version| match name.is_empty() {
        true => encode::nil(out, version),
        false => encode::bulk(out, name.as_bytes()),
    });
}

/// CLIENT SETNAME name
pub(super) fn client_set_name(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    match checked_name("Client names", arguments.at(2)) {
        Err(text) => execution.error(&text),
        Ok(name) => {
            set_name(execution, name);
            execution.ok();
        }
    }
}

fn set_name(execution: &mut Execution<'_, '_>, name: &str) {
    if let Some(client) = execution.connection.client(execution.context.clients) {
        name.clone_into(&mut client.name);
    }
}

/// CLIENT SETINFO LIB-NAME | LIB-VER value
pub(super) fn client_set_info(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let attribute = arguments.at(2);
    let is_name = attribute.eq_ignore_ascii_case(b"LIB-NAME");
    if !is_name && !attribute.eq_ignore_ascii_case(b"LIB-VER") {
        let attribute = shown(attribute, 128);
        return execution.error(&format!("ERR Unrecognized option '{attribute}'"));
    }
    let subject = if is_name { "lib-name" } else { "lib-ver" };
    match checked_name(subject, arguments.at(3)) {
        Err(text) => execution.error(&text),
        Ok(value) => {
            if let Some(client) = execution.connection.client(execution.context.clients) {
                let field = if is_name { &mut client.library } else { &mut client.library_version };
                value.clone_into(field);
            }
            execution.ok();
        }
    }
}

/// A name goes into lines that are split at blanks, so it must hold none.
fn checked_name<'a>(subject: &str, name: &'a [u8]) -> Result<&'a str, String> {
    if name.len() > CLIENT_NAME_BYTES_MAX {
        return Err(format!("ERR {subject} cannot be longer than {CLIENT_NAME_BYTES_MAX} bytes."));
    }
    let text = std::str::from_utf8(name).ok();
    text.filter(|_| name.iter().all(u8::is_ascii_graphic)).ok_or_else(|| {
        format!("ERR {subject} cannot contain spaces, newlines or special characters.")
    })
}

/// CLIENT INFO
pub(super) fn client_info(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    let mut line = String::new();
    if let Some(client) = execution.connection.client(execution.context.clients) {
        client.describe(execution.context.now, &mut line);
    }
    line.push('\n');
    execution.answer(|out, version| encode::verbatim(out, version, line.as_bytes()));
}

/// CLIENT LIST \[TYPE type | ID id ...\]: the connections of this core.
pub(super) fn client_list(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let mut ids = None;
    let mut is_any = true;
    match arguments.get(2) {
        None => {}
        Some(option) if option.eq_ignore_ascii_case(b"TYPE") && arguments.len() == 4 => {
            let kind = arguments.at(3).to_ascii_lowercase();
            match &kind[..] {
                b"normal" => {}
                b"master" | b"replica" | b"slave" | b"pubsub" => is_any = false,
                _ => {
                    let kind = shown(&kind, 128);
                    return execution.error(&format!("ERR Unknown client type '{kind}'"));
                }
            }
        }
        Some(option) if option.eq_ignore_ascii_case(b"ID") && arguments.len() > 3 => {
            let wanted: Option<Vec<i64>> =
                arguments.from(3).iter().map(|id| parse_integer(id).filter(|&id| id > 0)).collect();
            let Some(wanted) = wanted else { return execution.error("ERR Invalid client ID") };
            ids = Some(wanted);
        }
        Some(_) => return execution.error(errors::SYNTAX),
    }
    let mut lines = String::new();
    for client in execution.context.clients.iter().filter(|_| is_any) {
        if ids.as_ref().is_none_or(|ids| ids.contains(&(client.id as i64))) {
            client.describe(execution.context.now, &mut lines);
            lines.push('\n');
        }
    }
    execution.answer(|out, version| encode::verbatim(out, version, lines.as_bytes()));
}

/// CLIENT NO-EVICT ON | OFF: clients are never evicted for their buffers.
pub(super) fn client_no_evict(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    switch(execution, arguments);
}

/// CLIENT NO-TOUCH ON | OFF: whether what this connection reads counts as used.
pub(super) fn client_no_touch(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    if let Some(is_on) = switch(execution, arguments) {
        execution.connection.replies.set_peeking(is_on);
    }
}

/// Reads ON or OFF and answers.
fn switch(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) -> Option<bool> {
    let switch = arguments.at(2);
    let is_on = switch.eq_ignore_ascii_case(b"ON");
    if is_on || switch.eq_ignore_ascii_case(b"OFF") {
        execution.ok();
        return Some(is_on);
    }
    execution.error(errors::SYNTAX);
    None
}

/// CLIENT REPLY ON | OFF | SKIP
pub(super) fn client_reply(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let mode = arguments.at(2);
    if mode.eq_ignore_ascii_case(b"ON") {
        execution.settings.reply_mode = ReplyMode::On;
        execution.ok();
    } else if mode.eq_ignore_ascii_case(b"OFF") {
        execution.settings.reply_mode = ReplyMode::Off;
    } else if mode.eq_ignore_ascii_case(b"SKIP") {
        if execution.settings.reply_mode != ReplyMode::Off {
            execution.settings.reply_mode = ReplyMode::SkipNext;
        }
    } else {
        execution.error(errors::SYNTAX);
    }
}

/// CLIENT HELP
pub(super) fn client_help(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.help("CLIENT");
}

impl Execution<'_, '_> {
    fn set_version(&mut self, version: Version) {
        self.settings.version = version;
        if let Some(client) = self.connection.client(self.context.clients) {
            client.protocol = version.number() as u8;
        }
    }

    fn client_id(&mut self) -> i64 {
        self.connection.client(self.context.clients).map_or(0, |client| client.id as i64)
    }
}
