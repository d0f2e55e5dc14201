//! The connection to the daemon. Every call goes through [`Client::call`], which limits the time,
//! shows that it is still waiting, and says what failed.

use std::future::Future;
use std::time::Duration;

use casemate_proto::v1;
use casemate_proto::v1::backend_service_client::BackendServiceClient;
use casemate_proto::v1::config_service_client::ConfigServiceClient;
use casemate_proto::v1::vm_service_client::VmServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, TimeoutExpired};

use crate::connection::Connection;
use crate::error::CliError;
use crate::vm::{Change, Changing};
use crate::waiting;

pub(crate) use address::{Address, Reach, reach_of};
pub(crate) use messages::Messages;
use messages::Patience;
pub(crate) use token::Token;

mod address;
mod change;
mod messages;
mod tls;
mod token;

/// A daemon that is there accepts at once; one that is away on the network need not be waited for
/// as long as for a VM's start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const CONNECTING: &str = "connect to the daemon";

/// A plan carries the files that the backend generated, and tonic's 4 MiB are less than those may
/// be.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Most VMs of a page, which is the daemon's own limit: fewer pages are fewer calls.
const PAGE_SIZE: u32 = 1000;

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
    reach: Reach,
    token: Option<Token>,
    timeout: Duration,
    channel: Option<Channel>,
}

impl Client {
    pub(crate) fn new(connection: &Connection, timeout: Duration) -> Result<Self, CliError> {
        let address = Address::parse(&connection.endpoint.value)?;
        let token = connection.token(&address)?;
        let endpoint = match &address {
            Address::Http { url, .. } | Address::Https { url, .. } => {
                Endpoint::from_shared(url.clone())
            }
            Address::Unix(path) => Endpoint::from_shared(format!("unix://{}", path.display())),
        };
        let endpoint = endpoint.map_err(|error| CliError::Endpoint {
            endpoint: connection.endpoint.value.clone(),
            reason: innermost_cause(&error),
        })?;
        let endpoint = tls::applied(endpoint, &address, connection)?;
        Ok(Self {
            endpoint: endpoint.connect_timeout(CONNECT_TIMEOUT.min(timeout)),
            address: connection.endpoint.value.clone(),
            reach: address.reach(),
            token,
            timeout,
            channel: None,
        })
    }

    /// Whether the daemon runs on this machine.
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    /// For answers without an end: a daemon that is gone without a word is found out, though nothing
    /// need come from one that is there.
    pub(crate) fn kept_alive(mut self) -> Self {
        self.endpoint = self
            .endpoint
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        // One that was made before is not asked.
        self.channel = None;
        self
    }

    pub(crate) async fn create_vm(
        &mut self,
        request: v1::CreateVmRequest,
    ) -> Result<v1::CreateVmResponse, CliError> {
        let mut service = self.vms().await?;
        let request = self.request(request);
        let mut answer = self
            .call("create the VM", service.create_vm(request))
            .await?;
        answer.vm = answer.vm.map(known);
        Ok(answer)
    }

    pub(crate) async fn get_vm(&mut self, id: String) -> Result<v1::Vm, CliError> {
        const DOING: &str = "show the VM";
        let mut service = self.vms().await?;
        let request = self.request(v1::GetVmRequest { id });
        let answer = self.call(DOING, service.get_vm(request)).await?;
        answer.vm.map(known).ok_or(CliError::Incomplete {
            doing: DOING,
            missing: "VM",
        })
    }

    /// Those that fit, page by page.
    pub(crate) async fn list_vms(
        &mut self,
        mut wanted: v1::ListVmsRequest,
    ) -> Result<Vec<v1::Vm>, CliError> {
        const DOING: &str = "list VMs";
        wanted.page_size = PAGE_SIZE;
        let mut service = self.vms().await?;
        let mut vms = Vec::new();
        loop {
            let request = self.request(wanted.clone());
            let page = self.call(DOING, service.list_vms(request)).await?;
            vms.extend(page.vms.into_iter().map(known));
            if page.next_page_token.is_empty() {
                return Ok(vms);
            }
            // Such a list would have no end.
            if page.next_page_token == wanted.page_token {
                return Err(CliError::Incomplete {
                    doing: DOING,
                    missing: "next page",
                });
            }
            wanted.page_token = page.next_page_token;
        }
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
        changing: Changing,
        id: String,
    ) -> Result<Option<v1::Vm>, CliError> {
        let doing = changing.change.words().one;
        let mut service = self.vms().await?;
        let call = self.send(changing, id, &mut service);
        let limited = tokio::time::timeout(self.timeout, call).await;
        match answer_of(doing, self.timeout, limited)? {
            None if changing.change != Change::Remove => Err(CliError::Incomplete {
                doing,
                missing: "VM",
            }),
            vm => Ok(vm.map(known)),
        }
    }

