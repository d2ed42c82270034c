//! Micro-benchmarks of the log: append, accept, encode a call, read a range.

use common::entries::{Draft, Epoch, Log, Message, Seq};
use common::reading::messages_object;
use common::reign::{MasterId, Reign};
use common::wire::{Caller, replicate_body};
use divan::{Bencher, black_box, counter::BytesCount, counter::ItemsCount};

const EPOCH: Epoch = Epoch(1);
const ENTRIES: u64 = 100_000;

fn main() {
    divan::main();
}

fn draft() -> Draft {
    Message::new(&"x".repeat(100)).into()
}

fn filled() -> Log {
    let (mut log, draft) = (Log::new(0), draft());
    (0..ENTRIES).for_each(|_| _ = log.append(EPOCH, &draft));
    log
}

/// One entry of 100 bytes at the end of a log that nobody reads.
#[divan::bench]
fn append(bencher: Bencher) {
    let (mut log, draft) = (filled(), draft());
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| log.append(EPOCH, black_box(&draft)));
}

/// The same while a reader holds what was there before: the last segment is copied.
#[divan::bench]
fn append_beside_a_reader(bencher: Bencher) {
    let (mut log, draft) = (filled(), draft());
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        let held = log.chunks(Seq(1)..=log.last_seq());
        log.append(EPOCH, black_box(&draft));
        held
    });
}

/// A message from JSON, as it arrives.
#[divan::bench]
fn message_from_json(bencher: Bencher) {
    let json = draft().message.json().to_string();
    bencher
        .counter(BytesCount::of_str(&json))
        .bench(|| serde_json::from_str::<Message>(black_box(&json)));
}

/// The body of a call that carries so many entries.
#[divan::bench(args = [1_u64, 16, 1000])]
fn encode_call(bencher: Bencher, entries: u64) {
    let log = filled();
    let acked = Seq(ENTRIES - entries);
    let reign = Reign { epoch: EPOCH, master: MasterId::draw() };
    let caller = Caller { reign, reign_start: Seq(0), acked, committed: acked };
    bencher
        .counter(ItemsCount::new(entries))
        .bench(|| replicate_body(&log, caller, acked.next(), log.last_seq()));
}

/// What a secondary does with as many.
#[divan::bench(args = [1_u64, 16, 1000])]
fn accept(bencher: Bencher, entries: u64) {
    let drafts: Vec<Draft> = (0..entries).map(|_| draft()).collect();
    let mut log = Log::new(0);
    bencher
        .counter(ItemsCount::new(entries))
        .bench_local(|| log.accept(EPOCH, log.last_seq().next(), black_box(&drafts)));
}

/// The body of `GET /messages` with 100 000 entries, up to the point where it is written.
#[divan::bench]
fn read_all(bencher: Bencher) {
    let log = filled();
    bencher.bench(|| messages_object(&log, Seq(1), log.last_seq(), b"}"));
}
