//! Who may ask a node for what: three rules, checked before the body of a request is read.
//!
//! | rule | against | refusal |
//! |---|---|---|
//! | the `Host` is a name that this node is known by | a page under a foreign name that resolves to the node (DNS rebinding) | 421 |
//! | a change does not come from the page of another origin | any page that the user of a browser opens | 403 |
//! | the request carries a token, if [`Who`] may ask needs one | whoever reaches the port | 401 |
//!
//! Without tokens the third rule lets everybody pass. The rules are pure; [`Access`] counts and logs
//! what they refuse.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use log::warn;

use crate::http::{Request, Response};
use crate::logging::beginning;
use crate::metrics::Counts;
use crate::seldom::Seldom;
use crate::tokens::Tokens;

/// Between two log lines about refused requests.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Names that are the node's in any network, with everything below them.
const KNOWN_DOMAINS: &[&str] = &["localhost", "svc", "svc.cluster.local"];

/// Who may make a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Whoever reaches the port.
    Anybody,
    /// A client that reads the log: with an API token, unless reads are open.
    Reader,
    /// A client that writes: with an API token.
    Writer,
    /// Whoever disturbs the cluster on purpose: with a token of either kind.
    Tester,
    /// Another node: with a cluster token.
    Node,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its `Host` is none of the node's names.
    Host,
    /// A page of another origin made it.
    CrossOrigin,
    /// It carries no token and needs one.
    NoToken,
    /// It carries a token, but none of those that it needs.
    WrongToken,
}

/// The rules of one node.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Names of the node beside those that every node has.
    pub hosts: Vec<String>,
    /// The tokens of the nodes.
    pub cluster: Tokens,
    /// The tokens of the clients.
    pub clients: Tokens,
    /// Clients read without a token.
    pub read_open: bool,
}

impl Rules {
    /// The host of this base URL is one of the node's names too.
    pub fn allow_host_of(&mut self, url: &str) {
        let host = url.strip_prefix("http://").unwrap_or(url);
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        self.hosts.push(name.to_string());
    }

    /// Whether a request with this head may be answered.
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn check(&self, head: &Request, who: Who) -> Result<(), Refused> {
        if !head.values("Host").all(|host| self.is_own(host)) {
            return Err(Refused::Host);
        }
        if is_cross_origin(head) {
            return Err(Refused::CrossOrigin);
        }
        let (cluster, clients) = (&self.cluster, &self.clients);
        match who {
            // A browser asks so, without a token, before it makes the request itself.
            _ if head.method == "OPTIONS" => Ok(()),
            Who::Anybody => Ok(()),
            Who::Reader if self.read_open => Ok(()),
            Who::Reader | Who::Writer => check_token(head, &[clients]),
            Who::Tester => check_token(head, &[clients, cluster]),
            Who::Node => check_token(head, &[cluster]),
        }
    }

    /// Whether the request may be told what only nodes need to know.
    pub fn trust(&self, head: &Request) -> bool {
        check_token(head, &[&self.cluster]).is_ok()
    }

    /// Whether this `Host`, perhaps with a port, is a name or an address of this node.
    fn is_own(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        if let Some(address) = name.strip_prefix('[') {
            return address.strip_suffix(']').is_some_and(|it| it.parse::<Ipv6Addr>().is_ok());
        }
        let is_plain =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        is_plain
            || name.parse::<Ipv4Addr>().is_ok()
            || KNOWN_DOMAINS.iter().any(|domain| is_below(name, domain))
            || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// Whether this name ends with a dot and the domain.
fn is_below(name: &str, domain: &str) -> bool {
    let end = name.len().checked_sub(domain.len()).and_then(|at| name.split_at_checked(at));
    end.is_some_and(|(rest, end)| rest.ends_with('.') && end.eq_ignore_ascii_case(domain))
}

/// Whether a page of another origin made this request, which is no read. A client that is no
/// browser sends neither field.
fn is_cross_origin(head: &Request) -> bool {
    if matches!(head.method.as_str(), "GET" | "HEAD" | "OPTIONS") {
        return false;
    }
    match (head.header("Sec-Fetch-Site"), head.header("Origin")) {
        (Some(site), _) => !matches!(site, "same-origin" | "none"),
        // An origin is `scheme://host:port`, or `null`.
        (None, Some(origin)) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            let is_own =
                |host: &str| head.header("Host").is_some_and(|own| own.eq_ignore_ascii_case(host));
            !host.is_some_and(is_own)
        }
        (None, None) => false,
    }
}

/// Whether the request carries one of these tokens, if there are any.
fn check_token(head: &Request, accepted: &[&Tokens]) -> Result<(), Refused> {
    if accepted.iter().all(|tokens| tokens.is_empty()) {
        return Ok(());
    }
    let Some(field) = head.header("Authorization") else { return Err(Refused::NoToken) };
    let (scheme, token) = field.split_once(' ').unwrap_or_default();
    let is_known = || accepted.iter().any(|tokens| tokens.contain(token.trim()));
    match scheme.eq_ignore_ascii_case("Bearer") && is_known() {
        true => Ok(()),
        false => Err(Refused::WrongToken),
    }
}

impl Refused {
    const ALL: [Refused; 4] =
        [Refused::Host, Refused::CrossOrigin, Refused::NoToken, Refused::WrongToken];

