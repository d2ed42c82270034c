//! Everything at once: two masters that take over from each other, and nodes that are killed,
//! frozen, stopped, cut off, delayed, made to lie about errors, started again, and out of disk.
//!
//! Writers, single posts, readers of every node, confirmed reads and a follower go on meanwhile. A
//! round ends with all faults mended; then the logs are equal, and the
//! [checker](support::history::History::check) compares them with what all those clients were told.
//!
//! `make soak MINUTES=60` plays rounds for an hour, `SEED=17 make soak` those from seed 17 on. The
//! threads of the machine are not part of the seed.

mod support;

use std::time::{Duration, Instant};
use std::{env, thread};

use serde_json::json;
use support::directory::Directory;
use support::history::Dice;
use support::masters::equal_logs;
use support::node::{Node, Role};
use support::readers::read;
use support::relay::Relay;
use support::small_disk::SmallDisk;
use support::writers::Clients;
use support::{SOON, wait_until};

/// The megabytes of a disk that is filled.
const DISK: u32 = 64;

/// The cluster of one round. Nodes are numbered: the two masters, then the secondaries. Dropped in
/// the order of the fields.
struct Field {
    nodes: Vec<Node>,
    /// From each master to each secondary.
    wires: [Vec<Relay>; 2],
    /// The disk of the last secondary.
    disk: Option<SmallDisk>,
    directory: Option<Directory>,
}

/// What is wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    Frozen,
    /// Told to stop.
    Stopped,
    /// Its disk is full, and it was started again when there was room.
    DiskFull,
    /// It answers late, and errors, before or after it has stored.
    Errs,
}

impl Field {
    /// Two masters and these secondaries, in memory or on disks.
    fn start(secondaries: usize, on_disk: bool) -> Field {
        let directory = on_disk.then(Directory::new);
        let disk = on_disk.then(|| SmallDisk::mount(DISK)).flatten();
        let place = |name: String, small: Option<&SmallDisk>| match (small, &directory) {
            (Some(disk), _) => Some(format!("{}/{name}", disk.path())),
            (None, directory) => directory.as_ref().map(|directory| directory.of(&name)),
        };
        let start = |role, settings: &[(&str, &str)], place: Option<String>| {
            let place = place.iter().map(|place| ("DATA_DIR", place.as_str()));
            Node::start(role, &settings.iter().copied().chain(place).collect::<Vec<_>>())
        };
        let small = |number| disk.as_ref().filter(|_| number + 1 == secondaries);
        let of_secondary = |number| {
            start(Role::Secondary, &[("CHAOS", "1")], place(format!("s{number}"), small(number)))
        };
        let copies: Vec<_> = (0..secondaries).map(of_secondary).collect();
        let wires: [Vec<Relay>; 2] =
            [(); 2].map(|()| copies.iter().map(|copy| Relay::to(copy.addr())).collect());
        let of_master = |number: usize| {
            let urls = wires[number].iter().map(Relay::url).collect::<Vec<_>>().join(",");
            // The two begin at once, perhaps over wires that are slow: only a quorum lets one begin.
            let settings = [
                ("SECONDARIES", urls.as_str()),
                ("RECOVERY", "quorum"),
                ("HEARTBEAT_MS", "60"),
                ("ACK_TIMEOUT_MS", "1500"),
            ];
            start(Role::Master, &settings, place(format!("m{number}"), None))
        };
        let mut nodes = vec![of_master(0), of_master(1)];
        nodes.extend(copies);
        Field { nodes, wires, disk, directory }
    }

    /// Breaks something for a while, and mends it.
    fn disturb(&mut self, dice: &mut Dice) {
        let faults = self.choose(dice);
        for (number, fault) in &faults {
            self.begin(*number, *fault, dice);
        }
        let cut = self.cut(dice);
        println!("{faults:?} cut {cut:?}");
        thread::sleep(Duration::from_millis(50 + dice.below(1500)));
        // Some wires are mended before the nodes are, some after.
        let mended_first = dice.one_in(2);
        if mended_first {
            self.mend();
        }
        for (number, fault) in faults {
            self.end(number, fault, dice);
        }
        if !mended_first {
            self.mend();
        }
        thread::sleep(Duration::from_millis(dice.below(600)));
    }

    /// A fault for some of the nodes.
    fn choose(&self, dice: &mut Dice) -> Vec<(usize, Fault)> {
        let is_everybody = self.directory.is_some() && dice.one_in(12);
        let mut faults = Vec::new();
        for number in 0..self.nodes.len() {
            let is_master = number < 2;
            let fault = match dice.below(8) {
                _ if is_everybody => Fault::Killed,
                _ if !dice.one_in(3) => continue,
                0..=2 => Fault::Killed,
                3 | 4 => Fault::Frozen,
                5 => Fault::Stopped,
                6 if self.disk.is_some() => Fault::DiskFull,
                _ => Fault::Errs,
            };
            let fault = match fault {
                // A secondary in memory forgets what it holds, which is no promise kept.
                Fault::Killed | Fault::Stopped if !is_master && self.directory.is_none() => {
                    Fault::Frozen
                }
                Fault::DiskFull if number + 1 < self.nodes.len() => Fault::Killed,
                Fault::Errs if is_master => Fault::Killed,
                fault => fault,
            };
            faults.push((number, fault));
        }
        faults
    }

