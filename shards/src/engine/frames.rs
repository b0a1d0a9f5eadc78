//! What the cores of a cluster say to each other: messages within frames.
//!
//! A frame is a sequence of messages: kind (1 byte), length (4 bytes), payload, little-endian. A
//! turn gathers all messages for one destination and lane into one frame. The transport has
//! checked a frame's length and checksum; what is inside is checked here, and what does not parse
//! ends the frame (the peer is broken or hostile; nothing of it is guessed at).
//!
//! Kinds are persistent for the life of a protocol version. Raft messages keep raft-rs' own
//! encoding (`raft_messages.rs`).

use super::follower_reads::ReadPoint;
pub use super::raft_messages::{decode_raft, encode_raft};
use crate::command::{ReadFrom, VALUE_BYTES_MAX};
use crate::contract::LeaderView;
use crate::ids::{Formation, Index, Millis, NodeId, ReplicaId, ShardId, Term, Version};
use crate::reader::Reader;
use crate::reply::Status;

/// Members of one shard, at most: bounds what a formation message may list.
const MEMBERS_MAX: usize = 16;

/// Message kinds.
mod kind {
    pub const RAFT: u8 = 1;
    pub const REQUESTS: u8 = 2;
    pub const REPLIES: u8 = 3;
    pub const LEADERS: u8 = 4;
    pub const PROBE: u8 = 5;
    pub const EMPTY: u8 = 6;
    pub const PREPARE: u8 = 7;
    pub const PROMISE: u8 = 8;
    pub const FORM: u8 = 9;
    pub const FORMED: u8 = 10;
    pub const SNAPSHOT_CHUNK: u8 = 11;
    pub const SNAPSHOT_ACK: u8 = 12;
    pub const DRAINING: u8 = 13;
    pub const REPLIES_LOST: u8 = 14;
    pub const QUESTION: u8 = 15;
    pub const ANSWER: u8 = 16;
    pub const ASTRAY: u8 = 17;
    pub const TOUCHES: u8 = 18;
    pub const COMPARE: u8 = 19;
    pub const DIGEST: u8 = 20;
    pub const ODD: u8 = 21;
    pub const STANDING: u8 = 22;
    pub const REMOVED: u8 = 23;
}

/// A message, borrowed from its frame.
#[derive(Debug, PartialEq)]
pub enum Message<'a> {
    /// A Raft message of a group.
    Raft(ShardId, &'a [u8]),
    /// Commands for the leader of a shard.
    Requests(RequestsHeader, Items<'a>),
    /// Outcomes of commands.
    Replies(RepliesHeader, Items<'a>),
    /// Who leads what.
    Leaders(Vec<(ShardId, LeaderView)>),
    /// "I am `ReplicaId` and have nothing: is there a shard?" Doubles as the wish to be taken in.
    Probe(ShardId, ReplicaId),
    /// "Neither have I; I am `ReplicaId`."
    Empty(ShardId, ReplicaId),
    /// "Promise to stay empty for this formation."
    Prepare(ShardId, Formation),
    /// "I am `ReplicaId`, empty, and promise."
    Promise(ShardId, ReplicaId, Formation),
    /// "The shard is formed thus", from the member that gathered all promises.
    Form(ShardId, Formation),
    /// The same, from any member that is part of it, to one that asks.
    Formed(ShardId, Formation),
    /// A piece of a snapshot.
    SnapshotChunk(SnapshotChunk<'a>),
    /// "I have the snapshot's bytes up to here."
    SnapshotAck(ShardId, SnapshotAck),
    /// "My node is about to stop: hand me no leadership."
    Draining,
    /// "Outcomes that I owed you were lost with the link": what is under way here will perhaps
    /// never be answered. The first message on a link that was down.
    RepliesLost,
    /// "How far must I have come to answer reads?", from a follower to its leader.
    Question(ShardId, Question),
    /// The leader's answer.
    Answer(ShardId, Answer),
    /// "I belong to the formation of this epoch, and know no leader: has it been replaced?"
    Astray(ShardId, u64),
    /// What readers of a follower used, encoded as in a log entry; to its leader.
    Touches(ShardId, &'a [u8]),
    /// "I am `ReplicaId` and lead: what is your digest when this index is applied?"
    Compare(ShardId, ReplicaId, Index),
    /// "I am `ReplicaId`, and this is my digest at that index."
    Digest(ShardId, ReplicaId, Index, u64),
    /// "`ReplicaId`, a majority has this digest at that index, and you do not."
    Odd(ShardId, ReplicaId, Index, u64),
    /// A member's question about itself, to all others.
    Standing(ShardId, Standing),
    /// "`ReplicaId`, you are a member no more, and nothing depends on what you hold", from the
    /// leader in this term.
    Removed(ShardId, ReplicaId, Term),
}

/// A member's question about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who asks.
    pub id: ReplicaId,
    /// Its term: whoever leads in an earlier one does not know.
    pub term: Term,
    /// What it asks.
    pub wish: Wish,
}

/// What a member asks about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It hears of no leader: is it a member at all?
    Membership = 1,
    /// What it holds is not what it should be: to be removed, and to be taken in anew.
    Replacement = 2,
    /// The same, later: what it has proposed is not decided yet. Until then nobody should hand it
    /// anything.
    ReplacementLater = 3,
}

impl Wish {
    fn from_code(code: u8) -> Option<Self> {
        let all = [Wish::Membership, Wish::Replacement, Wish::ReplacementLater];
        all.into_iter().find(|wish| *wish as u8 == code)
    }
}

/// A follower's question to its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who asks.
    pub asker: ReplicaId,
    /// The number of the question, which the asker never uses again.
    pub attempt: u64,
}

/// A leader's answer to a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who asked.
    pub asker: ReplicaId,
    /// The number of the question.
    pub attempt: u64,
    /// How far the asker must have come; `None` if the asked one does not lead.
    pub point: Option<ReadPoint>,
}

