//! Writes the parts of the Helm chart that repeat manifests/: chart-sync REPOSITORY

#![allow(clippy::pedantic)]

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let repository = PathBuf::from(env::args().nth(1).expect("chart-sync REPOSITORY"));
    for (path, text) in k6u_testkit::chart::files(&repository) {
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        println!("{}", path.display());
    }
}
