//! The gRPC server: services, health, reflection.

mod backends;
mod configuration;
mod predecessor;
mod vms;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use casemate_proto::manager::manager_service_server::ManagerServiceServer;
use casemate_proto::v1::backend_service_server::BackendServiceServer;
use casemate_proto::v1::config_service_server::ConfigServiceServer;
use casemate_proto::v1::vm_service_server::VmServiceServer;
use tokio_stream::StreamExt as _;
use tokio_stream::adapters::Map;
use tonic::Status;
use tonic::transport::Server;

use super::access::gate::Gate;
use super::access::layer::{self, GateLayer};
use super::calls::{Calls, Pieces};
use super::config::Reflection;
use super::deadline::{DeadlineLayer, DefaultDeadline};
use super::listener::Listener;
use super::refused::Refused;
use crate::vm::manager::VmManager;
use backends::Backends;
use configuration::Configuration;
use predecessor::Predecessor;
use vms::Vms;

/// A client that is gone without a word is noticed after both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_TIME: Duration = Duration::from_secs(20);
/// Calls at once on one connection.
const MAX_STREAMS: u32 = 256;
/// Bytes of a message: three PEM files, the most variables and secrets, and room to spare.
pub(super) const MAX_REQUEST: usize = 4 << 20;
/// A page of VMs, or a plan with its measurement and facts.
const MAX_ANSWER: usize = 32 << 20;

/// A service with limits on its messages.
macro_rules! sized {
    ($server:ident, $service:ident, $calls:ident) => {
        $server::new($service {
            calls: $calls.clone(),
        })
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(MAX_ANSWER)
    };
}

#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    #[error("the gRPC server failed")]
    Serve(#[from] tonic::transport::Error),
    #[error("reflection cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A stream of messages, whose refusals are statuses.
type Messages<T> = Map<Pieces<T>, fn(Result<T, Refused>) -> Result<T, Status>>;

fn messages<T>(pieces: Pieces<T>) -> Messages<T> {
    pieces.map(|piece| piece.map_err(Status::from))
}

/// Serves until `stop` resolves and the calls under way have ended.
pub async fn serve(
    listener: Listener,
    manager: VmManager,
    deadline: DefaultDeadline,
    gate: Arc<Gate>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), GrpcError> {
    let calls = Calls::new(manager);
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<ManagerServiceServer<Predecessor>>()
        .await;
    health.set_serving::<VmServiceServer<Vms>>().await;
    health.set_serving::<BackendServiceServer<Backends>>().await;
    health
        .set_serving::<ConfigServiceServer<Configuration>>()
        .await;
    // To whom it answers is the gate's to know.
    let reflection = if gate.reflection() == Reflection::Off {
        None
    } else {
        Some(
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(casemate_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .build_v1()?,
        )
    };
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIME))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .layer(GateLayer::<layer::Grpc>::new(gate))
        .layer(DeadlineLayer { default: deadline })
        .add_service(sized!(ManagerServiceServer, Predecessor, calls))
        .add_service(sized!(VmServiceServer, Vms, calls))
        .add_service(sized!(BackendServiceServer, Backends, calls))
        .add_service(sized!(ConfigServiceServer, Configuration, calls))
        .add_service(health_service)
        .add_optional_service(reflection)
        .serve_with_incoming_shutdown(listener, stop)
        .await?;
    Ok(())
}
