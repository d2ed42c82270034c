//! How a master that does not reign takes over a log that is better than its own, piece by piece.
//!
//! A piece is one answer to `GET /entries`. It is in the own log, and on the disk if there is one,
//! before the next one is asked for. So a long log takes little memory beside itself, and holds the
//! lock for short times; what was fetched remains when the secondary is lost. Nothing is taken
//! beyond `MAX_LOG_BYTES`.
//!
//! # Why a part of the better log does no harm
//!
//! Between two pieces the own log is a beginning of the better one, and still has the `log_epoch`
//! that it had. A log of this rank must have what was committed before the reign of that epoch, and
//! what was committed in it, up to the log's end. The own log has the former, because both logs
//! have it: it is not dropped. It has the latter, because the better log, which has followed the
//! same reign or a later one, has it. A master that stands by takes over what is committed only, and
//! every later log has that. So when the better log is lost, what is committed beyond the end of the
//! own log is in another log, and that one has a greater rank. The model in `master/tests/model`
//! interrupts a master between any two pieces.

use std::sync::MutexGuard;
use std::time::Instant;

use common::client::Client;
use common::entries::{Epoch, Seq};
use common::epochs;
use common::store::StoreError;
use common::wire::{Numbered, Replicate, Standing};
use log::{info, warn};

use crate::state::{Replication, State};

/// A log that is better than the own one.
pub(crate) struct Better<'a> {
    /// Calls the secondary that has it.
    pub(crate) client: Client,
    /// Where that one stands.
    pub(crate) standing: &'a Standing,
    /// The last entry to take over.
    pub(crate) until: Seq,
    /// The epoch of the reign that has this log, or begins with it.
    pub(crate) epoch: Epoch,
}

/// Why a reign does not begin now.
pub(crate) enum Delay {
    /// For this reason; the master waits and looks again.
    Wait(String),
    /// The better log cannot be fetched, for this reason.
    Unfetched(String),
    /// The own disk has failed.
    DiskFailed(StoreError),
}

impl From<StoreError> for Delay {
    fn from(error: StoreError) -> Delay {
        Delay::DiskFailed(error)
    }
}

impl Better<'_> {
    /// The piece that begins with this entry. Epochs grow along a log, so a secondary that follows a
    /// later reign meanwhile is left alone.
    fn piece(&self, first: Seq) -> Result<Numbered, Delay> {
        let answer = self.client.get(&format!("/entries?from={first}"));
        let answer = answer.map_err(|error| self.unfetched(&error))?;
        let mut piece = match serde_json::from_slice(&answer.body) {
            Ok(Replicate::Numbered(piece)) if piece.first == first && !piece.drafts.is_empty() => {
                piece
            }
            Ok(_) => {
                let error = format!("sent other entries than those from {first} on");
                return Err(self.unfetched(&error));
            }
            Err(_) => {
                let error = format!("answered {} to GET /entries", answer.status);
                return Err(self.unfetched(&error));
            }
        };
        epochs::check(piece.greatest_epoch(), self.client.base())
            .map_err(|error| self.unfetched(&error))?;
        if piece.epoch > self.epoch {
            return Err(self.unfetched(&format!("it follows epoch {} now", piece.epoch)));
        }
        let wanted = usize::try_from(self.until.next().0 - first.0).unwrap_or(usize::MAX);
        piece.drafts.truncate(wanted);
        Ok(piece)
    }

    /// The piece that continues this one, if there is more to take over.
    fn piece_after(&self, piece: &Numbered) -> Result<Option<Numbered>, Delay> {
        let last = piece.last();
        if last >= self.until {
            return Ok(None);
        }
        let next = self.piece(last.next())?;
        if next.prev_epoch != piece.epoch {
            return Err(self.unfetched(&format!("it has another entry at {last} now")));
        }
        Ok(Some(next))
    }

    fn unfetched(&self, error: &str) -> Delay {
        let url = self.client.base();
        Delay::Unfetched(format!("the better log of {url} cannot be fetched: {error}"))
    }
}

