//! A disk that is soon full.

use std::io::{self, Write};
use std::{fs, process, thread};

use super::directory::Directory;

/// A file system of its own that is soon full. It is gone in the end, also when the test fails; what
/// runs on it must have been declared after it, to be ended before.
#[derive(Debug)]
pub struct SmallDisk(Directory);

impl SmallDisk {
    /// One of so many megabytes. `None` where none may be made, which is said past the harness: it
    /// would swallow it.
    pub fn mount(megabytes: u32) -> Option<SmallDisk> {
        let disk = SmallDisk(Directory::new());
        fs::create_dir_all(disk.path()).expect("the directory can be made");
        let size = format!("size={megabytes}m");
        if SmallDisk::run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &disk.path()]) {
            return Some(disk);
        }
        let test = thread::current().name().unwrap_or_default().to_string();
        let _ = writeln!(io::stderr(), "\nNOT TESTED: {test}: no file system can be mounted here");
        None
    }

    pub fn path(&self) -> String {
        self.0.of("disk")
    }

    /// From now on it can only be read.
    pub fn forbid_writes(&self) {
        let done = SmallDisk::run("mount", &["-o", "remount,ro", &self.path()]);
        assert!(done, "{} can still be written", self.path());
    }

    /// Fills what is left of it.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.filler()).expect("a file can be made");
        while file.write_all(&[0; 64 * 1024]).is_ok() {}
    }

    /// Gives the room back that was filled.
    pub fn relieve(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> String {
        format!("{}/filler", self.path())
    }

    fn run(command: &str, args: &[&str]) -> bool {
        let run = process::Command::new(command).args(args).stderr(process::Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // One that was not mounted cannot be unmounted either. A busy one goes when it can.
        let path = self.path();
        if !SmallDisk::run("umount", &[&path]) {
            SmallDisk::run("umount", &["--lazy", &path]);
        }
    }
}