/// Whose commands follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestsHeader {
    /// The shard.
    pub shard: ShardId,
    /// The origin's name for the batch; replies carry it. Names ascend.
    pub batch: u64,
    /// The oldest batch to this shard that the origin had under way when it sent this one.
    pub oldest: u64,
}

/// Whose outcomes follow, and what the replying replica knows of the shard's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepliesHeader {
    /// The shard.
    pub shard: ShardId,
    /// The batch of the requests.
    pub batch: u64,
    /// The replier's view, which explains a `NotLeader`.
    pub view: LeaderView,
}

/// A piece of a snapshot on its way to a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk<'a> {
    /// The shard.
    pub shard: ShardId,
    /// The transfer, named by its sender.
    pub transfer: u64,
    /// To whom.
    pub to: ReplicaId,
    /// Where in the snapshot the bytes belong.
    pub offset: u64,
    /// Length of the whole snapshot in bytes.
    pub total: u64,
    /// The Raft message that goes with it; only in the last chunk.
    pub raft: &'a [u8],
    /// The bytes.
    pub bytes: &'a [u8],
}

/// How much of a snapshot has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotAck {
    /// The transfer.
    pub transfer: u64,
    /// Bytes that arrived without a gap; [`SnapshotAck::REFUSED`] ends the transfer.
    pub received: u64,
}

impl SnapshotAck {
    /// The receiver will not take this snapshot.
    pub const REFUSED: u64 = u64::MAX;
}

/// One outcome within `Replies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyItem<'a> {
    /// Which command of the batch.
    pub ordinal: u32,
    /// What came of it.
    pub status: Status,
    /// See [`crate::reply::Reply`].
    pub flags: u32,
    /// See [`crate::reply::Reply`].
    pub version: Version,
    /// See [`crate::reply::Reply`].
    pub number: u64,
    /// See [`crate::reply::Reply`].
    pub expires: Option<(Millis, Millis)>,
    /// See [`crate::reply::Reply`].
    pub value: Option<&'a [u8]>,
}

impl ReplyItem<'_> {
    /// An outcome without anything but its status.
    pub fn bare(ordinal: u32, status: Status) -> Self {
        ReplyItem {
            ordinal,
            status,
            flags: 0,
            version: Version(0),
            number: 0,
            expires: None,
            value: None,
        }
    }
}