impl Replication {
    /// Makes this log the own one. After `deadline` the next piece is left to the next look.
    pub(crate) fn take_over(
        &self,
        better: &Better<'_>,
        deadline: Option<Instant>,
    ) -> Result<(), Delay> {
        let mut next = self.first_piece(better)?;
        while let Some(piece) = next {
            let has_grown = self.adopt(&piece, better)?;
            if has_grown && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(());
            }
            next = better.piece_after(&piece)?;
        }
        let (mut state, rest) = (self.lock(), better.until.next());
        if rest <= state.log.last_seq() {
            self.drop_from(&mut state, rest, better.epoch)?;
            self.save(state, rest)?;
        }
        Ok(())
    }

    /// The piece that continues a place up to which both logs are the same, if anything does. That
    /// place is not always the last one.
    fn first_piece(&self, better: &Better<'_>) -> Result<Option<Numbered>, Delay> {
        let theirs = &better.standing.position;
        let (mut seq, mut step) = (self.lock().log.last_seq().min(theirs.last_seq), 1);
        loop {
            let is_end = seq == theirs.last_seq;
            let piece = if is_end { None } else { Some(better.piece(seq.next())?) };
            let epoch = piece.as_ref().map_or(theirs.last_epoch, |piece| piece.prev_epoch);
            // Epoch 0 names no entry.
            let is_same = epoch > Epoch::default() && epoch == self.lock().log.epoch_of(seq);
            if is_same || seq == Seq::NONE {
                return Ok(piece);
            }
            seq = Seq(seq.0.saturating_sub(step));
            step *= 2;
        }
    }

    /// Takes over what the own log lacks of this piece, in the place of what it has there. Returns
    /// whether that is anything.
    fn adopt(&self, piece: &Numbered, better: &Better<'_>) -> Result<bool, Delay> {
        let (mut state, url) = (self.lock(), better.client.base());
        let (log, held) = (&state.log, state.log.last_seq());
        let differs = log.find_difference(piece.epoch, piece.first, &piece.drafts);
        let first = differs.unwrap_or(held.min(piece.last()).next());
        let known = usize::try_from(first.0 - piece.first.0).unwrap_or(usize::MAX);
        let new = piece.drafts.get(known..).unwrap_or_default();
        if new.is_empty() {
            return Ok(false);
        }
        let more: u64 = new.iter().map(|draft| draft.message.bytes_in_log()).sum();
        if log.bytes() - log.bytes_from(first) + more > self.max_log_bytes() {
            return Err(Delay::Wait(format!("the log of {url} is larger than MAX_LOG_BYTES")));
        }
        self.drop_from(&mut state, first, better.epoch)?;
        new.iter().for_each(|draft| _ = state.log.append(piece.epoch, draft));
        self.save(state, first)?;
        info!("fetched entries from={url} first_seq={first} last_seq={}", piece.last());
        Ok(true)
    }

    /// Drops the entries from this one on, which the better log does not have. They are set aside.
    ///
    /// # Errors
    /// When a majority holds one of them: an operator has begun a reign without them.
    fn drop_from(&self, state: &mut State, first: Seq, epoch: Epoch) -> Result<(), Delay> {
        let (last, committed) = (state.log.last_seq(), state.facts.committed);
        if first > last {
            return Ok(());
        }
        if first <= committed {
            return Err(Delay::Wait(format!(
                "its log has committed entries up to {committed}, the better one not"
            )));
        }
        if let Some(store) = &self.store {
            store.set_aside(&state.log.batch(first, usize::MAX), epoch)?;
        }
        warn!(
            "dropped entries that the better log does not have first_seq={first} last_seq={last}"
        );
        state.dropped += last.next().0 - first.0;
        state.log.drop_from(first);
        Ok(())
    }

    /// Writes the log from this entry on to the disk. Nobody else changes the log meanwhile.
    fn save(&self, state: MutexGuard<'_, State>, first: Seq) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        let (batch, facts) = (state.log.batch(first, usize::MAX), state.facts);
        drop(state);
        store.write(&batch, &facts)
    }
}
