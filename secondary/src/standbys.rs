//! Masters that stand by: they ask here again and again who reigns. The reigning master shows them
//! on its page, which goes there when it is lost.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::client::check_base_url;
use common::locked::locked;

/// A master that stands by asks several times in this time.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(2);

/// The most that are remembered: whoever asks may say anything.
const MOST: usize = 8;

/// The base URLs of those that have asked lately, and when.
#[derive(Debug, Default)]
pub struct Standbys(Mutex<Vec<(String, Instant)>>);

impl Standbys {
    /// A master with this base URL has asked.
    pub fn note(&self, url: &str, now: Instant) {
        if check_base_url(url).is_err() {
            return;
        }
        let mut asked = locked(&self.0);
        asked.retain(|(other, at)| other != url && now.duration_since(*at) < FORGOTTEN_AFTER);
        if asked.len() < MOST {
            asked.push((url.into(), now));
        }
    }

    /// Those that have asked lately, in the order of their URLs.
    pub fn list(&self, now: Instant) -> Vec<String> {
        let asked = locked(&self.0);
        let recent = asked.iter().filter(|(_, at)| now.duration_since(*at) < FORGOTTEN_AFTER);
        let mut urls: Vec<String> = recent.map(|(url, _)| url.clone()).collect();
        urls.sort();
        urls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_ask_no_more_are_forgotten() {
        let (standbys, start) = (Standbys::default(), Instant::now());
        standbys.note("http://b:1", start);
        standbys.note("http://a:1", start);
        for wrong in ["", "javascript:x", "http://a:1\r\n"] {
            standbys.note(wrong, start);
        }
        assert_eq!(standbys.list(start), ["http://a:1", "http://b:1"]);
        let later = start + FORGOTTEN_AFTER / 2;
        standbys.note("http://b:1", later);
        assert_eq!(standbys.list(start + FORGOTTEN_AFTER), ["http://b:1"]);
        (0..99).for_each(|port| standbys.note(&format!("http://c:{}", port + 1), later));
        assert_eq!(standbys.list(later).len(), MOST);
    }
}
