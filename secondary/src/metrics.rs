//! What a secondary counts: `GET /metrics`.

use std::collections::BTreeMap;
use std::fmt;

use common::metrics::{Figures, NodeFigures, Writer};

/// What `GET /metrics` tells.
#[derive(Debug)]
pub struct SecondaryFigures {
    /// As every node.
    pub node: NodeFigures,
    /// Entries taken into the copy.
    pub entries_accepted: u64,
    /// Calls of a master, by result.
    pub calls: BTreeMap<&'static str, u64>,
    /// The copy may be read as if it were up to date.
    pub ready: bool,
}

impl Figures for SecondaryFigures {
    fn write(&self, out: &mut Writer<'_>) -> fmt::Result {
        self.node.write(out)?;
        let help = "Entries taken into the copy since the start";
        out.counter("entries_accepted", help, self.entries_accepted)?;
        let calls: Vec<_> = self.calls.iter().map(|(how, n)| ([("result", *how)], *n)).collect();
        out.counters("calls_received", "Calls of a master, by result", &calls)?;
        let help = "1 while the copy is level with its master, as far as it knows";
        out.gauge("ready", help, f64::from(u8::from(self.ready)))
    }
}
