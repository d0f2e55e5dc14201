//! The daemon's edge: gRPC and HTTP. It converts, calls the manager, and converts back.

pub mod grpc;
pub mod http;

mod backends;
mod from_proto;
mod predecessor;
mod refusal;
mod status;
mod to_proto;
mod vms;
