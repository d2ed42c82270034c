//! Settings: text from flags and environment in, one checked value out.
//!
//! Each setting has a flag and an environment variable of the same name (`--port`, `PORT`). The
//! flag wins. An empty value counts as absent. All problems are reported together.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use log::LevelFilter;

use crate::client;
use crate::tokens::{Source, Tokens};

/// The end of `--help`.
pub const EXAMPLE: &str = "\
Example, each line in a terminal of its own:
  secondary --port 8001
  secondary --port 8002 --delay-ms 1500
  master --secondaries http://127.0.0.1:8001,http://127.0.0.1:8002
  curl http://127.0.0.1:8000/messages -d '{\"msg\":\"hello\"}'
The master's page, http://127.0.0.1:8000/, shows what happens.

Secrets are in the environment or in files only: CLUSTER_TOKEN, which nodes show each other, and
API_TOKEN, which clients need, or CLUSTER_TOKEN_FILE and API_TOKEN_FILE. Two with a comma between
them are both accepted, and the first is sent.";

/// The longest timeout: a day, in milliseconds.
pub const MAX_TIMEOUT_MS: u64 = 86_400_000;

/// Makes two structs of a table of settings: their text, and their checked values. A row holds the
/// help, the name, the type of the value, the value's name in the help, options for clap, and the
/// method of [`Given`](crate::settings::Given) that checks the text. A check may use the values of
/// earlier rows and the argument of `check`.
#[macro_export]
macro_rules! setting_table {
    (
        $(#[$about:meta])+ $settings:ident from $args:ident($($given:ident: $of:ty)?);
        $($(#[$help:meta])+ $name:ident: $type:ty, $unit:literal $(, $option:ident)?
            => $check:ident($($rule:expr),*);)+
    ) => {
        $(#[$about])+
        #[derive(Debug, Clone)]
        pub struct $settings { $($(#[$help])+ pub $name: $type,)+ }

        /// The settings as text, from flags and environment.
        #[derive(Debug, clap::Args)]
        pub struct $args {
            $($(#[$help])+ #[arg(long, env, value_name = $unit $(, $option = true)?)]
            $name: Option<String>,)+
        }

        impl $args {
            /// Checks the text. A wrong setting adds to `problems` and has its default instead.
            pub fn check(&self, $($given: $of,)? problems: &mut Vec<String>) -> $settings {
                $(let text = self.$name.as_deref();
                let given = $crate::settings::Given::new(stringify!($name), text, problems);
                let $name = given.$check($($rule),*);)+
                $settings { $($name),+ }
            }
        }
    };
}

setting_table! {
    /// Settings that every node has.
    NodeSettings from NodeArgs(default_port: u16);
    /// Address to listen on; 0.0.0.0 for all [default: 127.0.0.1]
    host: String, "ADDRESS" => text_or("127.0.0.1");
    /// TCP port to listen on; 0 picks a free one, which the ready line names
    /// [default: 8000 for a master, 8001 for a secondary]
    port: u16, "PORT" => number(default_port, 0..=u16::MAX);
    /// Name of this node in its log lines [default: master, or secondary-PORT]
    node_name: Option<String>, "NAME" => name();
    /// What is logged to stdout: off, error, warn, info, debug or trace [default: info]
    log_level: LevelFilter, "LEVEL" => level();
    /// Requests in progress at the same time; more get 503 [default: 1024]
    max_in_flight: usize, "COUNT" => number(1024, 1..=65_536);
    /// Longest request body in bytes; longer ones get 413 [default: 1048576]
    max_message_bytes: usize, "BYTES" => number(1 << 20, 1..=32 << 20);
    /// How long a connection may be idle, trickle its request or not read its answer before it is
    /// closed, in milliseconds [default: 60000]
    read_timeout_ms: u64, "MS" => number(60_000, 1..=MAX_TIMEOUT_MS);
    /// Idempotency keys that are remembered: those of the last entries with one
    /// [default: 100000]
    idempotency_keys: usize, "COUNT" => number(100_000, 0..=10_000_000);
    /// Directory to keep the log in; without one it is kept in memory only [default: none]
    data_dir: Option<PathBuf>, "DIRECTORY", global => text();
    /// What the messages of the log may take, in bytes; then the log is full; 0 for no limit
    /// [default: 1073741824]
    max_log_bytes: u64, "BYTES" => limit(1 << 30);
    /// Clients that may follow the log at the same time; more get 503 [default: 100]
    max_followers: usize, "COUNT" => number(100, 0..=10_000);
    /// File with the token that nodes show each other; or CLUSTER_TOKEN, in the environment only
    /// [default: none]
    cluster_token_file: Source, "FILE" => secret();
    /// File with the token that clients need; or API_TOKEN, in the environment only [default: none]
    api_token_file: Source, "FILE" => secret();
    /// 1 lets clients read without a token [default: 0]
    read_open: u8, "0|1" => number(0, 0..=1);
    /// Names of this node in URLs, separated by commas, beside addresses, names without a dot, the
    /// names of its machine and its Service, and that in ADVERTISE_URL [default: none]
    allowed_hosts: Vec<String>, "NAMES" => host_names();
    /// How long a stopping node waits for requests in progress, in milliseconds [default: 5000]
    shutdown_timeout_ms: u64, "MS" => number(5000, 0..=MAX_TIMEOUT_MS);
}

/// A setting that is being checked.
#[derive(Debug)]
pub struct Given<'a> {
    name: &'static str,
    text: Option<&'a str>,
    problems: &'a mut Vec<String>,
}

impl<'a> Given<'a> {
    /// A setting of this name; text of blanks alone is none.
    pub fn new(name: &'static str, text: Option<&'a str>, problems: &'a mut Vec<String>) -> Self {
        Given { name, text: text.map(str::trim).filter(|text| !text.is_empty()), problems }
    }

    /// The text, if there is any.
    pub fn text<T: From<String>>(self) -> Option<T> {
        self.text.map(|text| text.to_string().into())
    }

    /// The text, or this one.
    pub fn text_or(self, default: &str) -> String {
        self.text.unwrap_or(default).to_string()
    }

    /// The result of `parse`; the default when the text is absent or wrong.
    pub fn parse<T>(
        self,
        default: T,
        must_be: impl Display,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        let Some(text) = self.text else { return default };
        parse(text).unwrap_or_else(|| {
            let name = self.name.to_uppercase();
            self.problems.push(format!("{name}={text:?} must be {must_be}"));
            default
        })
    }

    /// A whole number in this range.
    pub fn number<T>(self, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        let must_be = format!("a whole number from {} to {}", range.start(), range.end());
        self.parse(default, must_be, |text| text.parse().ok().filter(|it| range.contains(it)))
    }

    /// A limit; 0 stands for none, which is `u64::MAX`.
    pub fn limit(self, default: u64) -> u64 {
        let most = self.number(default, 0..=u64::MAX);
        if most == 0 { u64::MAX } else { most }
    }

    fn name(self) -> Option<String> {
        self.parse(None, "1 to 64 visible ASCII characters", |name| {
            let is_name = name.len() <= 64 && name.chars().all(|c| c.is_ascii_graphic());
            is_name.then(|| Some(name.to_string()))
        })
    }

    fn level(self) -> LevelFilter {
        let levels = "one of off, error, warn, info, debug, trace";
        self.parse(LevelFilter::Info, levels, |level| match level {
            level if level.eq_ignore_ascii_case("warning") => Some(LevelFilter::Warn),
            level => level.parse().ok(),
        })
    }

    /// Where the tokens are: in the variable that is named like this setting but for `_FILE`, or in
    /// the file that this setting names. They are not shown when they are wrong.
    fn secret(self) -> Source {
        let name = self.name.to_uppercase();
        let variable = name.trim_end_matches("_FILE");
        let given = std::env::var(variable).unwrap_or_default();
        match (self.text, given.trim()) {
            (None, "") => Source::Nowhere,
            (Some(file), "") => Source::File(file.into()),
            (None, given) => Tokens::parse(given).map_or_else(
                || {
                    self.problems.push(format!("{variable} must be {}", Tokens::RULE));
                    Source::Nowhere
                },
                Source::Given,
            ),
            (Some(_), _) => {
                self.problems.push(format!("only one of {variable} and {name} can be set"));
                Source::Nowhere
            }
        }
    }

    fn host_names(self) -> Vec<String> {
        let names = self.text.unwrap_or_default().split(',').map(str::trim);
        let names: Vec<String> = names.filter(|name| !name.is_empty()).map(Into::into).collect();
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        for name in names.iter().filter(|name| !name.bytes().all(legal)) {
            let name_of_setting = self.name.to_uppercase();
            self.problems.push(format!("{name_of_setting}: {name:?} is not the name of a host"));
        }
        names
    }

    /// Base URLs from a list with commas. Blanks, slashes at the end and empty items are dropped.
    pub fn base_urls(self) -> Vec<String> {
        let mut urls: Vec<String> = Vec::new();
        let items = self.text.unwrap_or_default().split(',').map(str::trim);
        for item in items.filter(|item| !item.is_empty()) {
            let url = item.trim_end_matches('/').to_string();
            let is_twice = urls.iter().any(|other| other.eq_ignore_ascii_case(&url));
            let once = if is_twice { Err("is named twice") } else { Ok(()) };
            match client::check_base_url(&url).and(once) {
                Ok(()) => urls.push(url),
                Err(why) => {
                    self.problems.push(format!("{}: {item:?} {why}", self.name.to_uppercase()));
                }
            }
        }
        urls
    }
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

    fn check(flags: &[&str]) -> (NodeSettings, Vec<String>) {
        let cli = Cli::parse_from([&["node"], flags].concat());
        let mut problems = Vec::new();
        (cli.node.check(8000, &mut problems), problems)
    }

    #[test]
    fn defaults_are_those_of_the_readme() {
        let (node, problems) = check(&[]);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!((node.host.as_str(), node.port), ("127.0.0.1", 8000));
        assert_eq!((node.node_name, node.log_level), (None, LevelFilter::Info));
        assert_eq!((node.max_in_flight, node.max_message_bytes), (1024, 1 << 20));
        assert_eq!((node.read_timeout_ms, node.shutdown_timeout_ms), (60_000, 5000));
        assert_eq!((node.data_dir, node.max_log_bytes), (None, 1 << 30));
        assert_eq!(check(&["--max-log-bytes=0"]).0.max_log_bytes, u64::MAX);
    }

    #[test]
    fn everything_that_is_wrong_is_reported_at_once() {
        let flags = ["--port", "70000", "--log-level", "loud", "--max-in-flight", "0"];
        let (_, problems) = check(&[&flags[..], &["--read-timeout-ms=-1"]].concat());
        let names = ["PORT", "LOG_LEVEL", "MAX_IN_FLIGHT", "READ_TIMEOUT_MS"];
        assert_eq!(problems.len(), names.len(), "{problems:?}");
        for (problem, name) in problems.iter().zip(names) {
            assert!(problem.starts_with(&format!("{name}=")), "{problem}");
        }
    }

    fn urls(text: &str) -> Result<Vec<String>, Vec<String>> {
        let mut problems = Vec::new();
        let urls = Given::new("secondaries", Some(text), &mut problems).base_urls();
        if problems.is_empty() { Ok(urls) } else { Err(problems) }
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
        assert_eq!(twice, ["SECONDARIES: \"HTTP://A:1/\" is named twice"]);
        assert_eq!(urls("ftp://a,b:2").unwrap_err().len(), 2);
    }
}
