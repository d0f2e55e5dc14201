//! The daemon's edge: gRPC and HTTP. It converts, calls the manager, and converts back.

pub mod access;
pub mod config;
pub mod deadline;
pub mod grpc;
pub mod http;
pub mod listener;
pub mod tls;

mod audit;
mod calls;
mod from_proto;
mod policy;
mod refusal;
mod refused;
mod status;
mod to_proto;
