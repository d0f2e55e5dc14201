//! `casemate vm create`.

use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::json;
use crate::screen::Screen;
use crate::spec::SpecArguments;
use crate::vm::show;

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    spec: SpecArguments,
}

pub(crate) async fn run(
    arguments: &CreateArguments,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    let vm = client.create_vm(arguments.spec.to_request()?).await?;
    match screen.format {
        Format::Json => screen.write_json(&json::vm(&vm)),
        Format::Table => screen.write_raw(show::block(&vm, screen).as_bytes()),
    }
}
