//! Golden scripts: what happens to a line, event by event, and what is on its way after each.
//!
//! A script is read like a log: `append 3` appends three entries; `claim 8` is a request that needs
//! entry 8; `ok 1 5` settles the oldest call with an ack of the instance 1 that holds 5 entries;
//! `gap`, `stale` and `diverged` are the refusals; `fail` is no answer; `beat` is what a
//! heartbeat's answer says; `heard` and `silence` are whether there was one; `retry 8` is a claim
//! that respects the pause after a failure; `original 5` is an original's ack of place 5, `count 5`
//! the number of entries in its answer to a heartbeat, or to one that was sent earlier, at `ask`;
//! `counts 5` is its answer to a call that looks first, and `unsent` none; `wait 5` lets 5 ms go by; `save?` asks when the
//! master's disk is due, and `save 100` writes a transaction of about 100 bytes. The right column
//! is what came of it.

use super::*;
use common::entries::Message;
use common::reign::MasterId;

const REIGN: Epoch = Epoch(7);
const MASTER: Reign = Reign { epoch: REIGN, master: MasterId(1) };

struct Script {
    lines: Lines,
    log: Log,
    now: Instant,
    calls: Vec<Call>,
    asked: Option<u64>,
}

impl Script {
    fn new() -> Script {
        Script::of(1, false)
    }

    fn of(secondaries: usize, has_disk: bool) -> Script {
        let thresholds = Thresholds { suspected_after: 2, unhealthy_after: 4 };
        let now = Instant::now();
        let urls = ["http://a".to_string(), "http://b".to_string()];
        let on_disk = has_disk.then_some(Seq::NONE);
        let mut lines = Lines::new(&urls[..secondaries], thresholds, on_disk, now);
        let (log, nothing) = (Log::new(9), [Found::Nothing, Found::Nothing]);
        lines.begin_reign(MASTER, &log, on_disk, &nothing[..secondaries], now);
        Script { lines, log, now, calls: Vec::new(), asked: None }
    }

    fn position(&self, instance: u64, last: u64) -> Position {
        let last_epoch = if last == 0 { Epoch(0) } else { REIGN };
        Position {
            last_seq: Seq(last),
            last_epoch,
            epoch: REIGN,
            log_epoch: Some(REIGN),
            instance: instance.to_string(),
        }
    }

    fn settle(&mut self, verdict: Verdict) -> String {
        let call = self.calls.remove(0);
        match self.lines.settle(&call, verdict, &self.log, self.now, 0) {
            None => {
                // One client waits for each of the entries.
                let (count, took) = (call.last.0 + 1 - call.first.0, self.now - call.since);
                let awaited = if call.is_whole { count as usize } else { 0 };
                self.lines.batch_over(awaited, took, self.now);
                self.acked()
            }
            Some(failure) => {
                format!("failed {}..{}: {}", failure.first, failure.last, failure.detail)
            }
        }
    }

    fn acked(&self) -> String {
        format!("acked {}", self.lines.secondaries()[0].acked_seq())
    }

    fn claim(&mut self, seq: u64, urgent: bool) -> Option<String> {
        let call = self.lines.claim(0, Seq(seq), urgent, &self.log, self.now)?;
        let looks = if call.looks_first { ", looks first" } else { "" };
        let claimed = format!("call {}..{}{looks}", call.first, call.last);
        self.calls.push(call);
        Some(claimed)
    }

