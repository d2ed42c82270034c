//! Who answers for a secondary, and where it stands.
//!
//! Any HTTP answer shows that somebody is there, but for these. The answer to `POST /heartbeat`
//! says who it is:
//!
//! | answer | from |
//! |---|---|
//! | 200 with a standing | one of ours |
//! | 401, 403, 421, 429 | one of ours that does not take this master's calls, or a proxy: an error |
//! | 5xx | one of ours in trouble, or a proxy with nobody behind it: an error |
//! | any other | an original, or whatever else takes `POST /replicate` |
//!
//! An original counts its entries in `GET /health`. One that was written from the original's README
//! alone has no such call, or another one; it shows its log in `GET /messages`, which is read only
//! when the count must be known. Whoever shows neither may be a proxy in front of one of ours: a
//! takeover must not take it for an original.

use common::client::Client;
use common::entries::Seq;
use common::epochs;
use common::wire::{Heartbeat, SecondaryHealth, Standing};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::lines::Found;

/// Asks who is there. `wants_count` reads the log of an original that does not count its entries.
/// The error says why there is no answer, in words.
pub fn ask(client: &Client, heartbeat: &Heartbeat, wants_count: bool) -> Result<Found, String> {
    let body = serde_json::to_vec(heartbeat).expect("a heartbeat has only string keys");
    let answer = client.post("/heartbeat", &body)?;
    match (answer.status, serde_json::from_slice(&answer.body)) {
        (200, Ok(standing)) => believe(client, standing),
        (status @ (401 | 403 | 421 | 429 | 500..), _) => Err(not_taken(status)),
        (status, _) => match ask_health(client)? {
            // One of ours that knows no heartbeats; any other has refused this one.
            Health::Ours(standing) if [404, 405].contains(&status) => believe(client, standing),
            Health::Ours(_) => Err(not_taken(status)),
            Health::Count(count) => Ok(Found::Original(Some(count))),
            Health::Unknown if wants_count => Ok(Found::Original(count_messages(client))),
            Health::Unknown => Ok(Found::Original(None)),
        },
    }
}

fn not_taken(status: u16) -> String {
    format!("answered {status} to a heartbeat")
}

fn believe(client: &Client, standing: Standing) -> Result<Found, String> {
    let checked = epochs::check(standing.position.greatest_epoch(), client.base());
    checked.map(|()| Found::Ours(standing))
}

/// What `GET /health` says.
enum Health {
    Ours(Standing),
    Count(Seq),
    Unknown,
}

fn ask_health(client: &Client) -> Result<Health, String> {
    let answer = client.get("/health")?;
    Ok(match (answer.status, serde_json::from_slice::<SecondaryHealth>(&answer.body)) {
        (status @ 500.., _) => return Err(format!("answered {status} to GET /health")),
        (200, Ok(SecondaryHealth { standing: Some(standing), .. })) => Health::Ours(standing),
        (200, Ok(health)) => Health::Count(Seq(health.count)),
        _ => Health::Unknown,
    })
}

/// The number of entries that `GET /messages` shows, if it shows any log.
fn count_messages(client: &Client) -> Option<Seq> {
    #[derive(Deserialize)]
    struct Shown {
        messages: Vec<IgnoredAny>,
    }
    let answer = client.get("/messages").ok().filter(|answer| answer.status == 200)?;
    let shown = serde_json::from_slice::<Shown>(&answer.body).ok()?;
    Some(Seq(shown.messages.len() as u64))
}
