//! The log entry: what one Raft entry of a shard carries.
//!
//! An entry is a stamp and sections: a batch of commands, touches, which are applied before it, and
//! the secret for the hashes of keys, which the first entries of a shard bring.
//! Entries are persistent, and every replica must make the same of them: one that holds an unknown
//! version or kind was written by a newer program, and the replica that reads it stops. Skipping it
//! would let the states part.
//!
//! Format, little-endian: format version (1 byte), stamp (8), sections. A section is its kind (1),
//! the length of its body (4), the body. The body of a batch is the number of commands (2) and the
//! commands in the encoding of [`Command::encode`]. An entry without commands has no batch. The
//! body of touches is up to [`ENTRY_TOUCHES_MAX`] of them, in [`TOUCH_BYTES`] each; an entry
//! without any has no such section. The body of the secret are its 8 bytes, which are not all zero.
//!
//! An entry is checked whole before the first command of it is applied, so that applying cannot
//! fail half way. Damage is not looked for here: logs and links have checksums of their own.

use crate::command::{Command, DecodeError, is_encoded_read};
use crate::ids::{Millis, Version};
use crate::store::{Opening, TOUCH_BYTES};

/// Commands in one entry, at most: as many as a version has ordinals.
pub const ENTRY_COMMANDS_MAX: usize = Version::ORDINALS;
/// Encoded commands in one entry, in bytes, at most. A single command may be longer.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Touches in one entry, at most.
pub const ENTRY_TOUCHES_MAX: usize = 512;

const FORMAT_VERSION: u8 = 1;
const BATCH: u8 = 1;
const TOUCHES: u8 = 2;
const KEY_SECRET: u8 = 3;
/// Version and stamp.
const HEADER_BYTES: usize = 9;
/// Kind and length.
const SECTION_HEADER_BYTES: usize = 5;
/// Bytes before the first command.
const COMMANDS_START: usize = HEADER_BYTES + SECTION_HEADER_BYTES + 2;
/// Bytes behind the last command, at most: touches and a secret.
const SECTIONS_BEHIND_BYTES_MAX: usize =
    2 * SECTION_HEADER_BYTES + ENTRY_TOUCHES_MAX * TOUCH_BYTES + 8;
/// The largest buffer that is reserved for the next entry because the last one needed it.
const RESERVED_BYTES_MAX: usize = 64 << 10;

/// Gathers the commands of one entry.
#[derive(Debug, Default)]
pub struct EntryBuilder {
    /// The entry as it will be, with the header left blank; empty before the first command.
    bytes: Vec<u8>,
    commands: usize,
    /// Bytes reserved with the first command.
    reserved: usize,
}

impl EntryBuilder {
    /// A builder without commands.
    pub fn new() -> Self {
        Self::default()
    }

    /// A builder that has room for so many bytes as soon as it has a command, or for as much as
    /// it keeps in reserve.
    pub fn with_reserve(bytes: usize) -> Self {
        EntryBuilder { reserved: bytes.min(RESERVED_BYTES_MAX), ..Self::default() }
    }

    /// Number of commands gathered.
    pub fn len(&self) -> usize {
        self.commands
    }