    fn step(&mut self, step: &str) -> String {
        let words: Vec<&str> = step.split(' ').collect();
        let number = |index: usize| words[index].parse::<u64>().unwrap();
        match words[0] {
            "append" => {
                for _ in 0..number(1) {
                    let seq = self.log.append(REIGN, &Message::new("m").into());
                    self.lines.appended(seq, self.now);
                }
                format!("last {}", self.log.last_seq())
            }
            "claim" => match self.claim(number(1), true) {
                None => "not now".into(),
                Some(call) => call,
            },
            "retry" => self.claim(number(1), false).unwrap_or_else(|| "not now".into()),
            "silence" => format!("{:?}", self.lines.beat(0, false)),
            "heard" => format!("{:?}", self.lines.beat(0, true)),
            "ok" => self.settle(Verdict::Acked(self.position(number(1), number(2)))),
            "gap" => self.settle(Verdict::Gap(self.position(number(1), number(2)))),
            "original" => {
                let place = words.get(1).map(|_| Seq(number(1)));
                self.settle(Verdict::AckedByOriginal(place))
            }
            "counts" => self.settle(Verdict::Counted(Seq(number(1)))),
            "unsent" => self.settle(Verdict::Unsent("no answer".into())),
            "ask" => {
                self.asked = Some(self.lines.next_number());
                "asked".into()
            }
            "count" => {
                let asked = self.asked.take().unwrap_or_else(|| self.lines.next_number());
                match self.lines.count(0, asked, Seq(number(1)), self.now) {
                    Ok(()) => self.acked(),
                    Err(error) => error,
                }
            }
            "diverged?" => self.lines.secondaries()[0].diverged().to_string(),
            "fail" => self.settle(Verdict::Failed("no answer".into())),
            "diverged" => self.settle(Verdict::Diverged("other entry".into())),
            "stale" => {
                let position = Position { epoch: Epoch(9), ..self.position(1, 0) };
                self.settle(Verdict::Stale(position))
            }
            "beat" => {
                let (asked, position) =
                    (self.lines.next_number(), self.position(number(1), number(2)));
                match self.lines.observe(0, asked, &position, &self.log, self.now) {
                    Ok(()) => self.acked(),
                    Err(error) => error,
                }
            }
            "save?" => match self.lines.due(self.lines.disk_id(), false) {
                When::Blocked => "nothing".into(),
                When::At(at) if at > self.now => format!("in {:?}", at - self.now),
                When::Now | When::At(_) => "now".into(),
            },
            "save" => match self.lines.claim_disk(&self.log, number(1) as usize, self.now) {
                None => "not now".into(),
                Some(batch) => {
                    self.lines.settle_disk(batch.last());
                    format!("stored {}", self.lines.stored_seq())
                }
            },
            "newest_first" => {
                self.calls.reverse();
                "swapped".into()
            }
            "wait" => {
                self.now += Duration::from_millis(number(1));
                "later".into()
            }
            other => panic!("{other} is not a step"),
        }
    }
}

fn play(script: &str) {
    play_in(Script::new(), script);
}

/// Plays it while a batch of eight is out, whose clients came back in 1 ms after the one before:
/// it pays to wait for them.
fn play_on_disk(script: &str) {
    play_on_disk_in(Script::of(1, true), script);
}

fn play_on_disk_in(world: Script, script: &str) -> Script {
    let batches = "beat 1 0 => acked 0
         append 8 => last 8
         claim 8  => call 1..8
         wait 3   => later
         ok 1 8   => acked 8
         save 99   => stored 8
         wait 1   => later
         append 8 => last 16
         claim 16 => call 9..16
         wait 3   => later";
    play_in(world, &format!("{batches}\n{script}"))
}

fn play_in(mut world: Script, script: &str) -> Script {
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (step, expected) = line.split_once("=>").expect("a step and what comes of it");
        let came = world.step(step.trim());
        assert_eq!(came, expected.trim(), "at {line:?} in:\n{script}");
    }
    world
}

#[test]
fn the_example_in_the_docs_is_true() {
    let mut world = Script::new();
    world.step("append 3");
    let steps = [
        ("beat 1 0", (0, 1)),
        ("claim 3", (0, 4)),
        ("append 2", (0, 4)),
        ("wait 5", (0, 4)),
        ("claim 5", (0, 6)),
        ("ok 1 3", (3, 6)),
        ("fail", (3, 4)),
        ("claim 5", (3, 6)),
        ("ok 1 5", (5, 6)),
        ("beat 2 0", (0, 1)),
    ];
    for (step, cursors) in steps {
        world.step(step);
        let line = &world.lines.secondaries()[0];
        assert_eq!((line.acked_seq().0, line.next_seq().0), cursors, "after {step}");
    }
}

/// Numbers below a bound, the same ones each time.
fn dice() -> impl FnMut(u64) -> u64 {
    let mut seed = 1_u64;
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    }
}

