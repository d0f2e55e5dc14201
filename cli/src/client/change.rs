//! The call of each change of a VM.

use casemate_proto::v1;
use casemate_proto::v1::vm_service_client::VmServiceClient;
use tonic::Status;
use tonic::transport::Channel;

use super::Client;
use crate::vm::{Acceptance, Change, Changing, Manner};

impl Client {
    pub(super) async fn send(
        &self,
        changing: Changing,
        id: String,
        service: &mut VmServiceClient<Channel>,
    ) -> Result<Option<v1::Vm>, Status> {
        let Changing {
            change,
            expected_generation,
        } = changing;
        match change {
            Change::Start(acceptance) => {
                let request = self.request(v1::StartVmRequest {
                    id,
                    accept_measurement: acceptance == Acceptance::Any,
                    expected_generation,
                });
                Ok(service.start_vm(request).await?.into_inner().vm)
            }
            Change::Stop(manner) => {
                let request = self.request(v1::StopVmRequest {
                    id,
                    force: manner == Manner::Forced,
                    expected_generation,
                });
                Ok(service.stop_vm(request).await?.into_inner().vm)
            }
            Change::Restart(manner, acceptance) => {
                let request = self.request(v1::RestartVmRequest {
                    id,
                    force: manner == Manner::Forced,
                    accept_measurement: acceptance == Acceptance::Any,
                    expected_generation,
                });
                Ok(service.restart_vm(request).await?.into_inner().vm)
            }
            Change::Pause => {
                let request = self.request(v1::PauseVmRequest {
                    id,
                    expected_generation,
                });
                Ok(service.pause_vm(request).await?.into_inner().vm)
            }
            Change::Resume => {
                let request = self.request(v1::ResumeVmRequest {
                    id,
                    expected_generation,
                });
                Ok(service.resume_vm(request).await?.into_inner().vm)
            }
            Change::Reset => {
                let request = self.request(v1::ResetVmRequest {
                    id,
                    expected_generation,
                });
                Ok(service.reset_vm(request).await?.into_inner().vm)
            }
            Change::Extend(life) => {
                let request = self.request(v1::ExtendTtlRequest {
                    id,
                    ttl_seconds: life.ttl_seconds(),
                    expected_generation,
                });
                Ok(service.extend_ttl(request).await?.into_inner().vm)
            }
            Change::Remove => {
                let request = self.request(v1::RemoveVmRequest {
                    id,
                    expected_generation,
                });
                service.remove_vm(request).await?;
                Ok(None)
            }
        }
    }
}
