//! Clients that write for as long as a test does its worst.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::SOON;
use super::history::Writer;
use super::http::Connection;

const WRITERS: usize = 8;

/// Posts message after message until told to stop, each with a key until it is acknowledged.
fn write(number: usize, addr: SocketAddr, stop: &AtomicBool) -> Writer {
    let mut writer = Writer::default();
    let mut connection = None;
    for count in 0.. {
        let message = format!("writer {number} message {count}");
        let key = format!("Idempotency-Key: w{number}-{count}");
        let body = json!({ "msg": message }).to_string();
        let headers = [key.as_str(), "Prefer: return=minimal"];
        let mut acknowledged = None;
        // The last one is not given up before the faults are over and it has had its chance.
        let give_up = Instant::now() + SOON;
        while acknowledged.is_none() && Instant::now() < give_up {
            let Ok(open) = connection.take().map_or_else(|| Connection::open(addr), Ok) else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            let mut open: Connection = open;
            let Ok(answer) = open.try_send("POST", "/messages", &headers, &body) else { continue };
            connection = Some(open);
            match answer.status {
                201 => acknowledged = answer.json()["seq"].as_u64(),
                502 | 503 => thread::sleep(Duration::from_millis(5)),
                status => panic!("{status} for {message}: {}", answer.text()),
            }
        }
        writer.posted.push((message, acknowledged));
        if stop.load(SeqCst) {
            break;
        }
    }
    writer
}

/// Lets the writers run while `faults` does its worst, and returns what they were told.
pub fn under(addr: SocketAddr, faults: impl FnOnce()) -> Vec<Writer> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let writers: Vec<_> =
            (0..WRITERS).map(|n| scope.spawn(move || write(n, addr, stop))).collect();
        faults();
        stop.store(true, SeqCst);
        writers.into_iter().map(|writer| writer.join().expect("a writer failed")).collect()
    })
}
