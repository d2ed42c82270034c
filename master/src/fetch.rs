//! How a master that does not reign takes over a log that is better than its own.

use common::client::Client;
use common::entries::{Draft, Epoch, Seq};
use common::store::{StoreError, TRANSACTION_BYTES};
use common::wire::{Numbered, Replicate, Standing};
use log::{info, warn};

use crate::state::Replication;

/// Entries that are to follow the log, in the order and the epochs they were appended in.
type Recovered = Vec<(Epoch, Vec<Draft>)>;

/// A log that is better than the own one: the own one up to this entry, and then these.
pub(crate) struct Better {
    keep: Seq,
    entries: Recovered,
}

/// Why a reign does not begin now.
pub(crate) enum Delay {
    /// For this reason; the master waits and looks again.
    Wait(String),
    /// The own disk has failed.
    DiskFailed(StoreError),
}

impl From<StoreError> for Delay {
    fn from(error: StoreError) -> Delay {
        Delay::DiskFailed(error)
    }
}

impl Replication {
    /// Fetches what the own log lacks of this one, up to the entry `until`. Epochs grow along a log,
    /// so a copy that follows a later epoch than `most` meanwhile is left alone.
    pub(crate) fn fetch(
        &self,
        client: &Client,
        from: &Standing,
        until: Seq,
        most: Epoch,
    ) -> Result<Better, String> {
        let mut keep = self.find_common(client, from)?;
        let mut last = (keep, self.lock().log.epoch_of(keep));
        let mut entries = Recovered::new();
        while last.0 < until {
            let mut batch = batch(client, last.0.next())?;
            if batch.epoch > most {
                return Err(format!("it follows epoch {} now", batch.epoch));
            }
            let wanted = usize::try_from(until.0 - last.0.0).unwrap_or(usize::MAX);
            batch.drafts.truncate(wanted);
            if batch.prev_epoch != last.1 {
                return Err(format!("it has another entry at {} now", last.0));
            }
            last = (batch.last(), batch.epoch);
            if entries.is_empty() {
                // Perhaps the own log has some of these too.
                let log = &self.lock().log;
                let differs = log.find_difference(batch.epoch, batch.first, &batch.drafts);
                let held = log.last_seq().min(batch.last());
                keep = differs.map_or(held, Seq::previous);
                let known = usize::try_from(keep.next().0 - batch.first.0).unwrap_or(usize::MAX);
                batch.drafts.drain(..known.min(batch.drafts.len()));
            }
            if !batch.drafts.is_empty() {
                entries.push((batch.epoch, batch.drafts));
            }
        }
        let url = client.base();
        info!("fetched entries from={url} first_seq={} last_seq={}", keep.next(), last.0);
        Ok(Better { keep, entries })
    }

    /// A place up to which both logs are the same; not always the last one.
    fn find_common(&self, client: &Client, from: &Standing) -> Result<Seq, String> {
        let (mut seq, mut step) = (self.lock().log.last_seq(), 1);
        seq = seq.min(from.position.last_seq);
        while seq > Seq::NONE {
            let theirs = if seq == from.position.last_seq {
                from.position.last_epoch
            } else {
                batch(client, seq.next())?.prev_epoch
            };
            // Epoch 0 names no entry.
            if theirs == self.lock().log.epoch_of(seq) && theirs > Epoch::default() {
                break;
            }
            seq = Seq(seq.0.saturating_sub(step));
            step *= 2;
        }
        Ok(seq)
    }

    /// Takes over a better log, which a reign of this epoch has or begins with: in memory, and on
    /// the disk if there is one.
    ///
    /// # Errors
    /// When it contradicts entries that a majority holds: an operator has begun a reign without them.
    pub(crate) fn adopt(&self, better: Better, epoch: Epoch) -> Result<(), Delay> {
        let mut state = self.lock();
        let (first, last) = (better.keep.next(), state.log.last_seq());
        let committed = state.facts.committed;
        if first <= committed {
            return Err(Delay::Wait(format!(
                "its log has committed entries up to {committed}, the better one not"
            )));
        }
        if first <= last {
            if let Some(store) = &self.store {
                store.set_aside(&state.log.batch(first, usize::MAX), epoch)?;
            }
            warn!(
                "dropped entries that the better log does not have first_seq={first} last_seq={last}"
            );
            state.dropped += last.next().0 - first.0;
            state.log.drop_from(first);
        }
        for (epoch, drafts) in &better.entries {
            drafts.iter().for_each(|draft| _ = state.log.append(*epoch, draft));
        }
        drop(state);
        let Some(store) = &self.store else { return Ok(()) };
        // Nobody else changes the log meanwhile.
        let batch_from = |first| {
            let state = self.lock();
            (state.log.batch(first, TRANSACTION_BYTES), state.facts)
        };
        let (mut batch, facts) = batch_from(first);
        loop {
            store.write(&batch, &facts)?;
            let next = batch.last().next();
            batch = batch_from(next).0;
            if batch.last() < next {
                return Ok(());
            }
        }
    }
}

/// Some entries from this one on, in the form of a call.
fn batch(client: &Client, first: Seq) -> Result<Numbered, String> {
    let answer = client.get(&format!("/entries?from={first}"));
    let answer = answer.map_err(|error| error.to_string())?;
    match serde_json::from_slice(&answer.body) {
        Ok(Replicate::Numbered(batch)) if batch.first == first && !batch.drafts.is_empty() => {
            Ok(batch)
        }
        Ok(_) => Err(format!("sent other entries than those from {first} on")),
        Err(_) => Err(format!("answered {} to GET /entries", answer.status)),
    }
}