    /// The word that it is counted by.
    fn word(self) -> &'static str {
        match self {
            Refused::Host => "unknown_host",
            Refused::CrossOrigin => "cross_origin",
            Refused::NoToken => "no_token",
            Refused::WrongToken => "wrong_token",
        }
    }

    fn answer(self) -> Response {
        let (status, error, challenge) = match self {
            Refused::Host => {
                (421, "The Host is none of this node's names: ALLOWED_HOSTS can name it", None)
            }
            Refused::CrossOrigin => (403, "A page of another origin may change nothing here", None),
            Refused::NoToken => (401, "A token is needed", Some("Bearer")),
            Refused::WrongToken => (
                401,
                "The token is not the one that is needed",
                Some("Bearer error=\"invalid_token\""),
            ),
        };
        let answer = Response::refused(status, error);
        match challenge {
            Some(challenge) => answer.with_header("WWW-Authenticate", challenge),
            None => answer,
        }
    }
}

/// The rules of a node, and what they have refused.
#[derive(Debug)]
pub struct Access {
    rules: Rules,
    refused: Counts,
    logged: Seldom,
}

impl Access {
    /// With these rules.
    pub fn new(rules: Rules) -> Access {
        let refused = Counts::new(&Refused::ALL.map(Refused::word));
        Access { rules, refused, logged: Seldom::new(LOG_INTERVAL) }
    }

    /// Lets a request pass, or counts it and gives the answer to it.
    ///
    /// # Errors
    /// The refusal.
    pub fn admit(&self, head: &Request, who: Who, peer: SocketAddr) -> Result<(), Response> {
        self.rules.check(head, who).map_err(|refused| {
            self.refused.add(refused.word());
            self.log(refused, head, peer);
            refused.answer()
        })
    }

    /// Whether the request may be told what only nodes need to know.
    pub fn trusts(&self, head: &Request) -> bool {
        self.rules.trust(head)
    }