#[test]
fn whatever_happens_the_cursors_stay_in_order() {
    // Goal: the line's own assertions hold, and it gets level once its secondary answers well.
    let mut dice = dice();
    for _ in 0..300 {
        let mut world = Script::new();
        let (mut instance, mut held) = (1, 0);
        for _ in 0..60 {
            let last = world.log.last_seq().0;
            match dice(9) {
                0 => (instance, held) = (instance + 1, 0),
                1 => _ = world.step(&format!("beat {instance} {held}")),
                2 | 3 => _ = world.step("append 2"),
                4 => _ = world.step(&format!("wait {}", dice(20))),
                5 | 6 => _ = world.step(&format!("claim {last}")),
                _ if world.calls.is_empty() => {}
                _ => {
                    let call = dice(world.calls.len() as u64) as usize;
                    world.calls.swap(0, call);
                    let call = &world.calls[0];
                    let arrives = call.first.0 <= held + 1;
                    held = if arrives { held.max(call.last.0) } else { held };
                    let answer = if arrives { "ok" } else { "gap" };
                    let answer = format!("{answer} {instance} {held}");
                    world.step(if dice(3) == 0 { "fail" } else { &answer });
                }
            }
        }
        while !world.calls.is_empty() {
            world.step("fail");
        }
        world.step("append 1");
        world.step(&format!("beat {instance} {held}"));
        let last = world.log.last_seq().0;
        assert_ne!(world.step(&format!("claim {last}")), "not now");
        assert_eq!(world.step(&format!("ok {instance} {last}")), format!("acked {last}"));
    }
}

#[test]
fn entries_that_arrive_meanwhile_ride_on_the_next_call() {
    play(
        "append 1 => last 1
         claim 1  => call 1..1
         append 4 => last 5
         claim 5  => not now
         ok 1 1   => acked 1
         claim 5  => call 2..5
         claim 5  => not now
         ok 1 5   => acked 5
         claim 5  => not now",
    );
}

#[test]
fn a_slow_secondary_gets_sparser_calls() {
    play(
        "beat 1 0 => acked 0
         append 1 => last 1
         claim 1  => call 1..1
         append 1 => last 2
         wait 4   => later
         claim 2  => not now
         wait 1   => later
         claim 2  => call 2..2
         append 1 => last 3
         wait 9   => later
         claim 3  => not now
         wait 1   => later
         claim 3  => call 3..3
         newest_first => swapped
         ok 1 3   => acked 3
         ok 1 3   => acked 3
         ok 1 3   => acked 3",
    );
}

#[test]
fn an_empty_secondary_is_sent_everything_again() {
    play(
        "append 3 => last 3
         beat 1 0 => acked 0
         claim 3  => call 1..3
         ok 1 3   => acked 3
         append 1 => last 4
         claim 4  => call 4..4
         gap 2 0  => acked 0
         claim 4  => call 1..4
         ok 2 4   => acked 4",
    );
}

#[test]
fn late_answers_of_a_former_process_are_ignored() {
    play(
        "beat 1 0 => acked 0
         append 1 => last 1
         claim 1  => call 1..1
         beat 2 0 => acked 0
         ok 1 1   => acked 0
         claim 1  => call 1..1
         ok 2 1   => acked 1",
    );
}

#[test]
fn a_late_gap_takes_nothing_back() {
    play(
        "beat 1 0 => acked 0
         append 1 => last 1
         claim 1  => call 1..1
         append 1 => last 2
         wait 5   => later
         claim 2  => call 2..2
         ok 1 2   => acked 2
         gap 1 0  => acked 2",
    );
}

#[test]
fn a_failed_call_is_sent_again() {
    play(
        "beat 1 0 => acked 0
         append 1 => last 1
         claim 1  => call 1..1
         append 1 => last 2
         wait 5   => later
         claim 2  => call 2..2
         fail     => failed 1..1: no answer
         gap 1 0  => acked 0
         claim 2  => call 1..2
         ok 1 2   => acked 2",
    );
}

#[test]
fn a_lost_call_is_sent_again_at_once() {
    play(
        "beat 1 0 => acked 0
         append 1 => last 1
         claim 1  => call 1..1
         append 1 => last 2
         wait 5   => later
         claim 2  => call 2..2
         newest_first => swapped
         gap 1 0  => acked 0
         claim 2  => call 1..2
         newest_first => swapped
         ok 1 2   => acked 2
         fail     => failed 1..1: no answer
         claim 2  => not now",
    );
}

