//! Runs the fuzz targets on their seeds: inputs to start from, and inputs that once found a defect. `make fuzz` looks
//! for more.

#![allow(clippy::pedantic)]

mod inputs;

use std::fs;
use std::path::PathBuf;

/// Calls `check` with every file in seeds/TARGET.
fn for_each_seed(target: &str, check: impl Fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/seeds")
        .join(target);
    let mut files = 0;
    for entry in fs::read_dir(&folder).expect("seeds") {
        let path = entry.expect("a file").path();
        println!("{}", path.display());
        check(&fs::read(&path).expect("a seed"));
        files += 1;
    }
    assert!(files > 0, "no seeds in {}", folder.display());
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("seeds of texts are UTF-8")
}

#[test]
fn answers() {
    for_each_seed("answers", inputs::answers);
}

#[test]
fn netlink() {
    for_each_seed("netlink", inputs::netlink);
}

#[test]
fn yaml() {
    for_each_seed("yaml", |bytes| inputs::yaml(text(bytes)));
}

#[test]
fn headers() {
    for_each_seed("headers", |bytes| inputs::headers(text(bytes)));
}
