//! The takeover of the replicated log as a model: every state that a small cluster can reach is
//! visited, and in none of them a committed entry is lost. The tests stand in `../model.rs`.
//!
//! # The protocol in a page
//!
//! There are n **secondaries**, and **masters** that come and go. A majority of a master and its
//! secondaries is q = ⌊(n + 1) / 2⌋ + 1. A **reign** is one master's rule: an epoch, and the identity
//! of the master. Every message of a master names its reign.
//!
//! 1. **Commit.** An entry is committed when the reigning master has it on its disk and q − 1
//!    secondaries have acknowledged it in that reign ([`Begun::countable`](master::Begun::countable)).
//! 2. **Promise.** A master that wants to reign takes an epoch greater than all that it hears of and
//!    asks for promises. A secondary that promises serves no lower reign from then on, and answers
//!    where it stands ([`Secondary::promise`](secondary::Secondary::promise)).
//! 3. **Takeover.** n − q + 2 promises are enough to begin. Any q − 1 secondaries that committed an
//!    entry have one in common with them: so the new master sees every committed entry, and no former
//!    master can commit another one ([`may_begin`](master::may_begin)).
//! 4. **Own directory.** A master that returns to its directory needs only q − 1 promises, of
//!    secondaries that followed this master last and have promised to nobody else since. All that it
//!    ever acknowledged is on its disk, and a takeover in between would have left its mark.
//! 5. **Log.** The reign begins with the log of the best **rank** among the promised and the own one:
//!    (log_epoch, last place). `log_epoch` is the last reign whose log a copy is known to be a
//!    beginning of. The epoch of the last *entry* says nothing: a reign may commit without appending
//!    ([`best_logs`](master::best_logs)).
//! 6. **L**, the `reign_start`, is the length of the log that a reign begins with. A copy that is
//!    verified up to L has *reached* the reign: it drops what it has beyond that, and raises its
//!    `log_epoch`. Before that its acknowledgements do not count
//!    ([`Secondary::call`](secondary::Secondary::call)).
//! 7. **Healing.** A copy drops entries that contradict the reigning master's log, unless they were
//!    told to be committed.
//!
//! # Where to read
//!
//! | module | content |
//! |---|---|
//! | [`log`] | reigns, entries, logs, ranks |
//! | [`secondary`] | promise, heartbeat, call: the whole of a secondary |
//! | [`master`] | when a reign begins, over which log, and what is committed |
//! | [`faults`] | mistakes that are put in on purpose |
//! | [`setup`] | the configurations: nodes, disks, and how far the model looks |
//! | [`cluster`] | the cluster and its network as one state, and its steps |
//! | [`steps`] | which steps are possible in a state |
//! | [`harm`], [`properties`] | what must never happen, and what must happen somewhere |
//! | [`explore`](mod@explore), [`tell`] | visit all states; tell a run in words |
//!
//! # What is left out, and why nothing is lost by it
//!
//! * **Calls and heartbeats on their way.** A reign's log only grows, and any piece of it may have
//!   been sent. So any piece may arrive at any time, once, often or never: loss, delay, repeats and
//!   reordering need no list of messages.
//! * **Acknowledgements on their way.** A master counts whichever have arrived. A greater one says
//!   more than a lower one, so the greatest of each secondary is kept, and counting may happen at any
//!   later time, or never.
//! * **Requests for promises** stay on their way, even if the master asks for another reign by now.
//!   An answer is either received at once or lost: the master looks at its answers only when it
//!   begins, and begins with any set of answers that suffices.
//! * **A secondary's disk.** A call that waits for the disk is a call that is still on its way,
//!   because the promise is checked again before it is acknowledged, and a promise is answered only
//!   when all that was admitted before is stored. One step does it all.
//!   [`Setup::slow_disk`](setup::Setup::slow_disk) takes the steps apart.
//! * **A master's disk.** How much of the log was stored is decided when the master crashes: any
//!   length, but at least what it has counted.
//! * **Standing by**, a secondary that refuses a promise because it hears a living master, silence,
//!   timeouts, pauses: each of them only keeps back a step, and the model may keep back any step.
//! * **Messages.** Who appended an entry and where tells it from all others.
//! * **Names.** Secondaries are alike, so states that differ only in their order are one state.
//!
//! An epoch is drawn one greater than some epoch that was heard; masters may collide.

pub mod cluster;
pub mod explore;
pub mod faults;
pub mod harm;
pub mod log;
pub mod master;
pub mod properties;
pub mod secondary;
pub mod setup;
pub mod steps;
pub mod tell;
mod tidy;