#[test]
fn an_original_gets_one_entry_at_a_time() {
    play(
        "append 3 => last 3
         claim 3  => call 1..1
         wait 99  => later
         claim 3  => not now
         original => acked 1
         claim 3  => call 2..2
         original => acked 2",
    );
}

/// An original that holds one entry, which it has counted.
const ONE_ENTRY: &str = "count 0 => acked 0
         append 1   => last 1
         claim 1    => call 1..1
         original 1 => acked 1
         count 1    => acked 1";

fn play_original(script: &str) {
    play(&format!("{ONE_ENTRY}\n{script}"));
}

#[test]
fn an_original_that_forgets_gets_everything_again() {
    play_original(
        "append 1   => last 2
         claim 2    => call 2..2
         original 2 => acked 2
         count 0    => acked 0
         claim 2    => call 1..1
         original 1 => acked 1
         claim 2    => call 2..2
         original 2 => acked 2
         diverged?  => false",
    );
}

#[test]
fn a_slow_original_is_not_sent_an_entry_twice() {
    play_original(
        "append 2  => last 3
         claim 3   => call 2..2
         wait 100  => later
         fail      => failed 2..2: no answer
         count 1   => acked 1
         wait 199  => later
         claim 3   => not now
         count 2   => acked 2
         claim 3   => call 3..3
         wait 100  => later
         fail      => failed 3..3: no answer
         count 2   => acked 2
         wait 399  => later
         claim 3   => not now
         wait 1    => later
         claim 3   => call 3..3, looks first
         counts 3  => acked 3
         diverged? => false",
    );
}

#[test]
fn an_original_that_was_down_is_counted_first() {
    play_original(
        "append 1 => last 2
         claim 2  => call 2..2
         fail     => failed 2..2: no answer
         claim 2  => call 2..2, looks first
         unsent   => failed 2..2: no answer
         claim 2  => call 2..2, looks first
         counts 0 => acked 0
         claim 2  => call 1..1
         fail     => failed 1..1: no answer
         claim 2  => call 1..1, looks first
         original => acked 1
         claim 2  => call 2..2",
    );
}

#[test]
fn an_entry_that_arrived_twice_diverges() {
    play_original(
        "append 2  => last 3
         claim 3   => call 2..2
         fail      => failed 2..2: no answer
         count 3   => counts 3 entries, and has acknowledged 1
         diverged? => true
         claim 3   => call 3..3
         original  => acked 3
         count 4   => acked 3
         count 0   => acked 0
         diverged? => false",
    );
}

/// Makes a call, if one is due, to an original that holds these entries.
fn call_original(world: &mut Script, held: &mut Vec<u64>, answers: bool) -> Option<u64> {
    world.claim(world.log.last_seq().0, true)?;
    let (call, count) = (&world.calls[0], Seq(held.len() as u64));
    let seq = call.first.0;
    if call.looks_first && call.held != Some(count) {
        world.step(&format!("counts {count}"));
        None
    } else if answers {
        held.push(seq);
        world.step(&format!("original {}", held.len()));
        None
    } else {
        world.step("wait 100");
        world.step("fail");
        Some(seq)
    }
}

#[test]
fn an_original_is_a_copy_whatever_fails() {
    // Goal: entries arrive late or never, and the original is restarted: in the end it holds every
    // entry once, in order.
    let mut dice = dice();
    for round in 0..300 {
        let (mut world, mut held, mut late) = (Script::new(), Vec::new(), None);
        world.step("count 0");
        for _ in 0..60 {
            match dice(8) {
                0 | 1 => _ = world.step("append 1"),
                2 => _ = world.step(&format!("count {}", held.len())),
                3 => {
                    world.lines.note_error(0, "restarted".into());
                    held.clear();
                    late = None;
                    world.step("count 0");
                }
                4 => {
                    held.extend(late.take());
                    world.step(&format!("wait {}", dice(300)));
                }
                _ => {
                    let unanswered = call_original(&mut world, &mut held, dice(3) > 0);
                    late = late.or(unanswered.filter(|_| dice(2) == 0));
                }
            }
        }
        held.extend(late);
        world.step("append 1");
        let last = world.log.last_seq().0;
        for _ in 0..2 * last {
            // Longer than any doubt.
            world.step("wait 2000");
            call_original(&mut world, &mut held, true);
        }
        assert_eq!(held, (1..=last).collect::<Vec<u64>>(), "round {round}");
        let line = &world.lines.secondaries()[0];
        assert_eq!((line.acked_seq().0, line.diverged()), (last, false), "round {round}");
    }
}

