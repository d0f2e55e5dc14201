//! A panic in a component becomes a bare trap. The host reports the trap, but only the component
//! knows the message, so it goes to the daemon's log before the abort.

/// Called at the start of each export: every call runs in a fresh instance.
#[cfg(target_arch = "wasm32")]
pub fn report_to_log() {
    use crate::bindings::casemate::tee::log;

    const LEVEL_ERROR: u8 = 3;
    std::panic::set_hook(Box::new(|panic| {
        log::write(LEVEL_ERROR, &crate::answer::shown(&panic.to_string()));
    }));
}

/// A native test shows its panics itself.
#[cfg(not(target_arch = "wasm32"))]
pub fn report_to_log() {}
