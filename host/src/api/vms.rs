//! `casemate.v1.VmService`.

use casemate_attestation::json;
use casemate_proto::v1;
use casemate_proto::v1::vm_service_server::VmService;
use casemate_proto::v1::watch_vms_response::Change;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::audit::Caller;
use super::refusal::Refusal;
use super::{from_proto, policy, status, to_proto};
use crate::spec::VmId;
use crate::spec::lifecycle::Action;
use crate::vm::console::{ConsoleRange, Follow};
use crate::vm::error::CreateError;
use crate::vm::events::VmChange;
use crate::vm::manager::{ConsoleError, VmManager};
use crate::vm::standalone;
use crate::vm::status::VmStatus;
use crate::vm::task::{Courtesy, Expected};

/// Messages that may wait for a slow reader.
const BACKLOG: usize = 8;

type Pieces<T> = ReceiverStream<Result<T, Status>>;

/// A stream that a task of its own feeds; the task ends when its reader has left.
fn pieces<T, F>(feed: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F) -> Pieces<T>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(feed(sender));
    ReceiverStream::new(receiver)
}

fn expected(accept_measurement: bool) -> Expected {
    if accept_measurement {
        Expected::Any
    } else {
        Expected::Recorded
    }
}

fn courtesy(force: bool) -> Courtesy {
    if force {
        Courtesy::Force
    } else {
        Courtesy::Ask
    }
}

#[derive(Debug)]
pub(super) struct Vms {
    pub(super) manager: VmManager,
}

impl Vms {
    async fn act(
        &self,
        caller: Caller,
        id: &str,
        action: Action,
        courtesy: Courtesy,
    ) -> Result<v1::Vm, Status> {
        let manner = (courtesy, Expected::default());
        self.act_in(caller, id, action, manner).await
    }

    async fn act_in(
        &self,
        caller: Caller,
        id: &str,
        action: Action,
        (courtesy, expected): (Courtesy, Expected),
    ) -> Result<v1::Vm, Status> {
        let id = parse_id(id)?;
        let deed = caller.begins(action.name(), Some(id));
        let done = self.manager.act(id, action, courtesy, expected).await;
        deed.ended(&done);
        let vm = done.map_err(|error| status::of(&error))?;
        Ok(to_proto::vm(&vm))
    }
}

fn parse_id(text: &str) -> Result<VmId, Status> {
    VmId::parse(text).ok_or_else(|| status::of(&Refusal::no_such_vm(text)))
}

#[tonic::async_trait]
impl VmService for Vms {
    async fn create_vm(
        &self,
        request: Request<v1::CreateVmRequest>,
    ) -> Result<Response<v1::CreateVmResponse>, Status> {
        let caller = Caller::of(&request);
        let spec = request.into_inner().spec.unwrap_or_default();
        let spec = from_proto::vm_spec(spec).map_err(|error| status::of(&error))?;
        let deed = caller.begins("create", None);
        let created = self.manager.create(spec).await;
        deed.created(&created);
        let vm = created.map_err(|error| status::of(&error))?;
        Ok(Response::new(v1::CreateVmResponse {
            vm: Some(to_proto::vm(&vm)),
        }))
    }

    async fn get_vm(
        &self,
        request: Request<v1::GetVmRequest>,
    ) -> Result<Response<v1::GetVmResponse>, Status> {
        let id = request.into_inner().id;
        let vm = self
            .manager
            .get(parse_id(&id)?)
            .ok_or_else(|| status::of(&Refusal::no_such_vm(&id)))?;
        Ok(Response::new(v1::GetVmResponse {
            vm: Some(to_proto::vm(&vm)),
        }))
    }

    async fn list_vms(
        &self,
        _: Request<v1::ListVmsRequest>,
    ) -> Result<Response<v1::ListVmsResponse>, Status> {
        let vms = self
            .manager
            .list()
            .iter()
            .map(|vm| to_proto::vm_in_list(vm))
            .collect();
        Ok(Response::new(v1::ListVmsResponse { vms }))
    }

    async fn remove_vm(
        &self,
        request: Request<v1::RemoveVmRequest>,
    ) -> Result<Response<v1::RemoveVmResponse>, Status> {
        let caller = Caller::of(&request);
        let id = parse_id(&request.into_inner().id)?;
        let deed = caller.begins("remove", Some(id));
        let removed = self.manager.remove(id).await;
        deed.ended(&removed);
        removed.map_err(|error| status::of(&error))?;
        Ok(Response::new(v1::RemoveVmResponse {}))
    }