#[test]
fn entries_of_others_are_not_acknowledged() {
    play_original(
        "append 1  => last 2
         count 2   => counts 2 entries, and has acknowledged 1
         diverged? => true
         claim 2   => call 2..2",
    );
}

#[test]
fn a_count_that_was_asked_for_too_early_says_nothing() {
    play_original(
        "ask        => asked
         append 1   => last 2
         claim 2    => call 2..2
         count 0    => acked 1
         ask        => asked
         original 2 => acked 2
         count 1    => acked 2
         diverged?  => false",
    );
}

#[test]
fn a_count_that_never_agrees_is_not_believed() {
    play(
        "count 0   => acked 0
         append 1  => last 1
         claim 1   => call 1..1
         original  => acked 1
         count 0   => counts 0 entries, and has acknowledged 1
         claim 1   => not now
         count 0   => acked 1
         diverged? => true",
    );
}

#[test]
fn an_ack_at_another_place_diverges() {
    // It was restarted between two heartbeats, and the new entry is its first one.
    play_original(
        "append 1   => last 2
         claim 2    => call 2..2
         original 1 => acked 2
         diverged?  => true
         count 1    => acked 2
         count 0    => acked 0
         diverged?  => false",
    );
}

#[test]
fn an_original_found_at_the_start_holds_the_beginning() {
    // How many entries it counts, what is acknowledged, and whether it holds something else.
    for (count, acked, diverged) in
        [(Some(0), 0, false), (Some(2), 2, false), (Some(9), 5, true), (None, 5, false)]
    {
        let world = over_five(Found::Original(count.map(Seq)));
        let line = &world.lines.secondaries()[0];
        assert_eq!((line.acked_seq(), line.next_seq()), (Seq(acked), Seq(acked + 1)), "{count:?}");
        assert_eq!(line.diverged(), diverged, "{count:?}");
    }
}

#[test]
fn answers_that_contradict_themselves_are_failures() {
    play(
        "append 2 => last 2
         beat 1 0 => acked 0
         claim 2  => call 1..2
         gap 1 0  => failed 1..2: refused entry 1 and holds 0
         claim 2  => call 1..2
         gap 2 5  => failed 1..2: holds 5 entries, the master 2
         claim 2  => call 1..2
         ok 2 1   => failed 1..2: acknowledged entry 2 and holds 1
         claim 2  => call 1..2
         ok 2 9   => failed 1..2: holds 9 entries, the master 2
         claim 2  => call 1..2
         diverged => failed 1..2: diverged: other entry
         claim 2  => call 1..2
         ok 2 2   => acked 2",
    );
}

/// A reign that began over five entries of epochs 3, 3, 5, 5, 5.
fn over_five(found: Found) -> Script {
    let mut script = Script::new();
    let thresholds = Thresholds { suspected_after: 2, unhealthy_after: 4 };
    let mut lines = Lines::new(&["http://a".to_string()], thresholds, None, script.now);
    for epoch in [3, 3, 5, 5, 5] {
        script.log.append(Epoch(epoch), &Message::new("m").into());
    }
    lines.begin_reign(MASTER, &script.log, None, &[found], script.now);
    Script { lines, ..script }
}

impl Script {
    /// A heartbeat's answer: so many entries, the last of this epoch, of a log of that reign.
    fn hear(&mut self, last: u64, last_epoch: u64, log_epoch: u64) -> Result<(), String> {
        let position = Position {
            last_epoch: Epoch(last_epoch),
            log_epoch: Some(Epoch(log_epoch)),
            ..self.position(1, last)
        };
        let number = self.lines.next_number();
        self.lines.observe(0, number, &position, &self.log, self.now)
    }
}

