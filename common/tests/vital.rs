//! A node whose vital thread has panicked ends: it must not go on as if nothing had happened.

use std::process::Command;
use std::time::Duration;
use std::{env, thread};

use common::vital;

/// Says that this process is the one that ends.
const CHILD: &str = "VITAL_CHILD";

/// Goal: the exit code of a process whose vital thread panics, and of one whose thread ends in good
/// order. The process is this test again.
#[test]
fn a_panic_of_a_vital_thread_ends_the_process() {
    let Ok(what) = env::var(CHILD) else {
        let exit_code = |what: &str| {
            let me = env::current_exe().expect("it is running");
            let output = Command::new(me).env(CHILD, what).output().expect("it can be started");
            output.status.code()
        };
        assert_eq!(exit_code("panics"), Some(1));
        assert_eq!(exit_code("ends"), Some(0), "it has nothing to say");
        return;
    };
    let panics = what == "panics";
    let thread = vital::start("test", move || assert!(!panics, "as it should"));
    assert!(thread.is_ok());
    if panics {
        // Never so long, unless the process goes on.
        thread::sleep(Duration::from_secs(20));
    }
    std::process::exit(0);
}
