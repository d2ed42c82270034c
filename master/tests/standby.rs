//! Promise: a second master stands by, says who reigns, and takes over by itself; one of them
//! reigns in the end.

mod support;

use std::thread;
use std::time::Duration;

use common::entries::Epoch;
use common::epochs;
use serde_json::json;
use support::directory::Directory;
use support::fake::{Fake, respond};
use support::history::Dice;
use support::masters::{Masters, QUICK, all_of};
use support::node::{Node, Role};
use support::{SOON, at_once, wait_until};

#[test]
fn a_standby_says_who_reigns() {
    // Goal: 307 with the place for every request for the log, /ready names the master, and what
    // concerns the node itself is answered. A client that follows the 307 is served.
    let cluster = Masters::start(2, &[]);
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
    let cluster = Masters::start(1, &[]);
    let [master, secondary] = [&cluster.masters[0], &cluster.secondaries[0]];
    assert_eq!(master.post_message("m1").status, 201);
    // An hour ahead of the clock.
    let ahead = epochs::draw(Epoch(0)).0 + 60 * 60 * 1000 * epochs::PER_MILLISECOND;
    let promise = |takeover: bool| {
        let (epoch, id) = (ahead, format!("{:032x}", 7));
        let body = json!({ "epoch": epoch, "master": id, "takeover": takeover });
        secondary.send("POST", "/promise", &body.to_string())
    };
    let question = r#"{"epoch":0,"last_seq":0,"committed_seq":0}"#;
    let before = wait_until("told what is committed", SOON, || {
        let standing = secondary.send("POST", "/heartbeat", question).json();
        if standing["committed_seq"] == 1 { Ok(standing) } else { Err(standing) }
    });
    let refused = promise(false);
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("living_master")));
    assert_eq!(secondary.send("POST", "/heartbeat", question).json(), before);
    assert_eq!(master.post_message("m2").status, 201);
    let told = promise(true);
    assert_eq!((told.status, &told.json()["last_seq"]), (200, &json!(2)), "{}", told.text());
    // The former reign is over. Nobody else begins one, so the same master does.
    wait_until("another reign", SOON, || match master.health()["epoch"].as_u64() {
        Some(now) if now > ahead => Ok(()),
        now => Err(format!("{now:?}")),
    });
    assert_eq!(master.post_message("m3").status, 201);
    assert_eq!(master.log(), ["m1", "m2", "m3"]);
}

#[test]
fn a_farewell_is_final() {
    // Goal: a heartbeat that comes after the farewell of its master, which was sent before, does
    // not make the secondary wait for that master again.
    let secondary = Node::secondary(&[]);
    let beat = |abdicates: bool| {
        let heartbeat = json!({
            "epoch": 1_u64 << 50, "master": format!("{:032x}", 7), "url": "http://gone",
            "last_seq": 0, "committed_seq": 0, "silent_after_ms": 60_000, "abdicates": abdicates,
        });
        let answer = secondary.send("POST", "/heartbeat", &heartbeat.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
        secondary.health()["hears"].clone()
    };
    assert_eq!(beat(false)["url"], "http://gone");
    assert!(beat(true).is_null());
    assert!(beat(false).is_null(), "it was sent before");
}

#[test]
fn of_two_standbys_one_takes_over() {
    // Goal: both see at the same time that the master is gone. One reigns, the other stands by, and
    // the former master stands by too when it comes back.
    let mut cluster = Masters::start(3, QUICK);
    assert_eq!(cluster.masters[0].post_message("m1").status, 201);
    cluster.masters[0].kill();
    let standbys = Masters { masters: cluster.masters.split_off(1), secondaries: Vec::new() };
    let master = standbys.wait_for_one_master();
    assert_eq!(master.post_message("m2").status, 201);
    cluster.masters[0].restart();
    cluster.masters[0].wait_until_not_ready(&master.url());
    assert_eq!(master.post_message("m3").status, 201);
    assert_eq!(master.log(), ["m1", "m2", "m3"]);
}

/// A secondary that says of another master that it was promised a reign, or that it reigns.
fn hearing(is_candidate: bool) -> Fake {
    Fake::start(move |request, stream| {
        let hears = json!({
            "master": format!("{:032x}", 7), "url": "http://m:1", "is_candidate": is_candidate,
        });
        let standing = json!({
            "last_seq": 0, "last_epoch": 0, "epoch": 1, "instance": "a", "hears": hears,
        });
        let is_asked = request.what == "POST /heartbeat";
        respond(stream, if is_asked { 200 } else { 404 }, &standing.to_string())
    })
}

#[test]
fn nobody_is_led_to_a_candidate() {
    // Goal: two standbys that were each promised a reign by some secondaries stand by for each
    // other. Neither leads a client to the other one: it says when to ask again.
    for is_candidate in [true, false] {
        let secondary = hearing(is_candidate);
        let standby = Node::start(Role::Master, &[("SECONDARIES", &secondary.url())]);
        standby.wait_until_not_ready("standby");
        let place = (!is_candidate).then_some("http://m:1/messages");
        let (status, retry) = if is_candidate { (503, Some("1")) } else { (307, None) };
        for answer in [standby.post_message("m1"), standby.get("/messages")] {
            let seen = (answer.status, answer.header("Location"), answer.header("Retry-After"));
            assert_eq!(seen, (status, place, retry), "{}", answer.text());
        }
    }
}

#[test]
fn a_dozen_restarts_of_both_end_with_one_master() {
    // Goal: both are killed and started at once, twelve times, with a short life in between. In the
    // end one reigns over everything that was acknowledged, and the other stands by.
    let directory = Directory::new();
    for directory in [None, Some(&directory)] {
        let mut cluster = Masters::start_in(directory, 2, QUICK);
        let (clients, mut dice) = (cluster.clients(), Dice::new(13));
        let history = clients.under(|| {
            for _ in 0..12 {
                cluster.masters.iter_mut().for_each(Node::kill);
                let masters: Vec<_> =
                    cluster.masters.iter_mut().map(std::sync::Mutex::new).collect();
                at_once(2, |number| masters[number].lock().expect("its own").restart());
                // As long as a beginning takes, more or less.
                thread::sleep(Duration::from_millis(dice.below(1500)));
            }
            clients.wait_for_acks(cluster.wait_for_one_master(), 100);
        });
        cluster.check(&history);
    }
}

#[test]
fn an_operator_can_take_over_now() {
    // Goal: --takeover begins a reign although a master lives, which then stands by; without the
    // flag it does not.
    let cluster = Masters::start(1, &[]);
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
    let mut cluster = Masters::start(2, QUICK);
    let clients = cluster.clients();
    let history = clients.under(|| {
        for number in 0..4 {
            let [former, next] = [number % 2, (number + 1) % 2].map(|n| &cluster.masters[n]);
            next.wait_until_not_ready(&former.url());
            clients.wait_for_acks(former, 50);
            former.freeze();
            next.wait_until_ready();
            clients.wait_for_acks(next, 50);
            former.thaw();
            let standby = json!({ "status": "standby", "master": next.url() });
            wait_until("standing by", SOON, || match former.get("/ready") {
                answer if answer.status == 503 && answer.json() == standby => Ok(()),
                answer => Err(answer.text().to_string()),
            });
            assert_eq!(former.get("/messages").status, 307);
        }
    });
    cluster.check(&history);
    // What each has in memory is the same log: the standby reigns with it alone.
    let log = all_of(cluster.wait_for_one_master());
    cluster.masters[0].kill();
    cluster.masters[1].wait_until_ready();
    assert_eq!(all_of(&cluster.masters[1]), log);
}