/// A frame being built for one destination.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    /// Start of the last message if it is `Replies` that can be extended, with its batch.
    open_replies: Option<(usize, ShardId, u64)>,
}

impl FrameBuilder {
    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes gathered.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the frame, and goes on with `spare`.
    pub fn take(&mut self, spare: Vec<u8>) -> Vec<u8> {
        self.open_replies = None;
        std::mem::replace(&mut self.bytes, spare)
    }

    fn message(&mut self, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) -> usize {
        self.open_replies = None;
        let start = self.bytes.len();
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&[0; 4]);
        payload(&mut self.bytes);
        self.close(start);
        start
    }

    fn close(&mut self, start: usize) {
        let length = (self.bytes.len() - start - 5) as u32;
        self.bytes[start + 1..start + 5].copy_from_slice(&length.to_le_bytes());
    }

    /// Adds a Raft message.
    pub fn raft(&mut self, shard: ShardId, message: &raft::eraftpb::Message) {
        self.message(kind::RAFT, |out| {
            out.extend_from_slice(&shard.0.to_le_bytes());
            encode_raft(message, out);
        });
    }

    /// Adds a batch of commands: `commands` yields each encoded command with its order flag.
    pub fn requests<'c>(
        &mut self,
        header: RequestsHeader,
        commands: impl Iterator<Item = (RequestFlags, &'c [u8])>,
    ) {
        self.message(kind::REQUESTS, |out| {
            out.extend_from_slice(&header.shard.0.to_le_bytes());
            out.extend_from_slice(&header.batch.to_le_bytes());
            out.extend_from_slice(&header.oldest.to_le_bytes());
            for (flags, command) in commands {
                out.push(flags.0);
                out.extend_from_slice(command);
            }
        });
    }

    /// Adds an outcome; outcomes of one batch that follow each other share a message.
    pub fn reply(&mut self, header: RepliesHeader, item: &ReplyItem<'_>) {
        let start = match self.open_replies {
            Some((start, shard, batch)) if (shard, batch) == (header.shard, header.batch) => start,
            _ => self.message(kind::REPLIES, |out| {
                out.extend_from_slice(&header.shard.0.to_le_bytes());
                out.extend_from_slice(&header.batch.to_le_bytes());
                encode_view(header.view, out);
            }),
        };
        encode_item(item, &mut self.bytes);
        self.close(start);
        self.open_replies = Some((start, header.shard, header.batch));
    }

    /// Adds who leads what.
    pub fn leaders(&mut self, views: impl Iterator<Item = (ShardId, LeaderView)>) {
        self.message(kind::LEADERS, |out| {
            for (shard, view) in views {
                out.extend_from_slice(&shard.0.to_le_bytes());
                encode_view(view, out);
            }
        });
    }

    /// Adds one of the messages of formation and membership.
    ///
    /// # Panics
    /// If `message` is of another family, which has its own method.
    pub fn formation(&mut self, message: &Message<'_>) {
        let (kind, shard) = match message {
            Message::Probe(shard, _) => (kind::PROBE, *shard),
            Message::Empty(shard, _) => (kind::EMPTY, *shard),
            Message::Prepare(shard, _) => (kind::PREPARE, *shard),
            Message::Promise(shard, ..) => (kind::PROMISE, *shard),
            Message::Form(shard, _) => (kind::FORM, *shard),
            Message::Formed(shard, _) => (kind::FORMED, *shard),
            Message::Astray(shard, _) => (kind::ASTRAY, *shard),
            other => panic!("{other:?} is not a message of formation"),
        };
        self.message(kind, |out| {
            out.extend_from_slice(&shard.0.to_le_bytes());
            match message {
                Message::Probe(_, id) | Message::Empty(_, id) => {
                    out.extend_from_slice(&id.0.to_le_bytes());
                }
                Message::Astray(_, epoch) => out.extend_from_slice(&epoch.to_le_bytes()),
                Message::Promise(_, id, formation) => {
                    out.extend_from_slice(&id.0.to_le_bytes());
                    encode_formation(formation, out);
                }
                Message::Prepare(_, formation)
                | Message::Form(_, formation)
                | Message::Formed(_, formation) => encode_formation(formation, out),
                _ => {}
            }
        });
    }

    /// Adds a piece of a snapshot.
    pub fn snapshot_chunk(&mut self, chunk: &SnapshotChunk<'_>) {
        self.message(kind::SNAPSHOT_CHUNK, |out| {
            out.extend_from_slice(&chunk.shard.0.to_le_bytes());
            for field in [chunk.transfer, chunk.to.0, chunk.offset, chunk.total] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            out.extend_from_slice(&(chunk.raft.len() as u32).to_le_bytes());
            out.extend_from_slice(chunk.raft);
            out.extend_from_slice(chunk.bytes);
        });
    }

    /// Adds the acknowledgement of a piece.
    pub fn snapshot_ack(&mut self, shard: ShardId, ack: SnapshotAck) {
        self.message(kind::SNAPSHOT_ACK, |out| {
            out.extend_from_slice(&shard.0.to_le_bytes());
            out.extend_from_slice(&ack.transfer.to_le_bytes());
            out.extend_from_slice(&ack.received.to_le_bytes());
        });
    }

    /// Adds a follower's question.
    pub fn question(&mut self, shard: ShardId, question: Question) {
        self.message(kind::QUESTION, |out| {
            out.extend_from_slice(&shard.0.to_le_bytes());
            out.extend_from_slice(&question.asker.0.to_le_bytes());
            out.extend_from_slice(&question.attempt.to_le_bytes());
        });
    }

    /// Adds the answer to a follower's question.
    pub fn answer(&mut self, shard: ShardId, answer: &Answer) {
        self.message(kind::ANSWER, |out| {
            out.extend_from_slice(&shard.0.to_le_bytes());
            out.extend_from_slice(&answer.asker.0.to_le_bytes());
            out.extend_from_slice(&answer.attempt.to_le_bytes());
            if let Some(ReadPoint { index, term, running }) = answer.point {
                for field in [index.0, term.0, running.0] {
                    out.extend_from_slice(&field.to_le_bytes());
                }
            }
        });
    }

    /// Adds a follower's touches, which `fill` appends.
    pub fn touches(&mut self, shard: ShardId, fill: impl FnOnce(&mut Vec<u8>)) {
        self.message(kind::TOUCHES, |out| {
            out.extend_from_slice(&shard.0.to_le_bytes());
            fill(out);
        });
    }

    /// Adds a leader's question for a digest.
    pub fn compare(&mut self, shard: ShardId, leader: ReplicaId, index: Index) {
        self.words(kind::COMPARE, shard, &[leader.0, index.0]);
    }

    /// Adds a digest.
    pub fn digest(&mut self, shard: ShardId, id: ReplicaId, index: Index, digest: u64) {
        self.words(kind::DIGEST, shard, &[id.0, index.0, digest]);
    }

    /// Adds the word that `id` differs from a majority, whose digest this is.
    pub fn odd(&mut self, shard: ShardId, id: ReplicaId, index: Index, digest: u64) {
        self.words(kind::ODD, shard, &[id.0, index.0, digest]);
    }

    /// Adds a member's question about itself.
    pub fn standing(&mut self, shard: ShardId, standing: Standing) {
        let Standing { id, term, wish } = standing;
        self.message(kind::STANDING, |out| {
            out.extend_from_slice(&shard.0.to_le_bytes());
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&term.0.to_le_bytes());
            out.push(wish as u8);
        });
    }

    /// Adds the word that `id` is a member no more.
    pub fn removed(&mut self, shard: ShardId, id: ReplicaId, term: Term) {
        self.words(kind::REMOVED, shard, &[id.0, term.0]);
    }

    fn words(&mut self, kind: u8, shard: ShardId, words: &[u64]) {
        self.message(kind, |out| {
            out.extend_from_slice(&shard.0.to_le_bytes());
            for word in words {
                out.extend_from_slice(&word.to_le_bytes());
            }
        });
    }

    /// Adds the notice that this node is about to stop.
    pub fn draining(&mut self) {
        self.message(kind::DRAINING, |_| {});
    }

    /// Adds the notice that outcomes were lost.
    pub fn replies_lost(&mut self) {
        self.message(kind::REPLIES_LOST, |_| {});
    }
}

