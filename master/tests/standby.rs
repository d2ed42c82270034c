//! Promise: a second master stands by and takes over by itself, within three seconds when the
//! first is killed and half a second when it is stopped; and one of them reigns in the end.
//!
//! `TAKEOVER_KILLS=20 cargo test -p master --test standby takes_over -- --nocapture` measures more
//! of them.

mod support;

use std::time::{Duration, Instant};
use std::{env, thread};

use serde_json::json;
use support::directory::Directory;
use support::history::{Dice, Writer, check};
use support::node::{Node, Role, Settings};
use support::writers::Clients;
use support::{SOON, at_once, wait_until};

/// Writes are acknowledged again within this time after the master was killed.
const AFTER_KILL: Duration = Duration::from_secs(3);

/// … after it was told to stop.
const AFTER_STOP: Duration = Duration::from_millis(500);

/// A master is missed after a second.
const QUICK: Settings = &[("HEARTBEAT_MS", "100"), ("UNHEALTHY_AFTER", "10")];

/// Masters over the same secondaries. Dropped in the order of the fields.
struct Cluster {
    masters: Vec<Node>,
    secondaries: Vec<Node>,
}

impl Cluster {
    /// Two secondaries, and so many masters with these settings beside the default ones: the first
    /// reigns, the others stand by.
    fn start(masters: usize, settings: Settings) -> Cluster {
        Cluster::start_in(None, masters, settings)
    }

    /// The same with every log in there.
    fn start_in(directory: Option<&Directory>, masters: usize, settings: Settings) -> Cluster {
        let own = |name: String| directory.map(|directory| directory.of(&name));
        let start = |role, name, settings: Settings| {
            let own = own(name);
            let directory = own.iter().map(|own| ("DATA_DIR", own.as_str()));
            Node::start(role, &directory.chain(settings.iter().copied()).collect::<Vec<_>>())
        };
        let secondaries: Vec<_> =
            (0..2).map(|n| start(Role::Secondary, format!("s{n}"), &[])).collect();
        let urls = secondaries.iter().map(Node::url).collect::<Vec<_>>().join(",");
        let settings = [&[("SECONDARIES", urls.as_str())], settings].concat();
        let mut cluster = Cluster { masters: Vec::new(), secondaries };
        for number in 0..masters {
            let master = start(Role::Master, format!("m{number}"), &settings);
            match cluster.masters.first() {
                None => master.wait_until_ready(),
                Some(first) => master.wait_until_not_ready(&first.url()),
            }
            cluster.masters.push(master);
        }
        cluster
    }

    fn clients(&self) -> Clients {
        Clients::of_any(&self.masters.iter().map(Node::addr).collect::<Vec<_>>())
    }

    /// Waits until one master says that it is ready and the others say that it reigns.
    fn wait_for_one_master(&self) -> &Node {
        wait_until("one master", SOON, || {
            let answers: Vec<_> = self.masters.iter().map(|node| node.get("/ready")).collect();
            let ready = answers.iter().position(|answer| answer.status == 200);
            let texts: Vec<&str> = answers.iter().map(|answer| answer.text()).collect();
            let master = &self.masters[ready.ok_or_else(|| texts.join(" "))?];
            let agrees = |text: &&str| text.contains("\"ready\"") || text.contains(&master.url());
            if texts.iter().all(agrees) { Ok(master) } else { Err(texts.join(" ")) }
        })
    }