    pub(crate) async fn console(
        &mut self,
        wanted: v1::GetConsoleRequest,
    ) -> Result<Messages<v1::GetConsoleResponse>, CliError> {
        const DOING: &str = "read the console";
        let mut service = self.vms().await?;
        let (request, patience) = if wanted.follow {
            (self.endless_request(wanted), Patience::Endless)
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
        let request = self.endless_request(wanted);
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
        let request = self.request(v1::ExplainConfigRequest {});
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

    pub(crate) async fn reload_backends(&mut self) -> Result<v1::ReloadBackendsResponse, CliError> {
        let mut service = self.backends().await?;
        let request = self.request(v1::ReloadBackendsRequest {});
        self.call("reload", service.reload_backends(request)).await
    }

    pub(crate) async fn watch_backends(
        &mut self,
    ) -> Result<Messages<v1::WatchBackendsResponse>, CliError> {
        const DOING: &str = "watch the backends";
        let mut service = self.backends().await?;
        let request = self.endless_request(v1::WatchBackendsRequest {});
        let messages = self.call(DOING, service.watch_backends(request)).await?;
        Ok(Messages::new(DOING, Patience::Endless, messages))
    }

    /// Of that backend, or of all.
    pub(crate) async fn diagnose(
        &mut self,
        backend: Option<String>,
    ) -> Result<v1::CheckHostResponse, CliError> {
        let mut service = self.backends().await?;
        let request = self.request(v1::CheckHostRequest {
            backend: backend.unwrap_or_default(),
        });
        self.call("examine the host", service.check_host(request))
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
        let connected = waiting::shown(CONNECTING, self.endpoint.connect()).await;
        match connected {
            Ok(channel) => {
                self.channel = Some(channel.clone());
                Ok(channel)
            }
            Err(error) if tls::is_distrust(&error) => Err(CliError::TlsFailed {
                doing: CONNECTING,
                reason: innermost_cause(&error),
            }),
            Err(error) => Err(CliError::Unreachable {
                endpoint: self.address.clone(),
                reason: innermost_cause(&error),
            }),
        }
    }

    /// The daemon ends a call that has no deadline after a time of its own, which may be shorter
    /// than the one wanted here.
    fn request<Message>(&self, message: Message) -> Request<Message> {
        self.request_within(message, self.timeout.min(MAX_DEADLINE))
    }

    /// For an answer without an end. It brings a deadline all the same, because the daemon gives a
    /// call without one a short one of its own.
    fn endless_request<Message>(&self, message: Message) -> Request<Message> {
        self.request_within(message, MAX_DEADLINE)
    }

    fn request_within<Message>(&self, message: Message, deadline: Duration) -> Request<Message> {
        let mut request = Request::new(message);
        request.set_timeout(deadline);
        if let Some(token) = &self.token {
            request
                .metadata_mut()
                .insert("authorization", token.header());
        }
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
        // A daemon that wants a certificate says so after it has shown its own.
        Ok(Err(status)) if tls::is_distrust(&status) => Err(CliError::TlsFailed {
            doing,
            reason: innermost_cause(&status),
        }),
        Ok(Err(status)) if is_from_transport(&status) => Err(CliError::Broken {
            doing,
            reason: innermost_cause(&status),
        }),
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

/// A later daemon may have states that this client does not know.
pub(crate) fn known(mut vm: v1::Vm) -> v1::Vm {
    vm.set_state(vm.state());
    vm.set_restart_policy(vm.restart_policy());
    vm
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
    fn a_state_of_a_later_daemon_is_none_that_is_known() {
        let vm = known(v1::Vm {
            state: 99,
            restart_policy: 99,
            ..v1::Vm::default()
        });
        assert_eq!((vm.state, vm.restart_policy), (0, 0));
    }
}
