//! Golden scripts: what happens to a line, event by event, and what is on its way after each.
//!
//! A script is read like a log: `append 3` appends three entries; `claim 8` is a request that
//! needs entry 8; `ok 1 5` settles the oldest call with an ack of the instance 1 that holds 5
//! entries; `gap`, `stale` and `diverged` are the refusals; `fail` is no answer; `beat` is what a
//! heartbeat's answer says; `heard` and `silence` are whether there was one; `retry 8` is a claim
//! that respects the pause after a failure; `wait 5` lets 5 ms go by. The right column is what came of it.

use super::*;
use common::client::Answer;
use common::entries::Message;

const REIGN: Epoch = Epoch(7);

struct Script {
    lines: Lines,
    log: Log,
    now: Instant,
    calls: Vec<Call>,
}

impl Script {
    fn new() -> Script {
        let thresholds = Thresholds { suspected_after: 2, unhealthy_after: 4 };
        let mut lines = Lines::new(&["http://a".to_string()], thresholds);
        lines.begin_reign(REIGN, Seq::NONE, &[Found::Nothing]);
        Script { lines, log: Log::new(9), now: Instant::now(), calls: Vec::new() }
    }

    fn position(&self, instance: u64, last: u64) -> Position {
        let last_epoch = if last == 0 { Epoch(0) } else { REIGN };
        Position { last_seq: Seq(last), last_epoch, epoch: REIGN, instance: instance.to_string() }
    }

    fn settle(&mut self, verdict: Verdict) -> String {
        let call = self.calls.remove(0);
        match self.lines.settle(&call, verdict, &self.log, self.now, 0) {
            None => format!("acked {}", self.lines.acked_seq(0)),
            Some(failure) => {
                format!("failed {}..{}: {}", failure.first, failure.last, failure.detail)
            }
        }
    }

    fn claim(&mut self, seq: u64, urgent: bool) -> Option<String> {
        let call = self.lines.claim(0, Seq(seq), urgent, &self.log, self.now)?;
        let claimed = format!("call {}..{}", call.first, call.last);
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
            "original" => self.settle(Verdict::AckedByOriginal),
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
                    Ok(()) => format!("acked {}", self.lines.acked_seq(0)),
                    Err(error) => error,
                }
            }
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
    let mut world = Script::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (step, expected) = line.split_once("=>").expect("a step and what comes of it");
        let came = world.step(step.trim());
        assert_eq!(came, expected.trim(), "at {line:?} in:\n{script}");
    }
}

#[test]
fn entries_that_arrive_while_a_call_is_out_ride_on_the_next() {
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
fn a_slow_secondary_gets_sparser_and_sparser_calls_in_flight() {
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
fn a_secondary_that_started_empty_is_sent_everything_again() {
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
fn a_late_answer_of_a_former_process_does_not_count() {
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
fn a_late_gap_of_the_same_process_takes_nothing_back() {
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
fn entries_behind_a_failed_call_are_sent_again_from_what_is_acknowledged() {
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
fn what_a_call_lost_on_the_way_carried_is_sent_again_before_that_call_is_over() {
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
fn an_unknown_or_original_secondary_gets_one_entry_at_a_time() {
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

#[test]
fn answers_that_contradict_themselves_are_failures() {
    play(
        "append 2 => last 2
         beat 1 0 => acked 0
         claim 2  => call 1..2
         gap 1 0  => failed 1..2: refused entry 1 and holds 0
         claim 2  => call 1..2
         gap 2 5  => failed 1..2: diverged: holds 5 entries, the master 2
         claim 2  => call 1..2
         ok 2 1   => failed 1..2: acknowledged entry 2 and holds 1
         claim 2  => call 1..2
         ok 2 9   => failed 1..2: diverged: holds 9 entries, the master 2
         claim 2  => call 1..2
         diverged => failed 1..2: diverged: other entry
         claim 2  => call 1..2
         ok 2 2   => acked 2",
    );
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
    let verdict = |status: u16, body: &str| Verdict::of(Ok(Answer { status, body: body.into() }));
    let failed = |status, body: &str| match verdict(status, body) {
        Verdict::Failed(why) => why,
        other => panic!("{other:?} for {body}"),
    };
    let position = r#""last_seq":2,"last_epoch":7,"epoch":7,"instance":"1""#;
    let ack = format!(r#"{{"status":"ok","idx":1,"seq":2,{position}}}"#);
    assert_eq!(verdict(200, &ack), Verdict::Acked(Script::new().position(1, 2)));
    let gap = format!(r#"{{"error":"…","code":"gap",{position}}}"#);
    assert_eq!(verdict(409, &gap), Verdict::Gap(Script::new().position(1, 2)));
    assert_eq!(verdict(200, r#"{"status":"ok","idx":1}"#), Verdict::AckedByOriginal);
    assert_eq!(failed(200, "<html>"), "answered 200 without JSON: <html>");
    assert_eq!(failed(200, "{}"), "answered 200 without an ack: {}");
    assert_eq!(failed(409, "{}"), "answered 409: {}");
    assert_eq!(failed(500, "oh\n"), "answered 500: oh\\n");
}

#[test]
fn a_failing_line_is_left_alone_longer_and_longer_and_called_at_once_when_heard_of_again() {
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
fn what_is_not_on_the_masters_disk_does_not_count_for_a_quorum() {
    let mut world = Script::new();
    world.lines.keep_on_disk(Seq::NONE);
    for step in ["beat 1 0", "append 3", "claim 3", "ok 1 3"] {
        world.step(step);
    }
    assert_eq!(world.lines.committed_seq(), Seq(0), "one of two nodes has it on its disk");
    world.lines.store(Seq(2));
    assert_eq!(world.lines.committed_seq(), Seq(2));
    world.lines.store(Seq(3));
    assert_eq!(world.lines.committed_seq(), Seq(3));
}

#[test]
fn what_a_quorum_has_held_stays_committed() {
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
