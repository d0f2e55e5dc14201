//! Generated gRPC code, and how its messages look as JSON.
#![forbid(unsafe_code)]

pub mod json;

/// The predecessor's interface, `manager.ManagerService`.
pub mod manager {
    #![allow(
        missing_debug_implementations,
        unreachable_pub,
        clippy::large_enum_variant,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    tonic::include_proto!("manager");
}

/// Casemate's own interface, `casemate.v1`.
pub mod v1 {
    #![allow(
        missing_debug_implementations,
        unreachable_pub,
        clippy::large_enum_variant,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    tonic::include_proto!("casemate.v1");
}

/// Encoded `FileDescriptorSet` of both packages, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
