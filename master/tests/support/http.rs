//! A client that keeps its connection, waits for a bounded time and shows every byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Nothing in these tests takes so long.
pub const TIMEOUT: Duration = Duration::from_secs(40);

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// From the first byte sent to the last received.
    pub took: Duration,
}

impl Answer {
    /// The value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a node answers in UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the answer {} {}", self.status, self.text()))
    }

    /// The status and the whole body: what most tests compare.
    pub fn seen(&self) -> (u16, &str) {
        (self.status, self.text())
    }

    /// The field `messages`.
    pub fn messages(&self) -> Vec<String> {
        let messages = self.json()["messages"].take();
        serde_json::from_value(messages).expect("messages are an array of strings")
    }

    /// The field `seq`.
    pub fn seq(&self) -> usize {
        let seq = self.json()["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {}", self.text()));
        usize::try_from(seq).expect("a place fits")
    }
}

/// A kept connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(addr: SocketAddr) -> io::Result<Connection> {
        Connection::open_for(addr, TIMEOUT)
    }

    /// One that waits no longer than this for anything.
    pub fn open_for(addr: SocketAddr, timeout: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&addr, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    /// Sends a request and returns the answer; panics when there is none.
    pub fn send(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let answer = self.try_send(method, path, &[], body);
        answer.unwrap_or_else(|error| panic!("no answer to {method} {path}: {error}"))
    }

    /// Posts a message to a master.
    pub fn post_message(&mut self, message: &str) -> Answer {
        self.send("POST", "/messages", &json!({ "msg": message }).to_string())
    }

    /// Posts a message and asks for an answer without the log, which would be long.
    pub fn post_message_briefly(&mut self, message: &str) -> Answer {
        let body = json!({ "msg": message }).to_string();
        let answer = self.try_send("POST", "/messages", &["Prefer: return=minimal"], &body);
        answer.unwrap_or_else(|error| panic!("no answer to POST /messages: {error}"))
    }

    /// Sends a request with more header lines.
    pub fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> io::Result<Answer> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: node\r\n");
        headers.iter().for_each(|line| request.extend([line, "\r\n"]));
        if !body.is_empty() || method == "POST" {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.extend(["\r\n", body]);
        let start = Instant::now();
        self.write(request.as_bytes())?;
        let mut answer = self.read(method == "HEAD")?;
        answer.took = start.elapsed();
        Ok(answer)
    }

    /// Sends these bytes and nothing else.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Whether an answer has come, or the end of the connection.
    pub fn is_answered(&self) -> bool {
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true).expect("a socket can be asked");
        let is_answered = stream.peek(&mut [0]).is_ok();
        stream.set_nonblocking(false).expect("a socket can wait");
        is_answered
    }

    /// Waits no longer than this for anything that is read.
    pub fn wait_at_most(&self, timeout: Duration) {
        self.stream.get_ref().set_read_timeout(Some(timeout)).expect("it is not zero");
    }

    /// Sends no more, and reads on.
    pub fn half_close(&self) -> io::Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)
    }

    /// Reads one answer; that to a HEAD has no body.
    pub fn read(&mut self, head_only: bool) -> io::Result<Answer> {
        let (start, status, headers) = {
            let start = Instant::now();
            let mut line = self.read_line()?;
            while line.ends_with(" 100 Continue") {
                self.read_headers()?;
                line = self.read_line()?;
            }
            let status = line.strip_prefix("HTTP/").and_then(|rest| rest.split(' ').nth(1));
            let status = status.and_then(|status| status.parse().ok());
            let bad = || io::Error::other(format!("not a status line: {line:?}"));
            (start, status.ok_or_else(bad)?, self.read_headers()?)
        };
        let mut answer = Answer { status, headers, body: Vec::new(), took: Duration::ZERO };
        let length = match status {
            204 => Some(0),
            _ => answer.header("Content-Length").and_then(|length| length.parse().ok()),
        };
        let length: usize = length.ok_or_else(|| io::Error::other("no Content-Length"))?;
        if !head_only {
            answer.body = vec![0; length];
            self.stream.read_exact(&mut answer.body)?;
        }
        answer.took = start.elapsed();
        Ok(answer)
    }

    /// Begins to follow a stream of events: a GET of this path, whose answer must be a 200.
    pub fn follow(mut self, path: &str, headers: &[&str]) -> io::Result<Events> {
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n");
        headers.iter().for_each(|line| request.extend([line, "\r\n"]));
        self.write(&[request.as_bytes(), b"\r\n"].concat())?;
        let line = self.read_line()?;
        let fields = self.read_headers()?;
        let is_stream =
            fields.contains(&("Content-Type".into(), "text/event-stream; charset=utf-8".into()));
        if line != "HTTP/1.1 200 OK" || !is_stream {
            return Err(io::Error::other(format!("{line} {fields:?}")));
        }
        Ok(Events(self))
    }

    fn read_headers(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            let Some((name, value)) = line.split_once(": ") else { return Ok(headers) };
            headers.push((name.to_string(), value.to_string()));
        }
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_string())
    }
}

/// A stream of events.
#[derive(Debug)]
pub struct Events(Connection);

impl Events {
    /// The next event: its id, if it has one, and its data. Signs of life are passed over.
    pub fn next(&mut self) -> io::Result<(Option<u64>, Value)> {
        let (mut id, mut data) = (None, None);
        loop {
            let line = self.0.read_line()?;
            if let Some(number) = line.strip_prefix("id: ") {
                id = number.parse().ok();
            } else if let Some(json) = line.strip_prefix("data: ") {
                data = Some(serde_json::from_str(json).map_err(io::Error::other)?);
            } else if let (true, Some(data)) = (line.is_empty(), data.take()) {
                return Ok((id, data));
            }
        }
    }
}