/// How a forwarded command stands to others of its connection, and who may answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFlags(pub u8);

impl RequestFlags {
    const ORDERED: u8 = 1;
    const FROM_REPLICA: u8 = 2;
    const STALE: u8 = 4;

    /// Flags of a read that `read_from` may answer.
    pub fn of_read(read_from: ReadFrom) -> Self {
        RequestFlags(match read_from {
            ReadFrom::Leader => 0,
            ReadFrom::Replica => Self::FROM_REPLICA,
            ReadFrom::Stale => Self::STALE,
        })
    }

    /// Who may answer. What is not known is left to the leader.
    pub fn read_from(self) -> ReadFrom {
        match self.0 & (Self::FROM_REPLICA | Self::STALE) {
            Self::FROM_REPLICA => ReadFrom::Replica,
            Self::STALE => ReadFrom::Stale,
            _ => ReadFrom::Leader,
        }
    }

    /// Flags of a command.
    pub fn new(ordered: bool) -> Self {
        RequestFlags(if ordered { Self::ORDERED } else { 0 })
    }

    /// See [`crate::command::Request::ordered`].
    pub fn ordered(self) -> bool {
        self.0 & Self::ORDERED != 0
    }
}

fn encode_view(view: LeaderView, out: &mut Vec<u8>) {
    out.extend_from_slice(&view.term.0.to_le_bytes());
    out.extend_from_slice(&view.leader.unwrap_or(NodeId(0)).0.to_le_bytes());
}

