//! The calls, through gRPC and through HTTP: the same request has the same outcome. With the scripted
//! QEMU, because what is asked and answered is the subject, not a guest.

mod both;
mod cases;
mod conditions;
mod description;
mod edges;
mod events;
mod fields;
mod files;
mod keys;
mod pages;
mod reload;
mod requests;

use casemate_integration::daemon::{Daemon, Setup};
use serde_json::json;

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.set("max_vms", 400);
    // A stream is read to its end.
    setup.set("http.stream_time", "1s");
    setup
}

/// A daemon for many VMs, none of which boots.
fn daemon() -> Daemon {
    setup().start()
}
