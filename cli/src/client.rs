//! The connection to the daemon. Every call goes through [`Client::call`], which limits the time,
//! shows that it is still waiting, and says what failed.

use std::future::Future;
use std::time::Duration;

use casemate_proto::v1;
use casemate_proto::v1::backend_service_client::BackendServiceClient;
use casemate_proto::v1::config_service_client::ConfigServiceClient;
use casemate_proto::v1::doctor_service_client::DoctorServiceClient;
use casemate_proto::v1::vm_service_client::VmServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, TimeoutExpired};

use crate::error::CliError;
use crate::vm::{Acceptance, Change, Manner};
use crate::waiting;

pub(crate) use messages::Messages;
use messages::Patience;

mod messages;

/// A daemon that is there accepts at once; one that is away on the network need not be waited for
/// as long as for a VM's start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A plan carries the files that the backend generated, and tonic's 4 MiB are less than those may
/// be.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Longest deadline that is sent: the protocol has eight digits for it, and a longer one is no
/// deadline to anybody.
const MAX_DEADLINE: Duration = Duration::from_secs(366 * 24 * 3600);

/// How often a daemon that sends nothing is asked whether it is there, and how long it has to answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub(crate) struct Client {
    endpoint: Endpoint,
    /// As the caller wrote it, for messages.
    address: String,
    timeout: Duration,
    channel: Option<Channel>,
}

impl Client {
    pub(crate) fn new(address: &str, timeout: Duration) -> Result<Self, CliError> {
        Ok(Self {
            endpoint: endpoint_of(address)?.connect_timeout(CONNECT_TIMEOUT.min(timeout)),
            address: address.to_owned(),
            timeout,
            channel: None,
        })
    }

    /// For answers without an end: a daemon that is gone without a word is found out, though nothing
    /// need come from one that is there.
    pub(crate) fn kept_alive(mut self) -> Self {
        self.endpoint = self
            .endpoint
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        self
    }

    pub(crate) async fn create_vm(&mut self, spec: v1::VmSpec) -> Result<v1::Vm, CliError> {
        const DOING: &str = "create the VM";
        let mut service = self.vms().await?;
        let request = self.request(v1::CreateVmRequest { spec: Some(spec) });
        let answer = self.call(DOING, service.create_vm(request)).await?;
        answer.vm.ok_or(CliError::Incomplete {
            doing: DOING,
            missing: "VM",
        })
    }

    pub(crate) async fn get_vm(&mut self, id: String) -> Result<v1::Vm, CliError> {
        const DOING: &str = "show the VM";
        let mut service = self.vms().await?;
        let request = self.request(v1::GetVmRequest { id });
        let answer = self.call(DOING, service.get_vm(request)).await?;
        answer.vm.ok_or(CliError::Incomplete {
            doing: DOING,
            missing: "VM",
        })
    }

    pub(crate) async fn list_vms(&mut self) -> Result<Vec<v1::Vm>, CliError> {
        let mut service = self.vms().await?;
        let request = self.request(v1::ListVmsRequest {});
        let answer = self.call("list VMs", service.list_vms(request)).await?;
        Ok(answer.vms)
    }

    pub(crate) async fn measurement(
        &mut self,
        request: v1::GetMeasurementRequest,
    ) -> Result<v1::GetMeasurementResponse, CliError> {
        let mut service = self.vms().await?;
        let request = self.request(request);
        self.call("measure the VM", service.get_measurement(request))
            .await
    }

    /// The VM as it is then; none after a removal. Does not show that it waits, because several
    /// changes run at once.
    pub(crate) async fn change_vm(
        &mut self,
        change: Change,
        id: String,
    ) -> Result<Option<v1::Vm>, CliError> {
        let doing = change.words().one;
        let mut service = self.vms().await?;
        let call = self.send(change, id, &mut service);
        let limited = tokio::time::timeout(self.timeout, call).await;
        match answer_of(doing, self.timeout, limited)? {
            None if change != Change::Remove => Err(CliError::Incomplete {
                doing,
                missing: "VM",
            }),
            vm => Ok(vm),
        }
    }

