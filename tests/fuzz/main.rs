//! Known inputs for what the fuzz targets do: those to start from, and those that once found something.
//! `make fuzz` looks for more.

#![allow(clippy::pedantic)]

mod inputs;

use std::fs;
use std::path::PathBuf;

/// Every file in seeds/TARGET, and how many there were.
fn each(target: &str, check: impl Fn(&[u8])) {
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
    each("answers", inputs::answers);
}

#[test]
fn netlink() {
    each("netlink", inputs::netlink);
}

#[test]
fn yaml() {
    each("yaml", |bytes| inputs::yaml(text(bytes)));
}

#[test]
fn headers() {
    each("headers", |bytes| inputs::headers(text(bytes)));
}
