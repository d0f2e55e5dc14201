//! The daemon's edge: gRPC and HTTP. It converts, calls the manager, and converts back.

pub mod deadline;
pub mod grpc;
pub mod http;
pub mod listener;
pub mod tls;

mod audit;
mod backends;
mod configuration;
mod doctor;
mod from_proto;
mod policy;
mod predecessor;
mod refusal;
mod status;
mod to_proto;
mod vms;