    /// Whether no command was gathered.
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// Encoded bytes of the commands gathered.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len().saturating_sub(COMMANDS_START)
    }

    /// Whether a command of so many encoded bytes may still be added. The first always may.
    pub fn has_room_for(&self, command_bytes: usize) -> bool {
        self.is_empty()
            || (self.commands < ENTRY_COMMANDS_MAX
                && self.bytes_len() + command_bytes <= ENTRY_BYTES_MAX)
    }

    /// Whether no command at all may be added.
    pub fn is_full(&self) -> bool {
        !self.has_room_for(1)
    }

    /// Adds a command as [`Command::encode`] wrote it.
    ///
    /// # Panics
    /// If there is no room for it, which [`has_room_for`](Self::has_room_for) tells.
    pub fn push(&mut self, encoded: &[u8]) {
        assert!(self.has_room_for(encoded.len()), "the entry has no room for this command");
        debug_assert!(is_one_write(encoded), "not one encoded write command");
        if self.is_empty() {
            let needed = COMMANDS_START + encoded.len();
            // A long command is not to be copied once more because touches come behind it.
            let behind = if needed > RESERVED_BYTES_MAX { SECTIONS_BEHIND_BYTES_MAX } else { 0 };
            self.bytes.reserve(self.reserved.max(needed + behind));
            self.bytes.resize(COMMANDS_START, 0);
        }
        self.bytes.extend_from_slice(encoded);
        self.commands += 1;
    }

    /// The entry with this opening, whose touches are at most [`ENTRY_TOUCHES_MAX`]; the builder is
    /// empty again. Without commands, touches and secret it is an entry for its stamp's sake.
    pub fn finish(&mut self, opening: Opening<'_>) -> Vec<u8> {
        let Opening { stamp, touches, key_secret } = opening;
        let mut bytes = std::mem::take(&mut self.bytes);
        let commands = std::mem::take(&mut self.commands);
        bytes.resize(bytes.len().max(HEADER_BYTES), 0);
        bytes[0] = FORMAT_VERSION;
        bytes[1..HEADER_BYTES].copy_from_slice(&stamp.0.to_le_bytes());
        if commands > 0 {
            let body_start = HEADER_BYTES + SECTION_HEADER_BYTES;
            let body_len = (bytes.len() - body_start) as u32;
            bytes[HEADER_BYTES] = BATCH;
            bytes[HEADER_BYTES + 1..body_start].copy_from_slice(&body_len.to_le_bytes());
            bytes[body_start..COMMANDS_START].copy_from_slice(&(commands as u16).to_le_bytes());
        }
        self.reserved = bytes.len().min(RESERVED_BYTES_MAX);
        if !touches.is_empty() {
            bytes.push(TOUCHES);
            bytes.extend_from_slice(&(touches.len() as u32).to_le_bytes());
            bytes.extend_from_slice(touches);
        }
        if let Some(secret) = key_secret {
            bytes.push(KEY_SECRET);
            bytes.extend_from_slice(&8_u32.to_le_bytes());
            bytes.extend_from_slice(&secret.to_le_bytes());
        }
        bytes
    }
}

fn is_one_write(encoded: &[u8]) -> bool {
    Command::decode(encoded)
        .is_ok_and(|(command, length)| length == encoded.len() && !command.operation.is_read())
}

/// Why bytes are not an entry that this version can apply. The replica that meets one stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The bytes end too early.
    #[error("the log entry is cut short")]
    Truncated,
    /// Another version of the program wrote it.
    #[error("format version {0} of a log entry is unknown")]
    UnknownVersion(u8),
    /// Another version of the program wrote it.
    #[error("section kind {0} of a log entry is unknown")]
    UnknownKind(u8),
    /// There is a second batch, an empty one, or one that is too long.
    #[error("a batch of the log entry is malformed")]
    BadBatch,
    /// There are touches twice, none, too many, or a part of one.
    #[error("the touches of the log entry are malformed")]
    BadTouches,
    /// There is a secret twice, or it is none.
    #[error("the key secret of the log entry is malformed")]
    BadSecret,
    /// A command of the batch is a read, which never enters the log.
    #[error("the log entry holds a read")]
    Read,
    /// A command of the batch cannot be decoded.
    #[error("a command of the log entry is malformed: {0}")]
    Command(#[from] DecodeError),
}

/// An entry, checked.
#[derive(Clone, Copy, Debug)]
pub struct EntryReader<'a> {
    opening: Opening<'a>,
    commands: usize,
    encoded: &'a [u8],
}

impl<'a> EntryReader<'a> {
    /// Reads an entry and checks all of it.
    pub fn new(bytes: &'a [u8]) -> Result<Self, EntryError> {
        let (&version, rest) = bytes.split_first().ok_or(EntryError::Truncated)?;
        if version != FORMAT_VERSION {
            return Err(EntryError::UnknownVersion(version));
        }
        let (stamp, mut rest) = rest.split_first_chunk().ok_or(EntryError::Truncated)?;
        let stamp = Millis(u64::from_le_bytes(*stamp));
        let mut entry = EntryReader { opening: Opening::at(stamp), commands: 0, encoded: &[] };
        while let Some((&kind, after_kind)) = rest.split_first() {
            if !matches!(kind, BATCH | TOUCHES | KEY_SECRET) {
                return Err(EntryError::UnknownKind(kind));
            }
            let (length, after) = after_kind.split_first_chunk().ok_or(EntryError::Truncated)?;
            let (body, after) = after
                .split_at_checked(u32::from_le_bytes(*length) as usize)
                .ok_or(EntryError::Truncated)?;
            rest = after;
            if kind == TOUCHES {
                entry.opening.touches = check_touches(body, entry.opening.touches)?;
                continue;
            }
            if kind == KEY_SECRET {
                entry.opening.key_secret = Some(check_secret(body, entry.opening.key_secret)?);
                continue;
            }
            if entry.commands > 0 {
                return Err(EntryError::BadBatch);
            }
            (entry.commands, entry.encoded) = check_batch(body)?;
        }
        Ok(entry)
    }