fn encode_formation(formation: &Formation, out: &mut Vec<u8>) {
    out.extend_from_slice(&formation.epoch.to_le_bytes());
    for member in &formation.members {
        out.extend_from_slice(&member.0.to_le_bytes());
    }
}

const HAS_DEADLINE: u8 = 1;
const HAS_VALUE: u8 = 2;
const HAS_DETAIL: u8 = 4;

fn encode_item(item: &ReplyItem<'_>, out: &mut Vec<u8>) {
    let has_detail = item.flags != 0 || item.version.0 != 0 || item.number != 0;
    let presence = if item.expires.is_some() { HAS_DEADLINE } else { 0 }
        | if item.value.is_some() { HAS_VALUE } else { 0 }
        | if has_detail { HAS_DETAIL } else { 0 };
    out.extend_from_slice(&item.ordinal.to_le_bytes());
    out.extend_from_slice(&[item.status as u8, presence]);
    if has_detail {
        out.extend_from_slice(&item.flags.to_le_bytes());
        out.extend_from_slice(&item.version.0.to_le_bytes());
        out.extend_from_slice(&item.number.to_le_bytes());
    }
    if let Some((left, deadline)) = item.expires {
        out.extend_from_slice(&left.0.to_le_bytes());
        out.extend_from_slice(&deadline.0.to_le_bytes());
    }
    if let Some(value) = item.value {
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
}

/// The rest of a message: items that are decoded one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Items<'a>(&'a [u8]);

impl<'a> Items<'a> {
    /// The next forwarded command: its flags and encoded bytes. `None` at the end, `Err` where the
    /// bytes are not a command.
    pub fn next_request(&mut self) -> Option<Result<(RequestFlags, &'a [u8]), Malformed>> {
        let (&flags, rest) = self.0.split_first()?;
        let Ok(length) = crate::command::Command::check(rest) else {
            self.0 = &[];
            return Some(Err(Malformed));
        };
        let (command, rest) = rest.split_at(length);
        self.0 = rest;
        Some(Ok((RequestFlags(flags), command)))
    }

    /// The next outcome. `None` at the end, `Err` where the bytes are not one.
    pub fn next_reply(&mut self) -> Option<Result<ReplyItem<'a>, Malformed>> {
        if self.0.is_empty() {
            return None;
        }
        let mut reader = Reader(self.0);
        let item = decode_item(&mut reader);
        self.0 = if item.is_some() { reader.0 } else { &[] };
        Some(item.ok_or(Malformed))
    }
}