    async fn send(
        &self,
        change: Change,
        id: String,
        service: &mut VmServiceClient<Channel>,
    ) -> Result<Option<v1::Vm>, Status> {
        match change {
            Change::Start(acceptance) => {
                let accept_measurement = acceptance == Acceptance::Any;
                let request = self.request(v1::StartVmRequest {
                    id,
                    accept_measurement,
                });
                Ok(service.start_vm(request).await?.into_inner().vm)
            }
            Change::Stop(manner) => {
                let force = manner == Manner::Forced;
                let request = self.request(v1::StopVmRequest { id, force });
                Ok(service.stop_vm(request).await?.into_inner().vm)
            }
            Change::Restart(manner, acceptance) => {
                let request = self.request(v1::RestartVmRequest {
                    id,
                    force: manner == Manner::Forced,
                    accept_measurement: acceptance == Acceptance::Any,
                });
                Ok(service.restart_vm(request).await?.into_inner().vm)
            }
            Change::Pause => {
                let request = self.request(v1::PauseVmRequest { id });
                Ok(service.pause_vm(request).await?.into_inner().vm)
            }
            Change::Resume => {
                let request = self.request(v1::ResumeVmRequest { id });
                Ok(service.resume_vm(request).await?.into_inner().vm)
            }
            Change::Reset => {
                let request = self.request(v1::ResetVmRequest { id });
                Ok(service.reset_vm(request).await?.into_inner().vm)
            }
            Change::Remove => {
                let request = self.request(v1::RemoveVmRequest { id });
                service.remove_vm(request).await?;
                Ok(None)
            }
        }
    }

    pub(crate) async fn console(
        &mut self,
        wanted: v1::GetConsoleRequest,
    ) -> Result<Messages<v1::GetConsoleResponse>, CliError> {
        const DOING: &str = "read the console";
        let mut service = self.vms().await?;
        let (request, patience) = if wanted.follow {
            (Self::endless_request(wanted), Patience::Endless)
        } else {
            (self.request(wanted), Patience::Of(self.timeout))
        };
        let messages = self.call(DOING, service.get_console(request)).await?;
        Ok(Messages::new(DOING, patience, messages))
    }

    pub(crate) async fn watch_vms(
        &mut self,
        wanted: v1::WatchVmsRequest,
    ) -> Result<Messages<v1::WatchVmsResponse>, CliError> {
        const DOING: &str = "watch the VMs";
        let mut service = self.vms().await?;
        let request = Self::endless_request(wanted);
        let messages = self.call(DOING, service.watch_vms(request)).await?;
        Ok(Messages::new(DOING, Patience::Endless, messages))
    }

    pub(crate) async fn plan_vm(
        &mut self,
        request: v1::PlanVmRequest,
    ) -> Result<v1::PlanVmResponse, CliError> {
        let mut service = self.vms().await?;
        let request = self.request(request);
        self.call("plan the VM", service.plan_vm(request)).await
    }

    pub(crate) async fn list_backends(&mut self) -> Result<Vec<v1::Backend>, CliError> {
        let mut service = self.backends().await?;
        let request = self.request(v1::ListBackendsRequest {});
        let answer = self
            .call("list backends", service.list_backends(request))
            .await?;
        Ok(answer.backends)
    }

    pub(crate) async fn explain_config(&mut self) -> Result<Vec<v1::ConfigValue>, CliError> {
        let mut service = ConfigServiceClient::new(self.channel().await?);
        let request = v1::ExplainConfigRequest {};
        let answer = self
            .call("explain the config", service.explain_config(request))
            .await?;
        Ok(answer.values)
    }

    pub(crate) async fn get_backend(&mut self, name: String) -> Result<v1::Backend, CliError> {
        const DOING: &str = "show the backend";
        let mut service = self.backends().await?;
        let request = self.request(v1::GetBackendRequest { name });
        let answer = self.call(DOING, service.get_backend(request)).await?;
        answer.backend.ok_or(CliError::Incomplete {
            doing: DOING,
            missing: "backend",
        })
    }

    /// Of that backend, or of all.
    pub(crate) async fn diagnose(
        &mut self,
        backend: Option<String>,
    ) -> Result<v1::DiagnoseResponse, CliError> {
        let service = DoctorServiceClient::new(self.channel().await?);
        let mut service = service.max_decoding_message_size(MAX_ANSWER_BYTES);
        let request = self.request(v1::DiagnoseRequest {
            backend: backend.unwrap_or_default(),
        });
        self.call("examine the host", service.diagnose(request))
            .await
    }

