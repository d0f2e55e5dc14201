//! Connects `backend` to the exports of the component, and nothing else.

#![deny(unsafe_code)]

pub mod backend;

#[cfg(target_arch = "wasm32")]
mod export {
    #![allow(
        unsafe_code,
        reason = "the exports move values in and out of the component's memory; not every compiler tells of it"
    )]
    use super::Component;

    casemate_backend::bindings::export_backend!(Component);
}

use backend::Facts;
use casemate_backend::bindings::casemate::tee::types::{
    BackendInfo, Error, Finding, HostContext, LaunchPlan, LaunchRequest,
};
use casemate_backend::{bindings, panics};

/// What the component exports.
#[derive(Debug)]
pub struct Component;

impl bindings::exports::casemate::tee::backend::Guest for Component {
    fn describe() -> BackendInfo {
        panics::report_to_log();
        backend::describe()
    }

    fn check(host: HostContext) -> Vec<Finding> {
        panics::report_to_log();
        backend::check(&host, &Facts::of_defaults())
    }

    fn plan(request: LaunchRequest) -> Result<LaunchPlan, Error> {
        panics::report_to_log();
        let facts = Facts::of(&request);
        backend::plan(&request, &facts)
    }
}