/// A frame, or a part of it, is not what this protocol version sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame is malformed")]
pub struct Malformed;

/// The messages of a frame.
#[derive(Debug)]
pub struct Messages<'a>(Reader<'a>);

impl<'a> Messages<'a> {
    /// Reads `frame`.
    pub fn new(frame: &'a [u8]) -> Self {
        Messages(Reader(frame))
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.0.is_empty() {
            return None;
        }
        let message = decode_message(&mut self.0);
        if message.is_none() {
            self.0 = Reader(&[]);
        }
        Some(message.ok_or(Malformed))
    }
}

impl Reader<'_> {
    fn view(&mut self) -> Option<LeaderView> {
        let term = Term(self.u64()?);
        let leader = self.u16()?;
        Some(LeaderView { term, leader: (leader != 0).then_some(NodeId(leader)) })
    }

    fn formation(&mut self) -> Option<Formation> {
        let epoch = self.u64()?;
        let count = self.0.len() / 8;
        if !self.0.len().is_multiple_of(8)
            || count == 0
            || count > MEMBERS_MAX
            || epoch > Version::EPOCH_MAX
        {
            return None;
        }
        let mut members = Vec::with_capacity(count);
        while !self.0.is_empty() {
            members.push(ReplicaId(self.u64()?));
        }
        let ascending = members.windows(2).all(|pair| pair[0] < pair[1]);
        (ascending && members[0].0 != 0).then_some(Formation { epoch, members })
    }
}

fn decode_message<'a>(reader: &mut Reader<'a>) -> Option<Message<'a>> {
    let kind = reader.u8()?;
    let length = reader.u32()? as usize;
    let mut payload = Reader(reader.take(length)?);
    if kind == kind::DRAINING {
        return Some(Message::Draining);
    }
    if kind == kind::REPLIES_LOST {
        return Some(Message::RepliesLost);
    }
    if kind == kind::LEADERS {
        let mut views = Vec::new();
        while !payload.0.is_empty() {
            views.push((ShardId(payload.u16()?), payload.view()?));
        }
        return Some(Message::Leaders(views));
    }
    let shard = ShardId(payload.u16()?);
    Some(match kind {
        kind::RAFT => Message::Raft(shard, payload.rest()),
        kind::REQUESTS => {
            let (batch, oldest) = (payload.u64()?, payload.u64()?);
            let header = RequestsHeader { shard, batch, oldest };
            Message::Requests(header, Items(payload.rest()))
        }
        kind::REPLIES => {
            let header = RepliesHeader { shard, batch: payload.u64()?, view: payload.view()? };
            Message::Replies(header, Items(payload.rest()))
        }
        kind::QUESTION => {
            let (asker, attempt) = (ReplicaId(payload.u64()?), payload.u64()?);
            Message::Question(shard, Question { asker, attempt })
        }
        kind::ANSWER => {
            let (asker, attempt) = (ReplicaId(payload.u64()?), payload.u64()?);
            let point = match payload.0.is_empty() {
                true => None,
                false => Some(ReadPoint {
                    index: Index(payload.u64()?),
                    term: Term(payload.u64()?),
                    running: Millis(payload.u64()?),
                }),
            };
            Message::Answer(shard, Answer { asker, attempt, point })
        }
        kind::ASTRAY => {
            let epoch = payload.u64()?;
            if !(1..=Version::EPOCH_MAX).contains(&epoch) {
                return None;
            }
            Message::Astray(shard, epoch)
        }
        kind::TOUCHES => Message::Touches(shard, payload.rest()),
        kind::COMPARE => Message::Compare(shard, ReplicaId(payload.u64()?), Index(payload.u64()?)),
        kind::DIGEST | kind::ODD => {
            let (id, index) = (ReplicaId(payload.u64()?), Index(payload.u64()?));
            let digest = payload.u64()?;
            match kind {
                kind::DIGEST => Message::Digest(shard, id, index, digest),
                _ => Message::Odd(shard, id, index, digest),
            }
        }
        kind::STANDING => {
            let (id, term) = (ReplicaId(payload.u64()?), Term(payload.u64()?));
            let wish = Wish::from_code(payload.u8()?)?;
            Message::Standing(shard, Standing { id, term, wish })
        }
        kind::REMOVED => Message::Removed(shard, ReplicaId(payload.u64()?), Term(payload.u64()?)),
        kind::PROBE => Message::Probe(shard, ReplicaId(payload.u64()?)),
        kind::EMPTY => Message::Empty(shard, ReplicaId(payload.u64()?)),
        kind::PREPARE => Message::Prepare(shard, payload.formation()?),
        kind::PROMISE => Message::Promise(shard, ReplicaId(payload.u64()?), payload.formation()?),
        kind::FORM => Message::Form(shard, payload.formation()?),
        kind::FORMED => Message::Formed(shard, payload.formation()?),
        kind::SNAPSHOT_CHUNK => {
            let transfer = payload.u64()?;
            let to = ReplicaId(payload.u64()?);
            let (offset, total) = (payload.u64()?, payload.u64()?);
            let raft_length = payload.u32()? as usize;
            let raft = payload.take(raft_length)?;
            let bytes = payload.rest();
            Message::SnapshotChunk(SnapshotChunk {
                shard,
                transfer,
                to,
                offset,
                total,
                raft,
                bytes,
            })
        }
        kind::SNAPSHOT_ACK => Message::SnapshotAck(
            shard,
            SnapshotAck { transfer: payload.u64()?, received: payload.u64()? },
        ),
        _ => return None,
    })
}