    async fn start_vm(
        &self,
        request: Request<v1::StartVmRequest>,
    ) -> Result<Response<v1::StartVmResponse>, Status> {
        let caller = Caller::of(&request);
        let v1::StartVmRequest {
            id,
            accept_measurement,
        } = request.into_inner();
        let manner = (Courtesy::Ask, expected(accept_measurement));
        let vm = self.act_in(caller, &id, Action::Start, manner).await?;
        Ok(Response::new(v1::StartVmResponse { vm: Some(vm) }))
    }

    async fn stop_vm(
        &self,
        request: Request<v1::StopVmRequest>,
    ) -> Result<Response<v1::StopVmResponse>, Status> {
        let caller = Caller::of(&request);
        let courtesy = courtesy(request.get_ref().force);
        let id = request.into_inner().id;
        let vm = self.act(caller, &id, Action::Stop, courtesy).await?;
        Ok(Response::new(v1::StopVmResponse { vm: Some(vm) }))
    }

    async fn restart_vm(
        &self,
        request: Request<v1::RestartVmRequest>,
    ) -> Result<Response<v1::RestartVmResponse>, Status> {
        let caller = Caller::of(&request);
        let v1::RestartVmRequest {
            id,
            force,
            accept_measurement,
        } = request.into_inner();
        let manner = (courtesy(force), expected(accept_measurement));
        let vm = self.act_in(caller, &id, Action::Restart, manner).await?;
        Ok(Response::new(v1::RestartVmResponse { vm: Some(vm) }))
    }

    async fn pause_vm(
        &self,
        request: Request<v1::PauseVmRequest>,
    ) -> Result<Response<v1::PauseVmResponse>, Status> {
        let caller = Caller::of(&request);
        let courtesy = Courtesy::Ask;
        let id = request.into_inner().id;
        let vm = self.act(caller, &id, Action::Pause, courtesy).await?;
        Ok(Response::new(v1::PauseVmResponse { vm: Some(vm) }))
    }

    async fn resume_vm(
        &self,
        request: Request<v1::ResumeVmRequest>,
    ) -> Result<Response<v1::ResumeVmResponse>, Status> {
        let caller = Caller::of(&request);
        let courtesy = Courtesy::Ask;
        let id = request.into_inner().id;
        let vm = self.act(caller, &id, Action::Resume, courtesy).await?;
        Ok(Response::new(v1::ResumeVmResponse { vm: Some(vm) }))
    }

    async fn reset_vm(
        &self,
        request: Request<v1::ResetVmRequest>,
    ) -> Result<Response<v1::ResetVmResponse>, Status> {
        let caller = Caller::of(&request);
        let courtesy = Courtesy::Ask;
        let id = request.into_inner().id;
        let vm = self.act(caller, &id, Action::Reset, courtesy).await?;
        Ok(Response::new(v1::ResetVmResponse { vm: Some(vm) }))
    }

    type WatchVmsStream = Pieces<v1::WatchVmsResponse>;

    async fn watch_vms(
        &self,
        request: Request<v1::WatchVmsRequest>,
    ) -> Result<Response<Self::WatchVmsStream>, Status> {
        let id = request.into_inner().id;
        let only = match id.as_str() {
            "" => None,
            text => {
                let id = parse_id(text)?;
                let found = self.manager.get(id);
                found.ok_or_else(|| status::of(&Refusal::no_such_vm(text)))?;
                Some(id)
            }
        };
        let mut watch = self.manager.watch(only);
        Ok(Response::new(pieces(move |sender| async move {
            let changed = |vm: &VmStatus| v1::WatchVmsResponse {
                generation: vm.generation,
                change: Some(Change::Vm(to_proto::vm_in_list(vm))),
            };
            let mut generation = 0;
            for vm in &watch.present {
                generation = generation.max(vm.generation);
                if sender.send(Ok(changed(vm))).await.is_err() {
                    return;
                }
            }
            let mut next = v1::WatchVmsResponse {
                generation,
                change: Some(Change::Synchronized(true)),
            };
            // What waits in the channel is the reader's; what waits in the watch is counted there.
            while sender.send(Ok(next)).await.is_ok() {
                let change = tokio::select! {
                    change = watch.next() => change,
                    () = sender.closed() => return,
                };
                next = match change {
                    Ok(VmChange::Changed(vm)) => changed(&vm),
                    Ok(VmChange::Removed { id, generation }) => v1::WatchVmsResponse {
                        generation,
                        change: Some(Change::Removed(id.to_string())),
                    },
                    Err(end) => {
                        let _ = sender.send(Err(status::of(&end))).await;
                        return;
                    }
                };
            }
        })))
    }

