//! The nodes' binaries, and runs of them that end by themselves.

use std::env::consts::EXE_SUFFIX;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

use super::{SOON, wait_until};

/// Settings as environment variables.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Master,
    Secondary,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Secondary => "secondary",
        }
    }

    /// A command that starts such a node with an empty environment.
    pub fn command(self) -> Command {
        let master = Path::new(env!("CARGO_BIN_EXE_master"));
        let mut command = match self {
            Role::Master => Command::new(master),
            Role::Secondary => Command::new(secondary_next_to(master)),
        };
        command.env_clear().stdin(Stdio::null());
        command
    }

    /// Runs a command that is expected to end by itself, and returns its output.
    pub fn run(self, settings: Settings, args: &[&str]) -> Output {
        let mut command = self.command();
        command.envs(settings.iter().copied()).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = Running(command.spawn().expect("a node that was built can be started"));
        child.output()
    }
}

/// A child that does not outlive the test.
struct Running(Child);

impl Running {
    fn output(mut self) -> Output {
        let what = format!("process {} at its end", self.0.id());
        let status = wait_until(&what, SOON, || match self.0.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (out, err) = (self.0.stdout.take(), self.0.stderr.take());
        out.expect("it is piped").read_to_end(&mut stdout).expect("a pipe can be read");
        err.expect("it is piped").read_to_end(&mut stderr).expect("a pipe can be read");
        Output { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The secondary of the same build. Cargo builds the binaries of one package for its tests and no
/// others, so it is built here if it is missing or older than its sources.
fn secondary_next_to(master: &Path) -> PathBuf {
    static SECONDARY: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let folder = master.parent().expect("a binary lies in a folder");
        let secondary = folder.join(format!("secondary{EXE_SUFFIX}"));
        if !is_up_to_date(&secondary) {
            build_secondary(folder);
        }
        secondary
    };
    SECONDARY.get_or_init(find).clone()
}

fn is_up_to_date(binary: &Path) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let sources = ["Cargo.lock", "common/Cargo.toml", "common/src", "secondary/Cargo.toml"];
    let sources = [&sources[..], &["secondary/src"]].concat();
    let sources: Vec<_> = sources.iter().map(|name| root.join(name)).collect();
    modified(binary).is_some_and(|built| sources.iter().all(|source| newest(source) <= built))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// When the newest file in this folder was changed.
fn newest(path: &Path) -> SystemTime {
    let inside = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let inside = inside.map(|path| newest(&path)).max();
    let own = if path.is_dir() { None } else { modified(path) };
    own.max(inside).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn build_secondary(folder: &Path) {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let target = folder.parent().expect("a profile's folder lies in the target folder");
    let status = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--package", "secondary", "--bin", "secondary"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the secondary could not be built");
}