fn decode_item<'a>(reader: &mut Reader<'a>) -> Option<ReplyItem<'a>> {
    let ordinal = reader.u32()?;
    let status = Status::from_code(reader.u8()?)?;
    let presence = reader.u8()?;
    let mut item = ReplyItem::bare(ordinal, status);
    if presence & HAS_DETAIL != 0 {
        item.flags = reader.u32()?;
        item.version = Version(reader.u64()?);
        item.number = reader.u64()?;
    }
    if presence & HAS_DEADLINE != 0 {
        item.expires = Some((Millis(reader.u64()?), Millis(reader.u64()?)));
    }
    if presence & HAS_VALUE != 0 {
        let length = reader.u32()? as usize;
        if length > VALUE_BYTES_MAX {
            return None;
        }
        item.value = Some(reader.take(length)?);
    }
    Some(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_frame() -> Vec<u8> {
        let mut builder = FrameBuilder::default();
        let view = LeaderView { term: Term(7), leader: Some(NodeId(2)) };
        let mut raft = raft::eraftpb::Message { to: 5, term: 3, ..Default::default() };
        raft.entries.push(raft::eraftpb::Entry { data: vec![1, 2, 3], ..Default::default() });
        builder.raft(ShardId(1), &raft);
        let mut command = Vec::new();
        crate::command::Command {
            key: b"k",
            operation: crate::command::Operation::Get { peek: false },
        }
        .encode(&mut command);
        builder.requests(
            RequestsHeader { shard: ShardId(2), batch: 9, oldest: 8 },
            [(RequestFlags::new(true), &command[..]), (RequestFlags::new(false), &command[..])]
                .into_iter(),
        );
        let header = RepliesHeader { shard: ShardId(2), batch: 9, view };
        builder.reply(header, &ReplyItem { value: Some(b"v"), ..ReplyItem::bare(0, Status::Ok) });
        builder.reply(
            header,
            &ReplyItem {
                expires: Some((Millis(1), Millis(2))),
                number: 4,
                ..ReplyItem::bare(1, Status::NotLeader)
            },
        );
        builder.leaders([(ShardId(1), view), (ShardId(2), LeaderView::default())].into_iter());
        let formation = Formation { epoch: 3, members: vec![ReplicaId(4), ReplicaId(9)] };
        builder.formation(&Message::Probe(ShardId(0), ReplicaId(4)));
        builder.formation(&Message::Promise(ShardId(0), ReplicaId(4), formation.clone()));
        builder.formation(&Message::Form(ShardId(0), formation));
        builder.snapshot_chunk(&SnapshotChunk {
            shard: ShardId(3),
            transfer: 1,
            to: ReplicaId(4),
            offset: 0,
            total: 3,
            raft: b"raft",
            bytes: b"abc",
        });
        builder.snapshot_ack(ShardId(3), SnapshotAck { transfer: 1, received: 3 });
        builder.draining();
        builder.replies_lost();
        let (asker, attempt) = (ReplicaId(4), 77);
        builder.question(ShardId(3), Question { asker, attempt });
        for point in [None, Some(POINT)] {
            builder.answer(ShardId(3), &Answer { asker, attempt, point });
        }
        builder.formation(&Message::Astray(ShardId(3), 5));
        builder.touches(ShardId(3), |out| out.extend_from_slice(b"touched"));
        builder.compare(ShardId(3), asker, Index(5));
        builder.digest(ShardId(3), asker, Index(5), 6);
        builder.odd(ShardId(3), asker, Index(5), 7);
        builder.standing(ShardId(3), STANDING);
        builder.removed(ShardId(3), asker, Term(9));
        builder.take(Vec::new())
    }

    const STANDING: Standing =
        Standing { id: ReplicaId(4), term: Term(9), wish: Wish::Replacement };
    const POINT: ReadPoint = ReadPoint { index: Index(8), term: Term(9), running: Millis(10) };

    #[test]
    fn messages_survive_their_frame() {
        let frame = sample_frame();
        let messages: Vec<_> =
            Messages::new(&frame).map(|message| message.expect("a whole message")).collect();
        assert_eq!(messages.len(), 21);
        let Message::Raft(ShardId(1), raft) = &messages[0] else { panic!("{messages:?}") };
        assert_eq!(decode_raft(raft).expect("a Raft message").entries[0].data, [1, 2, 3]);
        let Message::Requests(header, mut items) = messages[1] else { panic!("{messages:?}") };
        assert_eq!(header.batch, 9);
        let (flags, _) = items.next_request().expect("a command").expect("well formed");
        assert!(flags.ordered());
        assert!(items.next_request().is_some() && items.next_request().is_none());
        let Message::Replies(_, mut items) = messages[2] else { panic!("{messages:?}") };
        assert_eq!(items.next_reply().expect("one").expect("well formed").value, Some(&b"v"[..]));
        let second = items.next_reply().expect("two").expect("well formed");
        assert_eq!((second.ordinal, second.number), (1, 4));
        assert_eq!(items.next_reply(), None);
        assert_eq!(messages[9..11], [Message::Draining, Message::RepliesLost]);
        let (shard, asker, attempt) = (ShardId(3), ReplicaId(4), 77);
        let answer = |point| Message::Answer(shard, Answer { asker, attempt, point });
        let question = Message::Question(shard, Question { asker, attempt });
        let astray = Message::Astray(shard, 5);
        let touches = Message::Touches(shard, b"touched");
        let touched = [question, answer(None), answer(Some(POINT)), astray, touches];
        assert_eq!(messages[11..16], touched);
        let care = [
            Message::Compare(shard, asker, Index(5)),
            Message::Digest(shard, asker, Index(5), 6),
            Message::Odd(shard, asker, Index(5), 7),
            Message::Standing(shard, STANDING),
            Message::Removed(shard, asker, Term(9)),
        ];
        assert_eq!(messages[16..], care);
    }

    #[test]
    fn no_cut_and_no_flipped_bit_panics() {
        let frame = sample_frame();
        let drain = |bytes: &[u8]| {
            for message in Messages::new(bytes) {
                match message {
                    Ok(Message::Requests(_, mut items)) => while items.next_request().is_some() {},
                    Ok(Message::Replies(_, mut items)) => while items.next_reply().is_some() {},
                    Ok(Message::Raft(_, bytes)) => drop(decode_raft(bytes)),
                    _ => {}
                }
            }
        };
        for length in 0..frame.len() {
            drain(&frame[..length]);
        }
        for position in 0..frame.len() {
            for bit in 0..8 {
                let mut damaged = frame.clone();
                damaged[position] ^= 1 << bit;
                drain(&damaged);
            }
        }
    }
}