#[test]
fn entries_from_before_count_with_the_whole_log() {
    let mut world = over_five(Found::Nothing);
    assert_eq!(world.hear(5, 5, 5), Ok(()));
    assert_eq!((world.lines.acks(Seq(1)), world.lines.committed_seq()), (0, Seq(0)), "an old log");
    assert_eq!(world.step("claim 5"), "not now", "it has them");
    assert_eq!(world.hear(4, 5, 7), Ok(()));
    assert_eq!((world.lines.acks(Seq(1)), world.lines.committed_seq()), (0, Seq(0)), "a piece");
    assert_eq!(world.hear(5, 5, 7), Ok(()));
    assert_eq!((world.lines.acks(Seq(1)), world.lines.committed_seq()), (1, Seq(5)));
}

#[test]
fn a_call_begins_where_the_logs_may_have_parted() {
    // The epoch and place of the copy's last entry, and the first entry of the next call.
    for (last, epoch, first) in [(9, 5, 6), (4, 3, 3), (4, 4, 3), (9, 6, 6), (5, 6, 5), (1, 2, 1)] {
        let mut world = over_five(Found::Nothing);
        assert!(world.hear(last, epoch, epoch).is_err(), "{last} of {epoch}");
        assert_eq!(world.lines.secondaries()[0].next_seq(), Seq(first), "{last} of {epoch}");
    }
}

#[test]
fn an_ack_of_another_reign_does_not_count() {
    let mut world = Script::new();
    world.step("append 1");
    world.step("claim 1");
    let position = Position { epoch: Epoch(9), ..world.position(1, 1) };
    let failed = world.settle(Verdict::Acked(position));
    assert_eq!(failed, "failed 1..1: its epoch is 9: this master's reign is over");
    assert_eq!((world.lines.fenced_by(), world.lines.acks(Seq(1))), (Some(Epoch(9)), 0));
    assert_eq!(world.lines.due(0, true), When::Blocked);
}

#[test]
fn a_greater_epoch_ends_the_reign() {
    let mut world = Script::new();
    world.step("append 1");
    world.step("claim 1");
    assert_eq!(world.lines.fenced_by(), None);
    let failed = world.step("stale");
    assert_eq!(failed, "failed 1..1: its epoch is 9: this master's reign is over");
    assert_eq!(world.lines.fenced_by(), Some(Epoch(9)));
}

#[test]
fn calls_in_flight_are_bounded() {
    let mut world = Script::new();
    world.step("beat 1 0");
    for seq in 1..=WINDOW {
        world.step("append 1");
        assert_eq!(world.step(&format!("claim {seq}")), format!("call {seq}..{seq}"));
        world.step("wait 200");
    }
    world.step("append 1");
    assert_eq!(world.step(&format!("claim {}", WINDOW + 1)), "not now");
}

