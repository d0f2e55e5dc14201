//! The gRPC server: services, health, reflection on loopback.

use std::future::Future;
use std::time::Duration;

use casemate_proto::manager::manager_service_server::ManagerServiceServer;
use casemate_proto::v1::backend_service_server::BackendServiceServer;
use casemate_proto::v1::config_service_server::ConfigServiceServer;
use casemate_proto::v1::doctor_service_server::DoctorServiceServer;
use casemate_proto::v1::vm_service_server::VmServiceServer;
use tonic::transport::Server;

use super::backends::Backends;
use super::configuration::Configuration;
use super::deadline::{DeadlineLayer, DefaultDeadline};
use super::doctor::Doctor;
use super::listener::Listener;
use super::predecessor::Predecessor;
use super::vms::Vms;
use crate::vm::manager::VmManager;

/// A client that is gone without a word is noticed after both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_TIME: Duration = Duration::from_secs(20);
/// Calls at once on one connection.
const MAX_STREAMS: u32 = 256;

#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    #[error("the gRPC server failed")]
    Serve(#[from] tonic::transport::Error),
    #[error("reflection cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves until `stop` resolves and the calls under way have ended.
pub async fn serve(
    listener: Listener,
    manager: VmManager,
    deadline: DefaultDeadline,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), GrpcError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<ManagerServiceServer<Predecessor>>()
        .await;
    health.set_serving::<VmServiceServer<Vms>>().await;
    health.set_serving::<BackendServiceServer<Backends>>().await;
    health
        .set_serving::<ConfigServiceServer<Configuration>>()
        .await;
    health.set_serving::<DoctorServiceServer<Doctor>>().await;
    // Off loopback it would hand the interface to whoever asks.
    let reflection = if listener.address().ip().is_loopback() {
        Some(
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(casemate_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .build_v1()?,
        )
    } else {
        None
    };
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIME))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .layer(DeadlineLayer { default: deadline })
        .add_service(ManagerServiceServer::new(Predecessor {
            manager: manager.clone(),
        }))
        .add_service(VmServiceServer::new(Vms {
            manager: manager.clone(),
        }))
        .add_service(BackendServiceServer::new(Backends {
            manager: manager.clone(),
        }))
        .add_service(ConfigServiceServer::new(Configuration {
            manager: manager.clone(),
        }))
        .add_service(DoctorServiceServer::new(Doctor { manager }))
        .add_service(health_service)
        .add_optional_service(reflection)
        .serve_with_incoming_shutdown(listener, stop)
        .await?;
    Ok(())
}