    /// The shard time at which the leader proposed the entry.
    pub fn stamp(&self) -> Millis {
        self.opening.stamp
    }

    /// Number of commands.
    pub fn len(&self) -> usize {
        self.commands
    }

    /// Whether the entry is there for its stamp's sake only.
    pub fn is_empty(&self) -> bool {
        self.commands == 0 && self.opening.touches.is_empty()
    }

    /// What there is besides the commands.
    pub fn opening(&self) -> Opening<'a> {
        self.opening
    }

    /// The commands in order. The position of each is its ordinal.
    pub fn commands(&self) -> Commands<'a> {
        Commands { encoded: self.encoded }
    }

    /// The keys of the commands in order.
    pub fn keys(&self) -> Keys<'a> {
        Keys { encoded: self.encoded }
    }
}

/// The body of touches, if it is the first.
fn check_touches<'a>(body: &'a [u8], before: &[u8]) -> Result<&'a [u8], EntryError> {
    let is_whole = !body.is_empty() && body.len().is_multiple_of(TOUCH_BYTES);
    let is_sound = is_whole && body.len() <= ENTRY_TOUCHES_MAX * TOUCH_BYTES && before.is_empty();
    if is_sound { Ok(body) } else { Err(EntryError::BadTouches) }
}

fn check_secret(body: &[u8], before: Option<u64>) -> Result<u64, EntryError> {
    let secret = body.try_into().map(u64::from_le_bytes).map_err(|_| EntryError::BadSecret)?;
    if secret == 0 || before.is_some() { Err(EntryError::BadSecret) } else { Ok(secret) }
}

/// The number of commands in the body of a batch, and their encoding.
fn check_batch(body: &[u8]) -> Result<(usize, &[u8]), EntryError> {
    let (count, encoded) = body.split_first_chunk().ok_or(EntryError::Truncated)?;
    let count = usize::from(u16::from_le_bytes(*count));
    if count == 0 || count > ENTRY_COMMANDS_MAX {
        return Err(EntryError::BadBatch);
    }
    let mut rest = encoded;
    for _ in 0..count {
        let length = Command::check(rest)?;
        if is_encoded_read(rest) {
            return Err(EntryError::Read);
        }
        rest = &rest[length..];
    }
    if rest.is_empty() { Ok((count, encoded)) } else { Err(EntryError::BadBatch) }
}

/// The commands of an entry that was checked.
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    encoded: &'a [u8],
}

impl<'a> Iterator for Commands<'a> {
    type Item = Command<'a>;

    fn next(&mut self) -> Option<Command<'a>> {
        let (command, length) = Command::decode(self.encoded).ok()?;
        self.encoded = &self.encoded[length..];
        Some(command)
    }
}

