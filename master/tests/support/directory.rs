//! Directories for the logs of nodes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::{env, fs, process};

/// A directory of its own that is removed in the end.
#[derive(Debug)]
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("nodes-{}-{}", process::id(), COUNT.fetch_add(1, Relaxed));
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the temporary directory can be written");
        Directory(path)
    }

    /// The directory of this node.
    pub fn of(&self, node: &str) -> String {
        self.0.join(node).to_str().expect("a path in UTF-8").to_string()
    }

    /// The lines of all files of entries that this node has set aside.
    pub fn dropped(&self, node: &str) -> Vec<String> {
        let files = fs::read_dir(self.0.join(node)).into_iter().flatten().flatten();
        let is_ours = |name: &str| name.starts_with("dropped-") && name.ends_with(".jsonl");
        let ours = files.filter(|file| file.file_name().to_str().is_some_and(is_ours));
        let texts = ours.map(|file| fs::read_to_string(file.path()).expect("it can be read"));
        texts.flat_map(|text| text.lines().map(str::to_string).collect::<Vec<_>>()).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn copy_directory(from: &str, to: &str) {
    let copied = process::Command::new("cp").args(["-r", from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "{from} cannot be copied");
}