    type GetConsoleStream = Pieces<v1::GetConsoleResponse>;

    async fn get_console(
        &self,
        request: Request<v1::GetConsoleRequest>,
    ) -> Result<Response<Self::GetConsoleStream>, Status> {
        let request = request.into_inner();
        let id = parse_id(&request.id)?;
        let range = ConsoleRange {
            tail: request.tail_bytes,
            follow: if request.follow {
                Follow::UntilDown
            } else {
                Follow::UntilNow
            },
            previous: request.previous,
        };
        let console = self.manager.console(id, range);
        let mut console = console.map_err(|error| status::of(&error))?;
        Ok(Response::new(pieces(move |sender| async move {
            loop {
                let piece = tokio::select! {
                    piece = console.next() => piece,
                    () = sender.closed() => return,
                };
                let message = match piece {
                    None => return,
                    Some(Ok(piece)) => Ok(v1::GetConsoleResponse {
                        data: piece.bytes,
                        omitted_bytes: piece.omitted,
                    }),
                    Some(Err(error)) => Err(status::of(&ConsoleError::Read(error))),
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        })))
    }

    async fn get_measurement(
        &self,
        request: Request<v1::GetMeasurementRequest>,
    ) -> Result<Response<v1::GetMeasurementResponse>, Status> {
        let v1::GetMeasurementRequest { id, format } = request.into_inner();
        let format = from_proto::measurement_format(format)
            .ok_or(Refusal::MeasurementFormat { number: format })
            .map_err(|error| status::of(&error))?;
        let vm = self
            .manager
            .get(parse_id(&id)?)
            .ok_or_else(|| status::of(&Refusal::no_such_vm(&id)))?;
        let policy = policy::of(&self.manager, &vm, format)?;
        Ok(Response::new(v1::GetMeasurementResponse {
            document: policy.document,
            media_type: policy.media_type.to_owned(),
        }))
    }

    async fn plan_vm(
        &self,
        request: Request<v1::PlanVmRequest>,
    ) -> Result<Response<v1::PlanVmResponse>, Status> {
        let caller = Caller::of(&request);
        let v1::PlanVmRequest { spec, dry_run } = request.into_inner();
        let spec = from_proto::vm_spec(spec.unwrap_or_default());
        let spec = spec.map_err(|error| status::of(&error))?;
        let of_error = |error: CreateError| status::of(&error);
        let planned = self.manager.plan(&spec).await.map_err(of_error)?;
        let plan = planned.checked.plan();
        let plan_json = serde_json::to_string_pretty(plan)
            .map_err(|error| status::of(&Refusal::PlanJson(error)))?;
        Ok(Response::new(v1::PlanVmResponse {
            backend: planned.backend.name().to_owned(),
            tee: planned.backend.info().tee.clone(),
            confidential: plan.is_confidential(),
            command: standalone::preview(&planned).map_err(of_error)?,
            standalone_script: standalone::script(&planned).map_err(of_error)?,
            findings: to_proto::findings(&plan.findings),
            plan_json,
            identity: planned.request.identity.as_ref().map(to_proto::identity),
            measurement_json: match &planned.measurement {
                Some(measurement) => json::document(measurement, None).to_string(),
                None => String::new(),
            },
            facts_json: serde_json::to_string(&planned.facts)
                .map_err(|error| status::of(&Refusal::PlanJson(error)))?,
            dry_run: if dry_run {
                let deed = caller.begins("dry-run", None);
                let rehearsed = self.manager.rehearse(&spec).await;
                deed.ended(&rehearsed);
                rehearsed.map_err(of_error)?;
                "prelaunch".to_owned()
            } else {
                String::new()
            },
        }))
    }
}
