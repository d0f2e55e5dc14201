//! `casemate vm create`.

use std::time::Duration;

use casemate_proto::v1::CreateVmRequest;

use crate::arguments::{self, Format};
use crate::client::Client;
use crate::error::{CliError, Left};
use crate::screen::Screen;
use crate::spec::SpecArguments;
use crate::vm::{show, wait};
use crate::{interrupt, json, plan};

const DOING: &str = "create the VM";

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    spec: SpecArguments,

    /// Make one VM at most for this key, however often the command is given: later ones answer
    /// with the VM that there is. 1 to 128 visible ASCII characters.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// Start QEMU with it, up to where it waits before the guest's first instruction, and end it:
    /// no VM is left, and the plan is shown.
    #[arg(long, conflicts_with_all = ["wait", "idempotency_key"])]
    dry_run: bool,

    /// Wait until the guest has booted: until something answers at the VM's agent address. Where it
    /// has none, or one that only the daemon's machine reaches: until it runs.
    ///
    /// QEMU accepts connections for a guest that has not booted yet, so that counts for nothing: a
    /// few bytes are sent, and any answer will do.
    #[arg(long)]
    wait: bool,

    /// How long to wait for that; the VM is left as it is then.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = arguments::timeout, requires = "wait")]
    wait_timeout: Duration,
}

pub(crate) async fn run(
    arguments: &CreateArguments,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    let request = CreateVmRequest {
        spec: Some(arguments.spec.to_request()?),
        idempotency_key: arguments.idempotency_key.clone().unwrap_or_default(),
        dry_run: arguments.dry_run,
    };
    let left = match &arguments.idempotency_key {
        Some(_) => Left::Request,
        None => Left::NoVm,
    };
    let answer = interrupt::or_left(left, client.create_vm(request)).await?;
    if arguments.dry_run {
        let plan = answer.plan.ok_or(CliError::Incomplete {
            doing: "try the VM without making it",
            missing: "plan",
        })?;
        return plan::show(&plan, screen);
    }
    let mut vm = answer.vm.ok_or(CliError::Incomplete {
        doing: DOING,
        missing: "VM",
    })?;
    if arguments.wait {
        let left = Left::Vm(vm.id.clone());
        let booted = wait::until_booted(vm, arguments.wait_timeout, &client, screen);
        vm = interrupt::or_left(left, booted).await?;
    }
    match screen.format {
        Format::Data(_) => screen.write_value(&json::value(&vm)?),
        Format::Table => screen.write_raw(show::block(&vm, screen).as_bytes()),
    }
}
