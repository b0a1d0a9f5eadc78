//! How the engine's outcomes are put into RESP.

use proto::resp::{Version, encode};
use shards::ids::Millis;
use shards::reply::{Reply, Status};

use crate::commands::errors;

/// What a reply looks like where the command succeeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// `OK`.
    #[default]
    Ok,
    /// `OK`, or nil where a condition did not hold.
    OkOrNil,
    /// The value, or nil where there is none.
    Value,
    /// The number; 0 for an absent key.
    Number,
    /// 1, or 0 where a condition did not hold or the key is absent.
    OneOrZero,
    /// The name of the value's type.
    Type,
    /// Time to live in seconds, rounded; -1 without deadline, -2 without key.
    SecondsLeft,
    /// Time to live in milliseconds; -1 without deadline, -2 without key.
    MillisLeft,
    /// The deadline in seconds since the Unix epoch; -1 and -2 as above.
    DeadlineSeconds,
    /// The deadline in milliseconds since the Unix epoch; -1 and -2 as above.
    DeadlineMillis,
}

/// What a reply needs to know of its request.
#[derive(Clone, Copy, Debug, Default)]
pub struct RespReply {
    /// What it looks like.
    pub shape: Shape,
    /// The protocol version when the request came.
    pub version: Version,
    /// Whether the client wants no reply at all.
    pub is_silent: bool,
}

impl RespReply {
    /// Appends the reply.
    pub fn render(self, reply: &Reply, value: Option<&[u8]>, out: &mut Vec<u8>) {
        use Status::{ConditionFailed, Exists, NotFound, Ok};
        if self.is_silent {
            return;
        }
        let time = |time: Option<Millis>, unit: u64, rounding: u64| match (reply.status, time) {
            (NotFound, _) => -2,
            (_, None) => -1,
            (_, Some(time)) => {
                i64::try_from(time.0.saturating_add(rounding) / unit).unwrap_or(i64::MAX)
            }
        };
        let left = reply.expires_in;
        let deadline = reply.expires_at;
        match (self.shape, reply.status) {
            (Shape::Ok | Shape::OkOrNil, Ok) => encode::ok(out),
            (Shape::OkOrNil, Exists | NotFound | ConditionFailed) => encode::nil(out, self.version),
            (Shape::Value, Ok | Exists | NotFound | ConditionFailed) => match value {
                Some(value) => encode::bulk(out, value),
                None => encode::nil(out, self.version),
            },
            (Shape::Number, Ok) => encode::integer(out, reply.number as i64),
            (Shape::Number, NotFound) => encode::integer(out, 0),
            (Shape::OneOrZero, Ok) => encode::integer(out, 1),
            (Shape::OneOrZero, Exists | NotFound | ConditionFailed) => encode::integer(out, 0),
            (Shape::Type, Ok) => encode::simple(out, "string"),
            (Shape::Type, NotFound) => encode::simple(out, "none"),
            (Shape::SecondsLeft, Ok | NotFound) => encode::integer(out, time(left, 1_000, 500)),
            (Shape::MillisLeft, Ok | NotFound) => encode::integer(out, time(left, 1, 0)),
            (Shape::DeadlineSeconds, Ok | NotFound) => {
                encode::integer(out, time(deadline, 1_000, 500));
            }
            (Shape::DeadlineMillis, Ok | NotFound) => encode::integer(out, time(deadline, 1, 0)),
            (_, status) => encode::error(out, errors::of_status(status).as_bytes()),
        }
    }

    /// Appends the header of an array of replies.
    pub fn render_array_header(self, length: usize, out: &mut Vec<u8>) {
        if !self.is_silent {
            encode::array(out, length);
        }
    }

    /// Appends the error for a write of which only parts were carried out.
    pub fn render_partly_done(self, out: &mut Vec<u8>) {
        if !self.is_silent {
            encode::error(out, errors::PARTLY_DONE.as_bytes());
        }
    }
}