/// The keys of the commands of an entry that was checked.
#[derive(Clone, Debug)]
pub struct Keys<'a> {
    encoded: &'a [u8],
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (key, length) = Command::key(self.encoded).ok()?;
        self.encoded = &self.encoded[length..];
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Expiry, KEY_BYTES_MAX, Operation, SetCondition, VALUE_BYTES_MAX};

    fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
        let operation = Operation::Set {
            value,
            flags: 1,
            condition: SetCondition::Always,
            expiry: Expiry::In(Millis(10)),
            return_old: false,
        };
        Command { key, operation }
    }

    fn encoded(command: &Command<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        bytes
    }

    fn sample() -> Vec<u8> {
        let mut builder = EntryBuilder::new();
        builder.push(&encoded(&set(b"key", b"value")));
        builder.push(&encoded(&Command { key: b"", operation: Operation::Flush }));
        builder
            .push(&encoded(&Command { key: b"n", operation: Operation::Increment { delta: 4 } }));
        builder.finish(Opening::at(Millis(1 << 41)))
    }

    #[test]
    fn what_was_built_is_read() {
        let bytes = sample();
        let entry = EntryReader::new(&bytes).expect("an entry");
        assert_eq!((entry.stamp(), entry.len(), entry.is_empty()), (Millis(1 << 41), 3, false));
        let keys: Vec<_> = entry.commands().map(|command| command.key.to_vec()).collect();
        assert_eq!(keys, [&b"key"[..], b"", b"n"]);
        assert!(entry.keys().eq(keys));
        assert_eq!(entry.commands().next(), Some(set(b"key", b"value")));
    }

    #[test]
    fn an_entry_may_consist_of_its_stamp() {
        let mut builder = EntryBuilder::new();
        for stamp in [Millis(0), Millis(u64::MAX)] {
            let bytes = builder.finish(Opening::at(stamp));
            let entry = EntryReader::new(&bytes).expect("an entry");
            assert_eq!((entry.stamp(), entry.len(), entry.is_empty()), (stamp, 0, true));
            assert_eq!(entry.commands().next(), None);
        }
    }

    #[test]
    fn touches_go_with_commands_or_alone_and_must_be_whole() {
        let touches = [7; 3 * TOUCH_BYTES];
        let opening = Opening { touches: &touches, ..Opening::at(Millis(5)) };
        let mut builder = EntryBuilder::new();
        let alone = builder.finish(opening);
        builder.push(&encoded(&set(b"key", b"value")));
        let with_command = builder.finish(opening);
        for (bytes, commands) in [(alone, 0), (with_command, 1)] {
            let entry = EntryReader::new(&bytes).expect("an entry");
            assert_eq!((entry.opening().touches, entry.len()), (&touches[..], commands));
            assert!(!entry.is_empty());
            let twice = [&bytes[..], &bytes[bytes.len() - SECTION_HEADER_BYTES - touches.len()..]];
            assert_eq!(EntryReader::new(&twice.concat()).err(), Some(EntryError::BadTouches));
        }
        let too_many = [1; (ENTRY_TOUCHES_MAX + 1) * TOUCH_BYTES];
        for wrong in [&[1; TOUCH_BYTES + 1][..], &too_many] {
            let bytes =
                EntryBuilder::new().finish(Opening { touches: wrong, ..Opening::at(Millis(5)) });
            assert_eq!(EntryReader::new(&bytes).err(), Some(EntryError::BadTouches));
        }
    }

    #[test]
    fn a_finished_builder_starts_anew() {
        let mut builder = EntryBuilder::new();
        let command = encoded(&set(b"key", b"value"));
        let mut finished = Vec::new();
        for _ in 0..3 {
            assert!(builder.is_empty() && builder.bytes_len() == 0);
            builder.push(&command);
            assert_eq!((builder.len(), builder.bytes_len()), (1, command.len()));
            finished.push(builder.finish(Opening::at(Millis(3))));
        }
        assert!(finished.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn the_number_of_commands_is_limited() {
        let command = encoded(&set(b"key", b""));
        let mut builder = EntryBuilder::new();
        for count in 0..ENTRY_COMMANDS_MAX {
            assert!(!builder.is_full() && builder.has_room_for(command.len()), "{count}");
            builder.push(&command);
        }
        assert!(builder.is_full() && !builder.has_room_for(command.len()));
        let bytes = builder.finish(Opening::at(Millis(1)));
        assert_eq!(EntryReader::new(&bytes).expect("an entry").len(), ENTRY_COMMANDS_MAX);
        let mut too_many = bytes[..COMMANDS_START].to_vec();
        too_many.extend((0..=ENTRY_COMMANDS_MAX).flat_map(|_| command.clone()));
        let body = (too_many.len() - HEADER_BYTES - SECTION_HEADER_BYTES) as u32;
        too_many[HEADER_BYTES + 1..HEADER_BYTES + 5].copy_from_slice(&body.to_le_bytes());
        let count = (ENTRY_COMMANDS_MAX as u16 + 1).to_le_bytes();
        too_many[COMMANDS_START - 2..COMMANDS_START].copy_from_slice(&count);
        assert_eq!(EntryReader::new(&too_many).err(), Some(EntryError::BadBatch));
    }

    #[test]
    fn the_bytes_are_limited_but_one_command_always_fits() {
        let first = encoded(&set(b"key", &[0; 100]));
        let rest = ENTRY_BYTES_MAX - first.len();
        let mut builder = EntryBuilder::new();
        builder.push(&first);
        for (length, fits) in [(rest - 1, true), (rest, true), (rest + 1, false)] {
            assert_eq!(builder.has_room_for(length), fits, "{length}");
        }
        let overhead = first.len() - 100;
        builder.push(&encoded(&set(b"key", &vec![0; rest - overhead])));
        assert_eq!(builder.bytes_len(), ENTRY_BYTES_MAX);
        assert!(builder.is_full());
        assert_eq!(
            EntryReader::new(&builder.finish(Opening::at(Millis(1)))).expect("an entry").len(),
            2
        );

        let (key, value) = (vec![1; KEY_BYTES_MAX], vec![2; VALUE_BYTES_MAX]);
        let largest = encoded(&set(&key, &value));
        assert!(builder.has_room_for(largest.len()));
        builder.push(&largest);
        assert!(builder.is_full());
        let bytes = builder.finish(Opening::at(Millis(1)));
        let entry = EntryReader::new(&bytes).expect("an entry");
        assert_eq!(entry.commands().next(), Some(set(&key, &value)));
    }

    #[test]
    fn what_a_newer_version_wrote_is_refused_and_not_skipped() {
        let mut bytes = sample();
        bytes[0] = 2;
        assert_eq!(EntryReader::new(&bytes).err(), Some(EntryError::UnknownVersion(2)));
        bytes[0] = FORMAT_VERSION;
        bytes[HEADER_BYTES] = 9;
        assert_eq!(EntryReader::new(&bytes).err(), Some(EntryError::UnknownKind(9)));
        let later_section = [&sample()[..], &[9, 0, 0, 0, 0]].concat();
        assert_eq!(EntryReader::new(&later_section).err(), Some(EntryError::UnknownKind(9)));
        let mut bytes = sample();
        bytes[COMMANDS_START] = 99;
        let unknown = EntryError::Command(DecodeError::UnknownOperation(99));
        assert!(
            [unknown, EntryError::Command(DecodeError::BadField)]
                .contains(&EntryReader::new(&bytes).expect_err("an unknown operation"))
        );
    }

    #[test]
    fn reads_second_batches_and_loose_bytes_are_refused() {
        let with_batch = |body: &[u8]| {
            let mut bytes = EntryBuilder::new().finish(Opening::at(Millis(1)));
            bytes.push(BATCH);
            bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
            bytes.extend_from_slice(body);
            bytes
        };
        let get = [
            &[1, 0][..],
            &encoded(&Command { key: b"k", operation: Operation::Get { peek: false } }),
        ];
        assert_eq!(EntryReader::new(&with_batch(&get.concat())).err(), Some(EntryError::Read));
        assert_eq!(EntryReader::new(&with_batch(&[0, 0])).err(), Some(EntryError::BadBatch));
        let write = encoded(&set(b"k", b"v"));
        let loose = [&[1, 0][..], &write, &write];
        let refused = EntryReader::new(&with_batch(&loose.concat())).err();
        assert_eq!(refused, Some(EntryError::BadBatch));
        let twice = [&sample()[..], &sample()[HEADER_BYTES..]].concat();
        assert_eq!(EntryReader::new(&twice).err(), Some(EntryError::BadBatch));
    }

    #[test]
    fn every_prefix_is_refused_and_no_damage_panics() {
        let bytes = sample();
        for length in 0..bytes.len() {
            match EntryReader::new(&bytes[..length]) {
                Ok(entry) => assert!(entry.is_empty() && length == HEADER_BYTES),
                Err(error) => assert!(
                    matches!(error, EntryError::Truncated | EntryError::Command(_)),
                    "{error:?}"
                ),
            }
        }
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[position] ^= 1 << bit;
                if let Ok(entry) = EntryReader::new(&damaged) {
                    assert_eq!(entry.commands().count(), entry.len());
                }
            }
        }
    }
}
