//! Settings: text from flags and environment in, one checked value out.
//!
//! Each setting has a flag and an environment variable of the same name (`--port`, `PORT`). The
//! flag wins. An empty value counts as absent. All problems are reported together.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use log::LevelFilter;

use crate::client;
use crate::http::Limits;

/// The end of `--help`.
pub const EXAMPLE: &str = "\
Example, each line in a terminal of its own:
  secondary --port 8001
  secondary --port 8002 --delay-ms 1500
  master --secondaries http://127.0.0.1:8001,http://127.0.0.1:8002
  curl http://127.0.0.1:8000/messages -d '{\"msg\":\"hello\"}'
The master's page, http://127.0.0.1:8000/, shows what happens.";

/// The longest timeout: a day, in milliseconds.
pub const MAX_TIMEOUT_MS: u64 = 86_400_000;

/// Settings that every node has, as text.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Address to listen on; 0.0.0.0 for all [default: 127.0.0.1]
    #[arg(long, env, value_name = "ADDRESS")]
    host: Option<String>,
    /// TCP port to listen on; 0 picks a free one, which the ready line names
    /// [default: 8000 for a master, 8001 for a secondary]
    #[arg(long, env, value_name = "PORT")]
    port: Option<String>,
    /// Name of this node in its log lines [default: master, or secondary-PORT]
    #[arg(long, env, value_name = "NAME")]
    node_name: Option<String>,
    /// What is logged to stdout: off, error, warn, info, debug or trace [default: info]
    #[arg(long, env, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Requests in progress at the same time; more get 503 [default: 1024]
    #[arg(long, env, value_name = "COUNT")]
    max_in_flight: Option<String>,
    /// Longest request body in bytes; longer ones get 413 [default: 1048576]
    #[arg(long, env, value_name = "BYTES")]
    max_message_bytes: Option<String>,
    /// How long a connection may be idle, trickle its request or not read its answer before it is
    /// closed, in milliseconds [default: 60000]
    #[arg(long, env, value_name = "MS")]
    read_timeout_ms: Option<String>,
    /// Idempotency keys that are remembered: those of the last entries with one
    /// [default: 100000]
    #[arg(long, env, value_name = "COUNT")]
    idempotency_keys: Option<String>,
    /// Directory to keep the log in; without one it is kept in memory only [default: none]
    #[arg(long, env, value_name = "DIRECTORY", global = true)]
    data_dir: Option<String>,
    /// What the messages of the log may take, in bytes; then the log is full; 0 for no limit
    /// [default: 1073741824]
    #[arg(long, env, value_name = "BYTES")]
    max_log_bytes: Option<String>,
    /// Clients that may follow the log at the same time; more get 503 [default: 100]
    #[arg(long, env, value_name = "COUNT")]
    max_followers: Option<String>,
    /// How long a stopping node waits for requests in progress, in milliseconds [default: 5000]
    #[arg(long, env, value_name = "MS")]
    shutdown_timeout_ms: Option<String>,
}

/// Settings that every node has, checked.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 picks one.
    pub port: u16,
    /// The node's name, if it was given.
    pub name: Option<String>,
    /// The least important level that is logged.
    pub log_level: LevelFilter,
    /// Limits of the HTTP layer.
    pub limits: Limits,
    /// The most idempotency keys that are remembered.
    pub idempotency_keys: usize,
    /// The directory of the log; `None` for in memory only.
    pub data_dir: Option<PathBuf>,
    /// The most that all messages may take, in bytes of JSON; `u64::MAX` for no limit.
    pub max_log_bytes: u64,
    /// The most clients that follow the log at the same time.
    pub max_followers: usize,
    /// The longest that a stopping node waits for requests in progress.
    pub shutdown_timeout: Duration,
}

/// Paths that tell how the node is; they are answered beyond `MAX_IN_FLIGHT` too.
const ALWAYS_ANSWERED: &[&str] = &["/health", "/ready", "/metrics", "/heartbeat"];

impl NodeArgs {
    /// Checks the text. A wrong setting adds to `problems`, and the result has its default instead.
    pub fn check(&self, default_port: u16, problems: &mut Problems) -> NodeSettings {
        let log_bytes =
            problems.number("MAX_LOG_BYTES", &self.max_log_bytes, 1 << 30, 0..=u64::MAX);
        let shutdown =
            problems.milliseconds("SHUTDOWN_TIMEOUT_MS", &self.shutdown_timeout_ms, 5000, 0);
        let limits = Limits {
            max_in_flight: problems.number("MAX_IN_FLIGHT", &self.max_in_flight, 1024, 1..=65_536),
            max_body_bytes: problems.number(
                "MAX_MESSAGE_BYTES",
                &self.max_message_bytes,
                1 << 20,
                1..=32 << 20,
            ),
            timeout: problems.milliseconds("READ_TIMEOUT_MS", &self.read_timeout_ms, 60_000, 1),
            always: ALWAYS_ANSWERED,
        };
        NodeSettings {
            host: given(&self.host).unwrap_or("127.0.0.1").to_string(),
            port: problems.number("PORT", &self.port, default_port, 0..=u16::MAX),
            name: self.check_name(problems),
            log_level: self.check_level(problems),
            limits,
            idempotency_keys: problems.number(
                "IDEMPOTENCY_KEYS",
                &self.idempotency_keys,
                100_000,
                0..=10_000_000,
            ),
            max_followers: problems.number("MAX_FOLLOWERS", &self.max_followers, 100, 0..=10_000),
            data_dir: given(&self.data_dir).map(PathBuf::from),
            max_log_bytes: if log_bytes == 0 { u64::MAX } else { log_bytes },
            shutdown_timeout: shutdown,
        }
    }