    /// Checks what the writers were told against the logs of the master and the secondaries.
    fn check(&self, writers: &[Writer]) {
        let master = self.wait_for_one_master();
        let nodes = [master, &self.secondaries[0], &self.secondaries[1]];
        let logs = wait_until("equal logs", SOON, || {
            let logs: Vec<_> = nodes.iter().map(|node| all_of(node)).collect();
            let lengths: Vec<_> = logs.iter().map(Vec::len).collect();
            let equal = logs.iter().all(|log| *log == logs[0]);
            if equal { Ok(logs) } else { Err(format!("lengths {lengths:?}")) }
        });
        let acknowledged = writers.iter().flat_map(|w| &w.posted).filter(|(_, at)| at.is_some());
        assert!(acknowledged.count() > 50, "too little was written to mean anything");
        check(writers, &logs).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

/// The log of a node with what is not committed.
fn all_of(node: &Node) -> Vec<String> {
    let answer = node.get("/messages?committed=false");
    if answer.status == 200 { answer.messages() } else { vec![answer.text().to_string()] }
}

/// Waits until the clients have been told of so many more messages by this master.
fn wait_for_acks(clients: &Clients, master: &Node, more: usize) {
    let by = |clients: &Clients| {
        let all = clients.acknowledged();
        all.iter().filter(|(_, by)| *by == master.addr()).count()
    };
    let before = by(clients);
    wait_until("some more entries", SOON, || match by(clients) {
        now if now >= before + more => Ok(()),
        now => Err(now),
    });
}

/// How long after this instant the clients were first told of a message by another master.
fn outage(clients: &Clients, since: Instant, former: &Node) -> Duration {
    let all = clients.acknowledged();
    let first = all.iter().filter(|(at, by)| *at > since && *by != former.addr()).min();
    first.expect("somebody took over").0 - since
}

/// Has masters end in turn, each time the one that reigns, and prints how long nothing was
/// acknowledged then. The ended one is started again and stands by.
fn end_masters(
    cluster: &mut Cluster,
    clients: &Clients,
    times: usize,
    end: impl Fn(&mut Node),
) -> Vec<Duration> {
    let mut outages = Vec::new();
    for number in 0..times {
        let (former, next) = (number % 2, (number + 1) % 2);
        cluster.masters[next].wait_until_not_ready(&cluster.masters[former].url());
        wait_for_acks(clients, &cluster.masters[former], 50);
        let since = Instant::now();
        end(&mut cluster.masters[former]);
        wait_for_acks(clients, &cluster.masters[next], 1);
        outages.push(outage(clients, since, &cluster.masters[former]));
        cluster.masters[former].restart();
    }
    outages.sort();
    println!("without acknowledgements: {outages:?}");
    println!("median {:?}, maximum {:?}", outages[outages.len() / 2], outages[outages.len() - 1]);
    outages
}

fn kills() -> usize {
    let kills = env::var("TAKEOVER_KILLS").unwrap_or_default();
    kills.parse().unwrap_or(2)
}

#[test]
fn a_standby_takes_over_from_a_killed_master() {
    // Goal: default settings, eight writers with keys who follow 307 and try the other address.
    // Writes are acknowledged again within three seconds; nothing that a majority has acknowledged
    // is lost, doubled or reordered. In memory.
    let mut cluster = Cluster::start(2, &[]);
    let (clients, mut outages) = (cluster.clients(), Vec::new());
    let writers = clients.under(|| {
        outages = end_masters(&mut cluster, &clients, kills(), Node::kill);
    });
    cluster.check(&writers);
    assert!(outages.iter().all(|outage| *outage <= AFTER_KILL), "{outages:?}");
}

#[test]
fn a_standby_with_a_directory_takes_over_too() {
    // Goal: the same with every log on a disk.
    let directory = Directory::new();
    let mut cluster = Cluster::start_in(Some(&directory), 2, &[]);
    let (clients, mut outages) = (cluster.clients(), Vec::new());
    let writers = clients.under(|| {
        outages = end_masters(&mut cluster, &clients, kills(), Node::kill);
    });
    cluster.check(&writers);
    assert!(outages.iter().all(|outage| *outage <= AFTER_KILL), "{outages:?}");
}

#[test]
fn a_stopping_master_hands_over_at_once() {
    // Goal: SIGTERM under load, default settings.
    let mut cluster = Cluster::start(2, &[]);
    let (clients, mut outages) = (cluster.clients(), Vec::new());
    let writers = clients.under(|| {
        outages = end_masters(&mut cluster, &clients, 2, |master| {
            master.signal("TERM");
            assert_eq!(master.exit_code(SOON), Some(0));
        });
    });
    cluster.check(&writers);
    assert!(outages.iter().all(|outage| *outage <= AFTER_STOP), "{outages:?}");
}

#[test]
fn a_standby_says_who_reigns() {
    // Goal: 307 with the place for every request for the log, /ready names the master, and what
    // concerns the node itself is answered. A client that follows the 307 is served.
    let cluster = Cluster::start(2, &[]);
    let [master, standby] = &cluster.masters[..] else { panic!("two masters") };
    assert_eq!(master.post_message("m1").status, 201);
    let ready = standby.get("/ready");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json(), json!({ "status": "standby", "master": master.url() }));
    let posted = standby.post_message("m2");
    let location = format!("{}/messages", master.url());
    assert_eq!((posted.status, posted.header("Location")), (307, Some(location.as_str())));
    assert!(posted.took < Duration::from_secs(1), "it waited: {:?}", posted.took);
    for path in ["/messages", "/messages?from=1&limit=2", "/messages/1", "/messages/stream"] {
        let answer = standby.get(path);
        let location = format!("{}{path}", master.url());
        assert_eq!((answer.status, answer.header("Location")), (307, Some(location.as_str())));
    }
    for path in ["/", "/health", "/metrics", "/openapi.json"] {
        assert_eq!(standby.get(path).status, 200, "{path}");
    }
    assert_eq!(master.log(), ["m1"], "the standby took nothing");
    let followed = master.connect().send("POST", "/messages", r#"{"msg":"m2"}"#);
    assert_eq!(followed.seq(), 2);
}

#[test]
fn a_secondary_promises_nothing_beside_a_living_master() {
    // Goal: whoever asks gets a refusal that names the code, unless an operator has told it to; a
    // question changes nothing.
    let cluster = Cluster::start(1, &[]);
    let [master, secondary] = [&cluster.masters[0], &cluster.secondaries[0]];
    assert_eq!(master.post_message("m1").status, 201);
    let promise = |takeover: bool| {
        let (epoch, id) = (1_u64 << 53, format!("{:032x}", 7));
        let body = json!({ "epoch": epoch, "master": id, "takeover": takeover });
        secondary.send("POST", "/promise", &body.to_string())
    };
    let question = r#"{"epoch":0,"last_seq":0,"committed_seq":0}"#;
    let before = secondary.send("POST", "/heartbeat", question).json();
    let refused = promise(false);
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("living_master")));
    assert_eq!(secondary.send("POST", "/heartbeat", question).json(), before);
    assert_eq!(master.post_message("m2").status, 201);
    let told = promise(true);
    assert_eq!((told.status, &told.json()["last_seq"]), (200, &json!(2)), "{}", told.text());
    // The former reign is over. Nobody else begins one, so the same master does.
    wait_until("another reign", SOON, || match master.health()["epoch"].as_u64() {
        Some(now) if now > 1 << 53 => Ok(()),
        now => Err(format!("{now:?}")),
    });
    assert_eq!(master.post_message("m3").status, 201);
    assert_eq!(master.log(), ["m1", "m2", "m3"]);
}