    /// How many requests were refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refused.iter()
    }

    fn log(&self, refused: Refused, head: &Request, peer: SocketAddr) {
        let Some(count) = self.logged.count() else { return };
        let (word, method, path) = (refused.word(), beginning(&head.method), &head.path);
        let (path, host) = (beginning(path), beginning(head.header("Host").unwrap_or_default()));
        warn!(
            "refused strangers count={count} reason={word} peer={peer} method={method:?} \
             path={path:?} host={host:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, fields: &[(&str, &str)]) -> Request {
        let headers = fields.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Request { method: method.into(), headers: headers.collect(), ..Request::default() }
    }

    fn rules(cluster: &str, clients: &str) -> Rules {
        let tokens = |text| Tokens::parse(text).unwrap_or_default();
        let hosts = vec!["log.example.com".into()];
        Rules { hosts, cluster: tokens(cluster), clients: tokens(clients), read_open: false }
    }

    #[test]
    fn a_host_is_an_address_or_an_own_name() {
        let own = [
            "127.0.0.1:8000",
            "10.0.0.5",
            "[::1]:8000",
            "[2001:db8::7]",
            "localhost",
            "LocalHost:1",
            "master:8000",
            "secondary_1",
            "a.localhost",
            "master.log.svc:8000",
            "master.log.SVC.cluster.local",
            "Log.Example.com:443",
            "",
        ];
        let foreign = [
            "evil.example:8000",
            "log.example.com.evil.example",
            "xlog.example.com",
            "evil.svc.com",
            "evilsvc.cluster.local",
            "1.2.3.4.evil.example",
            "[evil.example]",
            "[::1].evil.example",
            "evil.example:x",
            "a.b:",
            "localhost.",
            "svc.cluster.local",
            "ä.ö",
            "a b",
            "user@a.b",
        ];
        for (hosts, is_own) in [(&own[..], true), (&foreign[..], false)] {
            for host in hosts {
                let checked = rules("", "").check(&head("GET", &[("Host", host)]), Who::Anybody);
                assert_eq!(checked.is_ok(), is_own, "{host}");
            }
        }
        let two = head("GET", &[("Host", "localhost"), ("Host", "evil.example")]);
        assert_eq!(rules("", "").check(&two, Who::Anybody), Err(Refused::Host));
        assert_eq!(rules("", "").check(&head("GET", &[]), Who::Anybody), Ok(()), "no browser");
    }

    #[test]
    fn only_pages_of_the_own_origin_change_anything() {
        let (site, origin) = ("Sec-Fetch-Site", "Origin");
        let pass: &[&[(&str, &str)]] = &[
            &[],
            &[(site, "same-origin"), (origin, "http://x")],
            &[(site, "none")],
            &[(origin, "http://node:8000")],
            &[(origin, "https://NODE:8000")],
        ];
        let refused: &[&[(&str, &str)]] = &[
            &[(site, "cross-site")],
            &[(site, "same-site"), (origin, "http://node:8000")],
            &[(site, "")],
            &[(origin, "null")],
            &[(origin, "http://node:8001")],
            &[(origin, "http://evil.example")],
            &[(origin, "node:8000")],
        ];
        for (all, is_refused) in [(pass, false), (refused, true)] {
            for fields in all {
                let fields = [&[("Host", "node:8000")], *fields].concat();
                for (method, is_read) in [
                    ("POST", false),
                    ("PUT", false),
                    ("post", false),
                    ("GET", true),
                    ("HEAD", true),
                ] {
                    let checked = rules("", "").check(&head(method, &fields), Who::Node);
                    let expected = is_refused && !is_read;
                    assert_eq!(
                        checked == Err(Refused::CrossOrigin),
                        expected,
                        "{method} {fields:?}"
                    );
                }
            }
        }
        assert!(is_cross_origin(&head("POST", &[("Origin", "http://")])), "no Host to compare");
    }

    #[test]
    fn each_kind_of_caller_has_its_token() {
        let all = [Who::Anybody, Who::Reader, Who::Writer, Who::Tester, Who::Node];
        let passes = |rules: &Rules, field: &str| {
            let fields = [("authorization", field)];
            let head = head("GET", if field.is_empty() { &[] } else { &fields });
            all.map(|who| u8::from(rules.check(&head, who).is_ok()))
        };
        assert_eq!(passes(&rules("", ""), ""), [1, 1, 1, 1, 1], "without tokens");
        assert_eq!(passes(&rules("c", ""), ""), [1, 1, 1, 0, 0]);
        assert_eq!(passes(&rules("c", ""), "Bearer c"), [1, 1, 1, 1, 1]);
        assert_eq!(passes(&rules("", "a"), ""), [1, 0, 0, 0, 1]);
        let both = rules("c,d", "a");
        assert_eq!(passes(&both, ""), [1, 0, 0, 0, 0]);
        assert_eq!(passes(&both, "bearer a"), [1, 1, 1, 1, 0]);
        assert_eq!(passes(&both, "Bearer  d "), [1, 0, 0, 1, 1]);
        for wrong in ["c", "Basic c", "Bearer", "Bearer ", "Bearer c,d", "Bearer C", "Bearer cc"] {
            assert_eq!(passes(&both, wrong), [1, 0, 0, 0, 0], "{wrong}");
        }
        let open = Rules { read_open: true, ..both };
        assert_eq!(passes(&open, ""), [1, 1, 0, 0, 0]);
        assert!(open.trust(&head("GET", &[("Authorization", "Bearer c")])));
        assert!(!open.trust(&head("GET", &[("Authorization", "Bearer a")])));
        assert!(
            rules("", "a").trust(&head("GET", &[])),
            "nothing to forge without a cluster token"
        );
    }

    #[test]
    fn what_is_missing_and_what_is_wrong_differ() {
        let check = |fields| rules("c", "").check(&head("POST", fields), Who::Node);
        assert_eq!(check(&[]), Err(Refused::NoToken));
        assert_eq!(check(&[("Authorization", "Bearer x")]), Err(Refused::WrongToken));
        let access = Access::new(rules("c", ""));
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let refusal = access.admit(&head("POST", &[]), Who::Node, peer).unwrap_err();
        assert_eq!(refusal.status, 401);
        let counts: Vec<_> = access.refused().collect();
        assert!(counts.contains(&("no_token", 1)) && counts.contains(&("wrong_token", 0)));
    }
}