#[test]
fn an_answer_is_understood_or_named() {
    let verdict = |status: u16, body: &str| Verdict::of(status, body.as_bytes());
    let failed = |status, body: &str| match verdict(status, body) {
        Verdict::Failed(why) => why,
        other => panic!("{other:?} for {body}"),
    };
    let position = r#""last_seq":2,"last_epoch":7,"epoch":7,"log_epoch":7,"instance":"1""#;
    let ack = format!(r#"{{"status":"ok","idx":1,"seq":2,{position}}}"#);
    assert_eq!(verdict(200, &ack), Verdict::Acked(Script::new().position(1, 2)));
    let gap = format!(r#"{{"error":"…","code":"gap",{position}}}"#);
    assert_eq!(verdict(409, &gap), Verdict::Gap(Script::new().position(1, 2)));
    let original = |place| Verdict::AckedByOriginal(place);
    assert_eq!(verdict(200, r#"{"status":"ok"}"#), original(None));
    assert_eq!(verdict(200, r#"{"status":"ok","idx":1}"#), original(Some(Seq(2))));
    assert_eq!(
        verdict(200, r#"{"status":"ok","seq":2}"#),
        original(Some(Seq(2))),
        "the later version"
    );
    let ours = r#"{"status":"ok","seq":2,"last_seq":2}"#;
    assert_eq!(failed(200, ours), format!("answered 200 without an ack: {ours}"));
    assert_eq!(failed(200, "<html>"), "answered 200 without JSON: <html>");
    assert_eq!(failed(200, "{}"), "answered 200 without an ack: {}");
    assert_eq!(failed(409, "{}"), "answered 409: {}");
    assert_eq!(failed(500, "{\"a\":\n\"b\"}\n"), "answered 500: {\"a\": \"b\"}");
}

#[test]
fn a_failing_line_pauses_until_it_is_heard_of() {
    play(
        "beat 1 0 => acked 0
         heard    => Some(Healthy)
         append 1 => last 1
         retry 1  => call 1..1
         fail     => failed 1..1: no answer
         retry 1  => not now
         claim 1  => call 1..1
         fail     => failed 1..1: no answer
         wait 49  => later
         retry 1  => not now
         wait 1   => later
         retry 1  => call 1..1
         fail     => failed 1..1: no answer
         silence  => None
         silence  => Some(Suspected)
         silence  => None
         silence  => Some(Unhealthy)
         retry 1  => not now
         heard    => Some(Healthy)
         retry 1  => call 1..1
         ok 1 1   => acked 1",
    );
}

#[test]
fn a_restarted_secondary_is_called_at_once() {
    play(
        "beat 1 0 => acked 0
         append 1 => last 1
         retry 1  => call 1..1
         fail     => failed 1..1: no answer
         retry 1  => not now
         beat 2 0 => acked 0
         retry 1  => call 1..1",
    );
}

#[test]
fn a_batch_waits_for_the_clients_just_answered() {
    // Eight are answered, and two are waiting already: ten are expected.
    play_on_disk(
        "append 2 => last 18
         ok 1 16  => acked 16
         claim 18 => not now
         append 7 => last 25
         claim 25 => not now
         append 1 => last 26
         claim 26 => call 17..26",
    );
}

#[test]
fn a_batch_waits_twice_as_long_as_needed() {
    play_on_disk(
        "ok 1 16  => acked 16
         append 1 => last 17
         wait 1   => later
         claim 17 => not now
         wait 1   => later
         claim 17 => call 17..17
         wait 9   => later
         ok 1 17  => acked 17
         append 1 => last 18
         claim 18 => call 18..18",
    );
}

#[test]
fn a_batch_waits_for_five_milliseconds_at_most() {
    play_on_disk(
        "ok 1 16   => acked 16
         wait 3    => later
         append 8  => last 24
         claim 24  => call 17..24
         wait 1500 => later
         ok 1 24   => acked 24
         append 1  => last 25
         wait 4    => later
         claim 25  => not now
         wait 1    => later
         claim 25  => call 25..25",
    );
}

#[test]
fn slow_clients_are_not_waited_for() {
    // A batch takes 3 ms, and in that time less than six come.
    play_on_disk(
        "ok 1 16  => acked 16
         append 1 => last 17
         claim 17 => not now
         wait 5   => later
         append 7 => last 24
         claim 24 => call 17..24
         wait 3   => later
         ok 1 24  => acked 24
         append 1 => last 25
         claim 25 => call 25..25",
    );
}

#[test]
fn nothing_is_waited_for_after_a_failure() {
    play_on_disk(
        "fail     => failed 9..16: no answer
         append 1 => last 17
         claim 17 => call 9..17",
    );
}

#[test]
fn a_batch_that_answers_nobody_expects_nobody() {
    let mut world = play_on_disk_in(Script::of(1, true), "");
    let (call, held) = (world.calls.remove(0), world.position(1, 16));
    world.lines.settle(&call, Verdict::Acked(held), &world.log, world.now, 0);
    world.step("append 1");
    assert_eq!(world.step("claim 17"), "call 17..17");
}

#[test]
fn in_memory_nothing_is_waited_for() {
    play(
        "beat 1 0 => acked 0
         append 8 => last 8
         claim 8  => call 1..8
         wait 3   => later
         ok 1 8   => acked 8
         append 8 => last 16
         claim 16 => call 9..16
         ok 1 16  => acked 16
         append 1 => last 17
         claim 17 => call 17..17",
    );
}

#[test]
fn a_piece_of_catching_up_waits_for_nobody() {
    let mut world = Script::of(1, true);
    let append = |world: &mut Script, message: &str, count: usize| {
        for _ in 0..count {
            let seq = world.log.append(REIGN, &Message::new(message).into());
            world.lines.appended(seq, world.now);
        }
    };
    let large = "m".repeat(1 << 20);
    // Two batches after which it pays to wait.
    for step in ["beat 1 0", "append 8", "claim 8", "wait 3", "ok 1 8", "wait 1", "append 8"] {
        world.step(step);
    }
    for step in ["claim 16", "wait 3", "ok 1 16", "wait 1"] {
        world.step(step);
    }
    // Less than the eight that are expected, and more than one call carries.
    append(&mut world, &large, 7);
    world.step("wait 5");
    let call = world.step("claim 23");
    let held: u64 = call.strip_prefix("call 17..").expect("the first piece").parse().unwrap();
    assert!(held < 23, "7 MiB in one call");
    for step in ["wait 3", &format!("ok 1 {held}")] {
        world.step(step);
    }
    assert_ne!(world.step("claim 23"), "not now");
}

#[test]
fn the_disk_is_written_when_a_batch_leaves() {
    play_on_disk(
        "save 99  => stored 16
         ok 1 16  => acked 16
         save?    => nothing
         append 1 => last 17
         save?    => in 2ms
         wait 1   => later
         save?    => in 1ms
         append 7 => last 24
         save?    => now
         save 99  => stored 24
         claim 24 => call 17..24
         wait 3   => later
         append 1 => last 25
         save?    => now
         save 99  => stored 25
         ok 1 24  => acked 24
         append 1 => last 26
         save?    => in 5ms
         claim 26 => not now
         wait 5   => later
         claim 26 => call 25..26
         save?    => now",
    );
}

#[test]
fn entries_sent_elsewhere_are_written_at_once() {
    play_on_disk(
        "ok 1 16  => acked 16
         append 1 => last 17
         claim 17 => not now
         save?    => now
         save 99  => stored 17
         append 1 => last 18
         save?    => in 2ms",
    );
}

#[test]
fn a_batch_leaves_for_all_nodes_together() {
    let mut world = play_on_disk_in(Script::of(2, true), "ok 1 16 => acked 16");
    world.step("save 99");
    world.step("append 1");
    assert_eq!([world.step("claim 17"), world.step("save?")], ["not now", "in 2ms"]);
    let (number, level) = (world.lines.next_number(), world.position(2, 15));
    world.lines.observe(1, number, &level, &world.log, world.now).unwrap();
    let other = world.lines.claim(1, Seq(17), true, &world.log, world.now);
    assert_eq!(other.map(|call| (call.first, call.last)), Some((Seq(16), Seq(17))));
    assert_eq!([world.step("save?"), world.step("claim 17")], ["now", "call 17..17"]);
}

#[test]
fn unsaved_entries_do_not_count_for_a_quorum() {
    let mut world = Script::of(1, true);
    for step in ["beat 1 0", "append 3", "claim 3", "ok 1 3"] {
        world.step(step);
    }
    assert_eq!(world.lines.committed_seq(), Seq(0), "one of two nodes has it on its disk");
    world.step("save 4");
    assert_eq!(world.lines.committed_seq(), Seq(2));
    world.step("save 99");
    assert_eq!(world.lines.committed_seq(), Seq(3));
}

#[test]
fn committed_entries_stay_committed() {
    let mut world = Script::new();
    for step in ["beat 1 0", "append 3", "claim 3"] {
        world.step(step);
    }
    assert_eq!(world.lines.committed_seq(), Seq(0), "two of two nodes are a quorum");
    world.step("ok 1 3");
    assert_eq!(world.lines.committed_seq(), Seq(3));
    world.step("append 1");
    world.step("beat 2 0");
    assert_eq!(world.lines.committed_seq(), Seq(3));
}

#[test]
fn heartbeats_confirm_in_the_own_epoch_only() {
    let mut world = Script::of(2, false);
    let mut answer = |line, number, epoch| {
        let position = Position { epoch: Epoch(epoch), ..world.position(1, 0) };
        let _ = world.lines.observe(line, number, &position, &world.log, world.now);
        world.lines.answered_number()
    };
    assert_eq!(answer(0, 3, REIGN.0 - 1), 0);
    assert_eq!(answer(0, 4, REIGN.0), 4, "two of three are a quorum");
    assert_eq!(answer(1, 6, REIGN.0), 6);
    assert_eq!(answer(1, 5, REIGN.0), 6, "late");
    assert_eq!(answer(0, 8, REIGN.0 + 1), 6);
}