    fn begin(&mut self, number: usize, fault: Fault, dice: &mut Dice) {
        let node = &mut self.nodes[number];
        match fault {
            Fault::Killed => node.kill(),
            Fault::Frozen => node.freeze(),
            Fault::Stopped => node.signal("TERM"),
            Fault::DiskFull => self.disk.as_ref().expect("there is one").fill(),
            Fault::Errs => set_chaos(node, dice.below(200), 0.2),
        }
    }

    fn end(&mut self, number: usize, fault: Fault, dice: &mut Dice) {
        let node = &mut self.nodes[number];
        match fault {
            Fault::Killed => {}
            Fault::Frozen => return node.thaw(),
            Fault::Stopped => _ = node.exit_code(SOON),
            Fault::DiskFull => {
                node.kill();
                self.disk.as_ref().expect("there is one").relieve();
            }
            Fault::Errs => return set_chaos(node, 0, 0.0),
        }
        let takes_over = number < 2 && dice.one_in(4);
        node.restart_with(if takes_over { &["--takeover"] } else { &[] });
    }

    /// Cuts some wires, some of them in one direction; returns the numbers of their ends.
    fn cut(&self, dice: &mut Dice) -> Vec<(usize, usize)> {
        if !dice.one_in(2) {
            return Vec::new();
        }
        let ends = (0..2).flat_map(|master| (0..self.wires[0].len()).map(move |to| (master, to)));
        let cut: Vec<_> = ends.filter(|_| dice.one_in(2)).collect();
        for (master, to) in &cut {
            match dice.one_in(3) {
                true => self.wires[*master][*to].cut_answers(),
                false => self.wires[*master][*to].cut(),
            }
        }
        cut
    }

    fn mend(&self) {
        self.wires.iter().flatten().for_each(Relay::mend);
    }
}

fn set_chaos(node: &Node, delay_ms: u64, errors: f64) {
    let faults = json!({ "delay_ms": delay_ms, "error_rate": errors, "error_after_store": errors });
    let answer = node.send("PUT", "/chaos", &faults.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// One cluster, disturbed for so long; what has gone wrong.
fn play(seed: u64, length: Duration) -> Result<String, String> {
    let mut dice = Dice::new(seed);
    let (secondaries, on_disk) = (2 + dice.below(2) as usize, !dice.one_in(3));
    let mut field = Field::start(secondaries, on_disk);
    let addrs: Vec<_> = field.nodes.iter().map(Node::addr).collect();
    wait_until("a master", SOON, || {
        let texts = [0, 1].map(|number| field.nodes[number].get("/ready").text().to_string());
        if texts.iter().any(|text| text.contains("ready\"")) {
            Ok(())
        } else {
            Err(texts.join(" "))
        }
    });
    let (masters, start, mut count) = (&addrs[..2], Instant::now(), 0);
    let history = Clients::in_haste(masters).beside(
        || {
            while start.elapsed() < length {
                field.disturb(&mut dice);
                count += 1;
            }
        },
        |stop| read(masters, &addrs, stop),
    );
    let (masters, copies) = field.nodes.split_at(2);
    history.check(&equal_logs(masters, copies))?;
    let (acknowledged, reads) = (history.acknowledged(), history.reads.len());
    if acknowledged < 50 || reads < 50 {
        return Err(format!("too little was done: {acknowledged} appends, {reads} reads"));
    }
    let kept = if on_disk { "disk" } else { "memory" };
    Ok(format!(
        "{secondaries} secondaries, {kept}: {count} disturbances, {acknowledged} appends, {reads} reads"
    ))
}

#[test]
fn takeovers_under_all_faults_keep_every_promise() {
    // Goal: nothing acknowledged is lost, doubled or reordered, nothing read as committed is taken
    // back, nothing confirmed is stale, whatever happens to which nodes.
    let number = |name: &str| {
        let text = env::var(name).ok().filter(|text| !text.is_empty());
        text.map(|text| text.parse::<u64>().expect("a number"))
    };
    let (minutes, first) = (number("MINUTES"), number("SEED").unwrap_or(1));
    let length = Duration::from_secs(if minutes.is_some() { 15 } else { 6 });
    let end = Instant::now() + Duration::from_secs(60 * minutes.unwrap_or(0));
    for seed in first.. {
        println!("SEED={seed}");
        match play(seed, length) {
            Ok(done) => println!("SEED={seed}: {done}"),
            Err(wrong) => panic!("SEED={seed}: {wrong}"),
        }
        if Instant::now() >= end {
            break;
        }
    }
}