    fn check_name(&self, problems: &mut Problems) -> Option<String> {
        let name = given(&self.node_name)?;
        if name.len() > 64 || !name.chars().all(|c| c.is_ascii_graphic()) {
            problems.add(format!("NODE_NAME={name:?} must be 1 to 64 visible ASCII characters"));
        }
        Some(name.to_string())
    }

    fn check_level(&self, problems: &mut Problems) -> LevelFilter {
        let text = given(&self.log_level).unwrap_or("info");
        let level = if text.eq_ignore_ascii_case("warning") { "warn" } else { text };
        level.parse().unwrap_or_else(|_| {
            problems.add(format!(
                "LOG_LEVEL={text:?} must be one of off, error, warn, info, debug, trace"
            ));
            LevelFilter::Info
        })
    }
}

/// The trimmed text of a setting; `None` when it is empty or absent.
pub fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

/// The problems found in the settings, each in words.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Adds a problem.
    pub fn add(&mut self, problem: String) {
        self.0.push(problem);
    }

    /// A whole number in this range; the default when it is absent or wrong.
    pub fn number<T>(
        &mut self,
        name: &str,
        text: &Option<String>,
        default: T,
        range: RangeInclusive<T>,
    ) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = given(text) else { return default };
        match text.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (least, most) = (range.start(), range.end());
                self.add(format!("{name}={text:?} must be a whole number from {least} to {most}"));
                default
            }
        }
    }

    /// A span of time from `least` milliseconds to [`MAX_TIMEOUT_MS`].
    pub fn milliseconds(
        &mut self,
        name: &str,
        text: &Option<String>,
        default: u64,
        least: u64,
    ) -> Duration {
        Duration::from_millis(self.number(name, text, default, least..=MAX_TIMEOUT_MS))
    }

    /// `Ok` when there are no problems.
    ///
    /// # Errors
    /// All of them, one a line.
    pub fn none(self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("\n")) }
    }
}

/// Base URLs from a list with commas. Blanks, slashes at the end and empty items are dropped.
pub fn base_urls(name: &str, text: &str, problems: &mut Problems) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let url = item.trim_end_matches('/').to_string();
        if let Err(why) = client::check_base_url(&url) {
            problems.add(format!("{name}: {item:?} {why}"));
        } else if urls.iter().any(|other| other.eq_ignore_ascii_case(&url)) {
            problems.add(format!("{name}: {item:?} is named twice"));
        } else {
            urls.push(url);
        }
    }
    urls
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        node: NodeArgs,
    }

    fn check(flags: &[&str]) -> (NodeSettings, Result<(), String>) {
        let cli = Cli::parse_from([&["node"], flags].concat());
        let mut problems = Problems::default();
        (cli.node.check(8000, &mut problems), problems.none())
    }

    #[test]
    fn defaults_are_those_of_the_readme() {
        let (node, problems) = check(&[]);
        assert_eq!(problems, Ok(()));
        assert_eq!((node.host.as_str(), node.port), ("127.0.0.1", 8000));
        assert_eq!((node.name, node.log_level), (None, LevelFilter::Info));
        assert_eq!(node.limits.max_in_flight, 1024);
        assert_eq!(node.limits.max_body_bytes, 1 << 20);
        assert_eq!(node.limits.timeout, Duration::from_secs(60));
        assert_eq!(node.shutdown_timeout, Duration::from_secs(5));
        assert_eq!((node.data_dir, node.max_log_bytes), (None, 1 << 30));
        assert_eq!(check(&["--max-log-bytes=0"]).0.max_log_bytes, u64::MAX);
    }

    #[test]
    fn everything_that_is_wrong_is_reported_at_once() {
        let flags = ["--port", "70000", "--log-level", "loud", "--max-in-flight", "0"];
        let (_, problems) = check(&[&flags[..], &["--read-timeout-ms=-1"]].concat());
        let problems = problems.unwrap_err();
        let names = ["PORT", "LOG_LEVEL", "MAX_IN_FLIGHT", "READ_TIMEOUT_MS"];
        assert!(names.iter().all(|name| problems.contains(name)), "{problems}");
        assert_eq!(problems.lines().count(), names.len(), "{problems}");
    }

    fn urls(text: &str) -> Result<Vec<String>, String> {
        let mut problems = Problems::default();
        let urls = base_urls("SECONDARIES", text, &mut problems);
        problems.none().map(|()| urls)
    }

    #[test]
    fn base_urls_are_trimmed() {
        let expected = vec!["http://a:1".to_string(), "http://[::1]:2".into(), "http://b".into()];
        assert_eq!(urls(" http://a:1/ , ,http://[::1]:2// ,http://b,"), Ok(expected));
        assert_eq!(urls(" , "), Ok(vec![]));
    }

    #[test]
    fn base_urls_that_cannot_be_called_are_refused() {
        for bad in ["https://a:1", "a:1", "http://", "http://a:x", "http://a:0", "http://a/path"] {
            assert!(urls(bad).is_err(), "{bad} was accepted");
        }
        let twice = urls("http://a:1,HTTP://A:1/").unwrap_err();
        assert!(twice.contains("twice"), "{twice}");
        assert_eq!(urls("ftp://a,b:2").unwrap_err().lines().count(), 2);
    }
}
