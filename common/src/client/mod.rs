//! Calls from node to node. The only user of ureq.
//!
//! One [`Client`] stands for one other node: its base URL, a pool of kept connections, the last
//! address its name resolved to. A call that fails on a connection which the peer closed a moment
//! ago says nothing about the peer, so it is made again at once; deliveries are recognised by
//! their `seq`, so nothing is stored twice by that.

mod transport;

use std::io::{self, ErrorKind};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ureq::http::{HeaderValue, Method, Request, Uri};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Agent, AsSendBody, Error, Timeout};

use crate::locked::locked;
use crate::tokens::Tokens;
use transport::WholeCalls;

/// Bytes of an answer that are read at most.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// The same of an answer to a POST or PUT, which says no more than where the node stands. Many of
/// them may be on their way at the same time.
const MAX_ACK_BYTES: u64 = 1 << 20;

/// Kept connections: at least as many as there are calls in flight to one node.
const MAX_IDLE_CONNECTIONS: usize = 64;

/// Kept connections are given up before the other side does so.
const MAX_IDLE_AGE: Duration = Duration::from_secs(15);

/// How long making a connection may take. A lost packet is sent again after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a call is made again after a kept connection turned out to be closed.
const RETRIES: usize = 2;

/// How long the address of a name is believed. Containers change theirs.
const ADDRESS_EXPIRES: Duration = Duration::from_secs(5);

/// Why a call has failed: nobody listens there.
pub const REFUSED: &str = "connection refused";

/// Why a call has failed: nobody has this name.
pub const NO_SUCH_NAME: &str = "its name does not resolve";

/// The answer to a call, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Calls one other node. A call fails when there is no complete answer in time, with the reason in
/// words for an operator.
#[derive(Debug)]
pub struct Client {
    base: String,
    /// The kept connections. Replaced when they are broken off.
    agent: Mutex<Agent>,
    address: Address,
    timeout: Duration,
    bearer: Bearer,
}

/// The token that calls carry, if there is one.
#[derive(Debug, Clone, Default)]
pub struct Bearer(Option<HeaderValue>);

impl Bearer {
    /// The first of these tokens.
    pub fn first_of(tokens: &Tokens) -> Bearer {
        let field = tokens.first().map(|token| format!("Bearer {token}"));
        let mut value = field.and_then(|field| HeaderValue::from_maybe_shared(field).ok());
        value.iter_mut().for_each(|value| value.set_sensitive(true));
        Bearer(value)
    }
}

impl Client {
    /// For the node at this base URL (`http://host:port`, no slash at the end). Each call,
    /// connecting and reading included, is bounded by `timeout`.
    pub fn new(base: &str, timeout: Duration) -> Client {
        let address = Address::default();
        let agent = Mutex::new(new_agent(timeout, &address));
        Client { base: base.to_string(), agent, address, timeout, bearer: Bearer::default() }
    }

    /// The same with this token in every call.
    #[must_use]
    pub fn with_token(self, bearer: &Bearer) -> Client {
        Client { bearer: bearer.clone(), ..self }
    }

    /// Ends all connections: they may lead nowhere. Calls that are waiting on them are made again
    /// at once, on new ones, within the time that they have left.
    pub fn reconnect(&self) {
        self.address.forget();
        let fresh = new_agent(self.timeout, &self.address);
        let old = mem::replace(&mut *locked(&self.agent), fresh);
        old.shutdown();
    }

    /// The base URL of the node.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Posts JSON to a path.
    pub fn post(&self, path: &str, body: &[u8]) -> Result<Answer, String> {
        self.call(Method::POST, path, Some(body))
    }

    /// Puts JSON to a path.
    pub fn put(&self, path: &str, body: &[u8]) -> Result<Answer, String> {
        self.call(Method::PUT, path, Some(body))
    }

    /// Gets a path.
    pub fn get(&self, path: &str) -> Result<Answer, String> {
        self.call(Method::GET, path, None)
    }

    fn call(&self, method: Method, path: &str, body: Option<&[u8]>) -> Result<Answer, String> {
        let start = Instant::now();
        // A resolver panics when the system starts no thread for it.
        let attempt = |left| {
            let attempt = AssertUnwindSafe(|| self.attempt(&method, path, body, left));
            catch_unwind(attempt).unwrap_or_else(|_| Err(io::Error::other("panicked").into()))
        };
        let mut result = attempt(None);
        for _ in 0..RETRIES {
            if !result.as_ref().is_err_and(is_closed_connection) {
                break;
            }
            let left = self.timeout.saturating_sub(start.elapsed());
            result = match left.is_zero() {
                true => Err(Error::Timeout(Timeout::Global)),
                false => attempt(Some(left)),
            };
        }
        result.map_err(|error| {
            self.address.forget();
            reason(&error, self.timeout)
        })
    }

