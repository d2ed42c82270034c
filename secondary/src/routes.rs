//! What a secondary answers to which request.

use common::entries::Log;
use common::http::{Handler, Reply, Request, Response};
use common::wire::{self, EXPECTED_MSG, OriginalAck, Replicate, SecondaryHealth};

use crate::replica::{Outcome, Replica};

/// Answers requests from a copy of the log.
#[derive(Debug)]
pub struct Routes {
    replica: Replica,
}

impl Routes {
    /// Routes to this replica.
    pub fn new(replica: Replica) -> Routes {
        Routes { replica }
    }

    fn answer(&self, request: &Request) -> Response {
        if let Some(seq) = request.path.strip_prefix("/messages/") {
            return match request.method.as_str() {
                "GET" | "HEAD" => self.replica.read(|log| wire::message(log, seq)),
                _ => wire::method_not_allowed("GET, HEAD"),
            };
        }
        match (request.path.as_str(), request.method.as_str()) {
            ("/messages", "GET" | "HEAD") => self.replica.read(wire::messages),
            ("/health", "GET" | "HEAD") => self.health(),
            ("/replicate", "POST") => self.replicate(&request.body),
            ("/messages" | "/health", _) => wire::method_not_allowed("GET, HEAD"),
            ("/replicate", _) => wire::method_not_allowed("POST"),
            _ => wire::not_found(),
        }
    }

    fn health(&self) -> Response {
        let health = SecondaryHealth {
            status: "ok".into(),
            count: self.replica.read(Log::last_seq).0,
            delay_ms: u64::try_from(self.replica.delay().as_millis()).unwrap_or(u64::MAX),
            position: Some(self.replica.position()),
        };
        Response::json(200, &health)
    }

    fn replicate(&self, body: &[u8]) -> Response {
        let Ok(call) = wire::read_object::<Replicate>(body) else {
            return Response::error(400, EXPECTED_MSG);
        };
        match self.replica.receive(call) {
            Outcome::Acknowledged(ack) => Response::json(200, &ack),
            Outcome::AppendedUnnumbered { idx } => {
                Response::json(200, &OriginalAck { status: "ok".into(), idx })
            }
            Outcome::Refused(refusal) => Response::json(409, &refusal),
            Outcome::Malformed => Response::error(400, EXPECTED_MSG),
        }
    }
}

impl Handler for Routes {
    fn handle(&self, request: &Request, reply: Reply) {
        reply.send(self.answer(request));
    }
}
