//! Stamps the build time that `/health` shows. `SOURCE_DATE_EPOCH` makes it reproducible.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
    let seconds = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse::<i64>().ok())
        .or_else(|| {
            let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
            i64::try_from(elapsed.as_secs()).ok()
        })
        .unwrap_or(0);
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    println!("cargo::rustc-env=CASEMATE_BUILD_TIME={time}");
}