    /// Makes a call once, in the time that is left if that is less than the whole timeout.
    fn attempt(
        &self,
        method: &Method,
        path: &str,
        mut body: Option<&[u8]>,
        left: Option<Duration>,
    ) -> Result<Answer, Error> {
        let agent = locked(&self.agent).clone();
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if body.is_some() {
            request = request.header("Content-Type", "application/json");
        }
        if let Bearer(Some(token)) = &self.bearer {
            request = request.header("Authorization", token);
        }
        let mut nothing = ();
        let body = body.as_mut().map_or_else(|| nothing.as_body(), AsSendBody::as_body);
        let mut request = request.body(body)?;
        if left.is_some() {
            request = agent.configure_request(request).timeout_global(left).build();
        }
        let response = agent.run(request)?;
        let status = response.status().as_u16();
        let most = if *method == Method::GET { MAX_ANSWER_BYTES } else { MAX_ACK_BYTES };
        let body = response.into_body().into_with_config().limit(most).read_to_vec()?;
        Ok(Answer { status, body })
    }
}

/// That this is the base URL of a node, `http://host:port`. Fails with the reason why not, in words
/// that follow the URL.
pub fn check_base_url(url: &str) -> Result<(), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
    if uri.scheme_str() != Some("http") {
        return Err("must begin with http://");
    }
    let authority = uri.authority().ok_or("has no host")?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err("must be http://host:port");
    }
    let port = authority.as_str().rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    if port.is_some() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("has a port that is not between 1 and 65535");
    }
    if uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
        return Err("must be http://host:port without a path");
    }
    Ok(())
}

fn new_agent(timeout: Duration, address: &Address) -> Agent {
    let config = Agent::config_builder()
        .timeout_global(Some(timeout))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent("replicated-log")
        .accept("")
        .max_idle_connections(MAX_IDLE_CONNECTIONS)
        .max_idle_connections_per_host(MAX_IDLE_CONNECTIONS)
        .max_idle_age(MAX_IDLE_AGE)
        .input_buffer_size(8 * 1024)
        .output_buffer_size(16 * 1024)
        .build();
    Agent::with_parts(config, WholeCalls::default(), address.clone())
}

/// Whether the peer ended the connection, as it does with kept ones when it restarts.
fn is_closed_connection(error: &Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    let closed = [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof];
    matches!(error, Error::Io(error) if closed.contains(&error.kind()))
}

fn reason(error: &Error, timeout: Duration) -> String {
    match error {
        Error::Timeout(Timeout::Resolve) => "its name did not resolve in time".into(),
        Error::Timeout(Timeout::Connect) if timeout > CONNECT_TIMEOUT => {
            format!("no connection within {} ms", CONNECT_TIMEOUT.as_millis())
        }
        Error::Timeout(_) => format!("no answer within {} ms", timeout.as_millis()),
        Error::HostNotFound => NO_SUCH_NAME.into(),
        Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused => REFUSED.into(),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable".into(),
            // The standard library reports a name that does not resolve as uncategorised.
            _ if error.raw_os_error().is_none() && error.to_string().contains("lookup address") => {
                NO_SUCH_NAME.into()
            }
            _ => format!("connection broken: {error}"),
        },
        Error::Protocol(error) => format!("not an HTTP answer: {error}"),
        Error::BodyExceedsLimit(limit) => format!("an answer of more than {limit} bytes"),
        other => other.to_string(),
    }
}

/// The last known addresses of one node. The system's resolver, which spends a thread on its
/// timeout, is asked only when they are too old.
#[derive(Debug, Default, Clone)]
struct Address(Arc<Mutex<Option<(Instant, ResolvedSocketAddrs)>>>);

impl Address {
    fn forget(&self) {
        *locked(&self.0) = None;
    }
}

impl Resolver for Address {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let known = locked(&self.0).clone();
        if let Some((_, addresses)) = known.filter(|(at, _)| at.elapsed() < ADDRESS_EXPIRES) {
            return Ok(addresses);
        }
        let found = DefaultResolver::default().resolve(uri, config, timeout)?;
        *locked(&self.0) = Some((Instant::now(), found.clone()));
        Ok(found)
    }
}
