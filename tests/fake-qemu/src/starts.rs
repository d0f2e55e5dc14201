//! What was started: one line of JSON for each run, appended to `fake-qemu.starts`.
//!
//! The file has to be there already; a test that wants to count makes it. A failure to write is no
//! failure of this program, because it may run as a user who cannot.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use crate::options::Options;

const FILE_NAME: &str = "fake-qemu.starts";

pub(crate) fn record(folder: &Path, argv: &[String], options: &Options) {
    let line = json!({
        "pid": std::process::id(),
        "probe": options.is_probe(),
        "argv": argv,
    });
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(folder.join(FILE_NAME));
    if let Ok(mut file) = file {
        // One write for the whole line, so that lines of several processes do not mix.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}
