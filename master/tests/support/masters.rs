//! Masters that stand by for each other, and their secondaries.

use super::directory::Directory;
use super::history::History;
use super::node::{Node, Role, Settings};
use super::writers::Clients;
use super::{SOON, wait_until};

/// A master is missed after a second.
pub const QUICK: Settings = &[("HEARTBEAT_MS", "100"), ("UNHEALTHY_AFTER", "10")];

/// Masters over the same secondaries. Dropped in the order of the fields.
#[derive(Debug)]
pub struct Masters {
    pub masters: Vec<Node>,
    pub secondaries: Vec<Node>,
}

impl Masters {
    /// Two secondaries, and so many masters with these settings beside the default ones: the first
    /// reigns, the others stand by.
    pub fn start(masters: usize, settings: Settings) -> Masters {
        Masters::start_in(None, masters, settings)
    }

    /// The same with every log in there.
    pub fn start_in(directory: Option<&Directory>, masters: usize, settings: Settings) -> Masters {
        let own = |name: String| directory.map(|directory| directory.of(&name));
        let start = |role, name, settings: Settings| {
            let own = own(name);
            let directory = own.iter().map(|own| ("DATA_DIR", own.as_str()));
            Node::start(role, &directory.chain(settings.iter().copied()).collect::<Vec<_>>())
        };
        let secondaries: Vec<_> =
            (0..2).map(|n| start(Role::Secondary, format!("s{n}"), &[])).collect();
        let urls = secondaries.iter().map(Node::url).collect::<Vec<_>>().join(",");
        let settings = [&[("SECONDARIES", urls.as_str())], settings].concat();
        let mut cluster = Masters { masters: Vec::new(), secondaries };
        for number in 0..masters {
            let master = start(Role::Master, format!("m{number}"), &settings);
            match cluster.masters.first() {
                None => master.wait_until_ready(),
                Some(first) => master.wait_until_not_ready(&first.url()),
            }
            cluster.masters.push(master);
        }
        cluster
    }

    pub fn clients(&self) -> Clients {
        Clients::of_any(&self.masters.iter().map(Node::addr).collect::<Vec<_>>())
    }

    /// Waits until one master says that it is ready and the others say that it reigns.
    pub fn wait_for_one_master(&self) -> &Node {
        wait_until("one master", SOON, || {
            let answers: Vec<_> = self.masters.iter().map(|node| node.get("/ready")).collect();
            let ready = answers.iter().position(|answer| answer.status == 200);
            let texts: Vec<&str> = answers.iter().map(|answer| answer.text()).collect();
            let master = &self.masters[ready.ok_or_else(|| texts.join(" "))?];
            let agrees = |text: &&str| text.contains("\"ready\"") || text.contains(&master.url());
            if texts.iter().all(agrees) { Ok(master) } else { Err(texts.join(" ")) }
        })
    }

    /// Checks what clients were told against the logs of the master and the secondaries.
    pub fn check(&self, history: &History) {
        self.wait_for_one_master();
        let logs = equal_logs(&self.masters, &self.secondaries);
        assert!(history.acknowledged() > 50, "too little was written to mean anything");
        history.check(&logs).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

/// The logs of the master that reigns and the secondaries, once they are equal.
pub fn equal_logs(masters: &[Node], secondaries: &[Node]) -> Vec<Vec<String>> {
    wait_until("equal logs", SOON, || {
        let master = masters.iter().find(|master| master.get("/ready").status == 200);
        let nodes = master.into_iter().chain(secondaries);
        let logs: Vec<_> = nodes.map(all_of).collect();
        let is_equal = logs.len() > secondaries.len() && logs.iter().all(|log| *log == logs[0]);
        let lengths: Vec<_> = logs.iter().map(Vec::len).collect();
        if is_equal { Ok(logs) } else { Err(format!("lengths {lengths:?}")) }
    })
}

/// The log of a node with what is not committed.
pub fn all_of(node: &Node) -> Vec<String> {
    let answer = node.get("/messages?committed=false");
    if answer.status == 200 { answer.messages() } else { vec![answer.text().to_string()] }
}
