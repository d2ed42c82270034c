//! What a secondary's answer to a call means to its line.

use common::entries::Seq;
use common::wire::{Ack, Conflict, Position, Refusal};
use serde_json::Value;

/// What a secondary's answer to a call means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds the entries, and says where it stands.
    Acked(Position),
    /// An original secondary holds the entry, at this place if it says so.
    AckedByOriginal(Option<Seq>),
    /// An original holds so many entries, which are not as many as was thought: nothing was sent.
    Counted(Seq),
    /// Nothing was sent, for this reason.
    Unsent(String),
    /// It lacks entries before the first.
    Gap(Position),
    /// It has heard of a greater epoch.
    Stale(Position),
    /// It did not take the entries, or nobody knows whether it did.
    Failed(String),
    /// It holds other entries.
    Diverged(String),
}

impl Verdict {
    /// Reads the answer to a call. Nothing that a peer may send goes further than this.
    pub fn of(status: u16, body: &[u8]) -> Verdict {
        match status {
            200 => Verdict::of_200(body),
            409 => match serde_json::from_slice::<Refusal>(body) {
                Ok(Refusal { code: Conflict::Gap, position, .. }) => Verdict::Gap(position),
                Ok(Refusal { code: Conflict::StaleEpoch, position, .. }) => {
                    Verdict::Stale(position)
                }
                Ok(Refusal { code: Conflict::Diverged, error, .. }) => Verdict::Diverged(error),
                // Nobody answers a call with the conflict that is left.
                _ => Verdict::Failed(format!("answered 409: {}", beginning(body))),
            },
            status => Verdict::Failed(format!("answered {status}: {}", beginning(body))),
        }
    }

    fn of_200(body: &[u8]) -> Verdict {
        if let Ok(ack) = serde_json::from_slice::<Ack>(body) {
            return Verdict::Acked(ack.position);
        }
        match serde_json::from_slice::<Value>(body) {
            // An ack of ours that is not understood has a position.
            Ok(json) if json["status"] == "ok" && json.get("last_seq").is_none() => {
                Verdict::AckedByOriginal(place(&json))
            }
            Ok(_) => Verdict::Failed(format!("answered 200 without an ack: {}", beginning(body))),
            Err(_) => Verdict::Failed(format!("answered 200 without JSON: {}", beginning(body))),
        }
    }
}

/// The place of an entry that an original has acknowledged: the later version gives it as `seq`.
fn place(ack: &Value) -> Option<Seq> {
    let seq = ack["seq"].as_u64().map(Seq);
    seq.or_else(|| ack["idx"].as_u64().map(|idx| Seq(idx).next()))
}

/// The beginning of a body that was not understood, in one line.
fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(80)]).trim().replace(char::is_control, " ")
}