#[test]
fn of_two_standbys_one_takes_over() {
    // Goal: both see at the same time that the master is gone. One reigns, the other stands by, and
    // the former master stands by too when it comes back.
    let mut cluster = Cluster::start(3, QUICK);
    assert_eq!(cluster.masters[0].post_message("m1").status, 201);
    cluster.masters[0].kill();
    let standbys = Cluster { masters: cluster.masters.split_off(1), secondaries: Vec::new() };
    let master = standbys.wait_for_one_master();
    assert_eq!(master.post_message("m2").status, 201);
    cluster.masters[0].restart();
    cluster.masters[0].wait_until_not_ready(&master.url());
    assert_eq!(master.post_message("m3").status, 201);
    assert_eq!(master.log(), ["m1", "m2", "m3"]);
}

#[test]
fn a_dozen_restarts_of_both_end_with_one_master() {
    // Goal: both are killed and started at once, twelve times, with a short life in between. In the
    // end one reigns over everything that was acknowledged, and the other stands by.
    let directory = Directory::new();
    for directory in [None, Some(&directory)] {
        let mut cluster = Cluster::start_in(directory, 2, QUICK);
        let (clients, mut dice) = (cluster.clients(), Dice::new(13));
        let writers = clients.under(|| {
            for _ in 0..12 {
                cluster.masters.iter_mut().for_each(Node::kill);
                let masters: Vec<_> =
                    cluster.masters.iter_mut().map(std::sync::Mutex::new).collect();
                at_once(2, |number| masters[number].lock().expect("its own").restart());
                // As long as a beginning takes, more or less.
                thread::sleep(Duration::from_millis(dice.below(1500)));
            }
            wait_for_acks(&clients, cluster.wait_for_one_master(), 100);
        });
        cluster.check(&writers);
    }
}

#[test]
fn an_operator_can_take_over_now() {
    // Goal: --takeover begins a reign although a master lives, which then stands by; without the
    // flag it does not.
    let cluster = Cluster::start(1, &[]);
    assert_eq!(cluster.masters[0].post_message("m1").status, 201);
    let urls = cluster.secondaries.iter().map(Node::url).collect::<Vec<_>>().join(",");
    let settings = [("SECONDARIES", urls.as_str())];
    let waiting = Node::start(Role::Master, &settings);
    waiting.wait_until_not_ready(&cluster.masters[0].url());
    let told = Node::start_with(Role::Master, &settings, &["--takeover"]);
    told.wait_until_ready();
    assert_eq!(told.post_message("m2").status, 201);
    cluster.masters[0].wait_until_not_ready(&told.url());
    waiting.wait_until_not_ready(&told.url());
    let posted = cluster.masters[0].post_message("m3");
    assert_eq!(posted.status, 307, "{}", posted.text());
    assert_eq!(told.log(), ["m1", "m2"]);
}

#[test]
fn a_frozen_master_stands_by_when_it_goes_on() {
    // Goal: the process is deposed while it is frozen, under load. It goes on as a standby, its log
    // heals, and it reigns again when the other one is gone: twice in each direction.
    let mut cluster = Cluster::start(2, QUICK);
    let clients = cluster.clients();
    let writers = clients.under(|| {
        for number in 0..4 {
            let [former, next] = [number % 2, (number + 1) % 2].map(|n| &cluster.masters[n]);
            next.wait_until_not_ready(&former.url());
            wait_for_acks(&clients, former, 50);
            former.freeze();
            next.wait_until_ready();
            wait_for_acks(&clients, next, 50);
            former.thaw();
            former.wait_until_not_ready(&next.url());
            let ready = former.get("/ready");
            assert_eq!(ready.json()["master"], next.url(), "{}", ready.text());
            assert_eq!(former.get("/messages").status, 307);
        }
    });
    cluster.check(&writers);
    // What each has in memory is the same log: the standby reigns with it alone.
    let log = all_of(cluster.wait_for_one_master());
    cluster.masters[0].kill();
    cluster.masters[1].wait_until_ready();
    assert_eq!(all_of(&cluster.masters[1]), log);
}
