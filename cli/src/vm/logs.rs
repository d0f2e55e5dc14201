//! `casemate vm logs`: the console, as the guest wrote it. A terminal gets it with control
//! characters escaped, because a guest must not drive the terminal of its operator; a file or a
//! pipe gets every byte.

use crate::client::Client;
use crate::error::CliError;
use crate::plain_text::ConsoleEscaper;
use crate::screen::Screen;
use crate::{byte_size, resolve};

#[derive(Debug, clap::Args)]
pub(crate) struct LogsArguments {
    /// ID, unique beginning of an ID, or unique name.
    #[arg(value_name = "ID")]
    vm: String,

    /// How much of the end to print, such as 4KiB; all that is kept, if this is left out.
    #[arg(long, value_name = "SIZE", value_parser = byte_size::parse)]
    tail: Option<u64>,
}

pub(crate) async fn run(
    arguments: &LogsArguments,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    let vms = client.list_vms().await?;
    let id = resolve::one(&vms, &arguments.vm)?.id.clone();
    let mut console = client
        .console(id, arguments.tail.unwrap_or_default())
        .await?;
    if !screen.output_is_terminal() {
        while let Some(chunk) = console.next_chunk().await? {
            screen.write_raw(&chunk)?;
        }
        return Ok(());
    }
    let mut escaper = ConsoleEscaper::default();
    while let Some(chunk) = console.next_chunk().await? {
        screen.write_raw(escaper.push(&chunk).as_bytes())?;
    }
    screen.write_raw(escaper.finish().as_bytes())
}
