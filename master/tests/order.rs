//! One order: every node's log is the master's, whoever writes and however many at once.

mod support;

use std::collections::BTreeMap;

use support::at_once;
use support::cluster::{Cluster, assert_each_once};

const CLIENTS: usize = 64;

/// Posts from [`CLIENTS`] kept connections that are opened in one burst, and checks that all
/// messages were served, once each, in each client's own order, and in the same order everywhere.
fn burst(cluster: &Cluster, messages: usize) {
    let seqs = at_once(CLIENTS, |client| {
        let mut connection = cluster.master.connect();
        let mut seqs = Vec::new();
        for number in 0..messages {
            let message = format!("{client}:{number}");
            let answer = connection.post_message_briefly(&message);
            assert_eq!(answer.status, 201, "{message}: {}", answer.text());
            let location = format!("/messages/{}", answer.seq());
            assert_eq!(answer.header("Location"), Some(location.as_str()));
            seqs.push((answer.seq(), message));
        }
        seqs
    });
    // Equal at once: everything has been acknowledged.
    let logs = cluster.logs();
    for copy in &logs[1..] {
        assert!(*copy == logs[0], "a copy differs from the master's log");
    }
    let log = &logs[0];
    let sent: Vec<_> = seqs.iter().flatten().map(|(_, message)| message.clone()).collect();
    assert_eq!(sent.len(), CLIENTS * messages);
    assert_each_once(log, &sent);
    for (seq, message) in seqs.iter().flatten() {
        assert_eq!(&log[seq - 1], message, "at the place that the 201 named");
    }
    assert_own_order(log);
}

/// Asserts that each client's messages are in the log in the order in which it sent them.
fn assert_own_order(log: &[String]) {
    let mut next: BTreeMap<&str, usize> = BTreeMap::new();
    for message in log {
        let (client, number) = message.split_once(':').expect("client:number");
        let next = next.entry(client).or_default();
        assert_eq!(number, next.to_string(), "client {client}");
        *next += 1;
    }
}

#[test]
fn a_burst_of_64_clients_keeps_one_order() {
    // Goal: 64 keep-alive clients that arrive in one burst are all served; the three logs are
    // equal, each client's own order is kept, nothing is there twice.
    burst(&Cluster::start(&[&[], &[]], &[]), 20);
}

#[test]
fn a_delayed_secondary_does_not_change_the_order() {
    // Goal: the same with several calls in flight to one secondary, which overtake each other.
    burst(&Cluster::start(&[&[], &[("DELAY_MS", "60")]], &[]), 10);
}

#[test]
fn different_delays_keep_the_same_order() {
    // Goal: the lines run at different paces; the logs are equal all the same.
    burst(&Cluster::start(&[&[("DELAY_MS", "15")], &[("DELAY_MS", "40")]], &[]), 10);
}

#[test]
fn large_messages_keep_their_order() {
    // Goal: calls carry as much as a batch may, while other messages arrive.
    let cluster = Cluster::start(&[&[], &[("DELAY_MS", "5")]], &[]);
    let filler = "x".repeat(100_000);
    at_once(16, |client| {
        let mut connection = cluster.master.connect();
        for number in 0..4 {
            let answer = connection.post_message_briefly(&format!("{client}:{number}:{filler}"));
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
    });
    let mut logs = cluster.logs();
    let log = logs.remove(0);
    assert!(logs.iter().all(|copy| *copy == log), "a copy differs from the master's log");
    let short = log.iter().map(|message| message.trim_end_matches('x').trim_end_matches(':'));
    assert_own_order(&short.map(String::from).collect::<Vec<_>>());
    assert_eq!(log.len(), 64);
}