    async fn vms(&mut self) -> Result<VmServiceClient<Channel>, CliError> {
        let channel = self.channel().await?;
        Ok(VmServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
    }

    async fn backends(&mut self) -> Result<BackendServiceClient<Channel>, CliError> {
        let channel = self.channel().await?;
        Ok(BackendServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
    }

    /// Connects at the first call, so that a daemon that is not there is told apart from one that
    /// answers with an error.
    async fn channel(&mut self) -> Result<Channel, CliError> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let connected = waiting::shown("connect to the daemon", self.endpoint.connect()).await;
        match connected {
            Ok(channel) => {
                self.channel = Some(channel.clone());
                Ok(channel)
            }
            Err(error) => Err(CliError::Unreachable {
                endpoint: self.address.clone(),
                reason: innermost_cause(&error),
            }),
        }
    }

    /// The daemon ends a call that has no deadline after a time of its own, which may be shorter
    /// than the one wanted here.
    fn request<Message>(&self, message: Message) -> Request<Message> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout.min(MAX_DEADLINE));
        request
    }

    /// For an answer without an end. It brings a deadline all the same, because the daemon gives a
    /// call without one a short one of its own.
    fn endless_request<Message>(message: Message) -> Request<Message> {
        let mut request = Request::new(message);
        request.set_timeout(MAX_DEADLINE);
        request
    }

    /// `--timeout` is the time until the answer begins.
    async fn call<Answer>(
        &self,
        doing: &'static str,
        call: impl Future<Output = Result<Response<Answer>, Status>>,
    ) -> Result<Answer, CliError> {
        let limited = tokio::time::timeout(self.timeout, call);
        answer_of(doing, self.timeout, waiting::shown(doing, limited).await)
            .map(Response::into_inner)
    }
}

fn answer_of<Answer>(
    doing: &'static str,
    timeout: Duration,
    outcome: Result<Result<Answer, Status>, tokio::time::error::Elapsed>,
) -> Result<Answer, CliError> {
    match outcome {
        Ok(Ok(answer)) => Ok(answer),
        // The channel counts the same time, and may come to its end first.
        Ok(Err(status)) if is_from_timer(&status) => Err(CliError::Timeout { doing, timeout }),
        Ok(Err(status)) if is_from_transport(&status) => Err(CliError::Broken { doing }),
        Ok(Err(status)) => Err(CliError::Refused {
            doing,
            status: Box::new(status),
        }),
        Err(_) => Err(CliError::Timeout { doing, timeout }),
    }
}

/// Whether tonic made up the status here because there was no answer. A status that a server sent
/// has no source.
fn is_from_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn is_from_timer(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// `http://HOST:PORT`, or `HOST:PORT` for short.
fn endpoint_of(address: &str) -> Result<Endpoint, CliError> {
    let refused = |reason: &str| CliError::Endpoint {
        endpoint: address.to_owned(),
        reason: reason.to_owned(),
    };
    let url = match address.split_once("://") {
        Some(("http", _)) => address.to_owned(),
        Some(("https", _)) => {
            return Err(refused(
                "casemate speaks no TLS yet; use http:// and a listener without TLS",
            ));
        }
        Some(_) => return Err(refused("the scheme is not http")),
        None => format!("http://{address}"),
    };
    let endpoint = Endpoint::from_shared(url).map_err(|error| refused(&innermost_cause(&error)))?;
    if endpoint.uri().host().is_none_or(str::is_empty) {
        return Err(refused("it names no host"));
    }
    if endpoint.uri().port().is_none() {
        return Err(refused("it names no port"));
    }
    Ok(endpoint)
}

/// tonic's own words ("transport error") say less than what is behind them.
fn innermost_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for (address, is_accepted) in [
            ("http://127.0.0.1:7001", true),
            ("http://[::1]:7001", true),
            ("127.0.0.1:7001", true),
            ("host.example:7001", true),
            ("https://127.0.0.1:7001", false),
            ("unix:///run/casemate.sock", false),
            ("http://127.0.0.1", false),
            ("http://:7001", false),
            ("two words:1", false),
            ("", false),
        ] {
            assert_eq!(endpoint_of(address).is_ok(), is_accepted, "{address}");
        }
    }
}
