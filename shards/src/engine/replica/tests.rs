//! What a replica keeps of messages that others send.

use raft::StateRole;
use raft::eraftpb::{Entry, Message, MessageType};

use super::Replica;
use crate::contract::{CoreConfig, Durability, Now};
use crate::ids::{Formation, Millis, Nanos, NodeId, ReplicaId, ShardId};
use crate::wal::tests::config;

fn id(node: u16) -> ReplicaId {
    ReplicaId::new(NodeId(node), 1)
}

fn now() -> Now {
    Now { monotonic: Nanos(1), wall: Millis(1) }
}

/// A member of a shard in its first term, to which node 2 may say something.
fn member() -> Replica {
    let config = CoreConfig { durability: Durability::Memory, stub_bytes_min: 100, ..config() };
    let formation = Formation { epoch: 1, members: vec![id(1), id(2), id(3)] };
    Replica::found(&config, now(), ShardId(0), id(1), formation)
}

/// What node 2 says, with a long entry behind the formation.
fn message(msg_type: MessageType, term: u64) -> Message {
    let entry = Entry { index: 2, term: 1, data: vec![7; 100], ..Entry::default() };
    let mut message = Message { from: id(2).0, to: id(1).0, term, ..Message::default() };
    (message.index, message.log_term, message.entries) = (1, 1, vec![entry]);
    message.set_msg_type(msg_type);
    message
}

#[test]
fn nothing_is_kept_of_entries_that_raft_does_not_look_at() {
    for msg_type in [
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgTimeoutNow,
    ] {
        let mut replica = member();
        replica.receive(NodeId(2), Message { reject: true, ..message(msg_type, 2) });
        assert_eq!(replica.log().aside_bytes(), 0, "{msg_type:?}");
    }
    let mut replica = member();
    replica.raw.raft.become_follower(3, 0);
    replica.receive(NodeId(2), message(MessageType::MsgAppend, 2));
    assert_eq!(replica.log().aside_bytes(), 0, "of a leader that was");
    replica.receive(NodeId(2), message(MessageType::MsgAppend, 3));
    assert_eq!(replica.log().aside_bytes(), 100, "of the leader");
}

#[test]
fn nobody_changes_what_a_leader_has_proposed() {
    let mut replica = member();
    replica.raw.raft.become_candidate();
    replica.raw.raft.become_leader();
    assert_eq!(replica.raw.raft.state, StateRole::Leader);
    let term = replica.raw.raft.term;
    replica.receive(NodeId(2), message(MessageType::MsgAppend, term));
    assert_eq!(replica.log().aside_bytes(), 0);
}

#[test]
fn who_sends_a_stub_is_not_heard() {
    let mut replica = member();
    let mut stub = message(MessageType::MsgAppend, 3);
    stub.entries[0].data = vec![0];
    assert!(!replica.receive(NodeId(2), stub));
    assert_eq!(replica.raw.raft.term, 1, "it was not stepped");
    assert!(replica.receive(NodeId(2), message(MessageType::MsgAppend, 3)));
}
