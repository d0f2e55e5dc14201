//! `casemate vm logs`: the console, as the guest wrote it. A terminal gets it with control
//! characters escaped, because a guest must not drive the terminal of its operator; a file or a
//! pipe gets every byte. Where bytes are missing, standard error has it.

use casemate_proto::v1::GetConsoleRequest;
use serde_json::json;

use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::plain_text::ConsoleEscaper;
use crate::screen::{Screen, Tone};
use crate::{byte_size, interrupt, resolve};

#[derive(Debug, clap::Args)]
pub(crate) struct LogsArguments {
    /// ID, unique beginning of an ID, or unique name.
    #[arg(value_name = "ID")]
    vm: String,

    /// How much of the end to print, such as 4KiB; all that is kept, if this is left out.
    #[arg(long, value_name = "SIZE", value_parser = byte_size::parse)]
    tail: Option<u64>,

    /// Go on with what the guest writes, until the VM is down.
    #[arg(long, short)]
    follow: bool,

    /// Print an earlier start of the VM: 1 is the one before the last.
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    previous: Option<u32>,
}

pub(crate) async fn run(
    arguments: &LogsArguments,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    if arguments.follow {
        interrupt::ends_the_program()?;
        client = client.kept_alive();
    }
    let request = GetConsoleRequest {
        id: resolve::id(&mut client, &arguments.vm).await?,
        tail_bytes: arguments.tail.unwrap_or_default(),
        follow: arguments.follow,
        previous: arguments.previous.unwrap_or_default(),
    };
    let mut console = client.console(request).await?;
    let mut output = Output::new(screen);
    while let Some(chunk) = console.next().await? {
        if chunk.omitted_bytes > 0 {
            screen.write_raw(output.before_a_gap().as_bytes())?;
            screen.write_remark(&gap(chunk.omitted_bytes, screen));
        }
        output.write(&chunk.data, screen)?;
    }
    screen.write_raw(output.end().as_bytes())
}

fn gap(omitted_bytes: u64, screen: &Screen) -> String {
    if screen.format != Format::Table {
        return format!("{}\n", json!({"omitted_bytes": omitted_bytes}));
    }
    let label = screen.tint_remark("note:", Tone::Attention);
    let (bytes, were) = match omitted_bytes {
        1 => ("byte", "was"),
        _ => ("bytes", "were"),
    };
    format!("{label} {omitted_bytes} {bytes} of the console {were} not kept here\n")
}

enum Output {
    AsItIs,
    ForTerminal {
        escaper: ConsoleEscaper,
        is_line_begun: bool,
    },
}

impl Output {
    fn new(screen: &Screen) -> Self {
        if screen.output_is_terminal() {
            Self::ForTerminal {
                escaper: ConsoleEscaper::default(),
                is_line_begun: false,
            }
        } else {
            Self::AsItIs
        }
    }

    fn write(&mut self, data: &[u8], screen: &Screen) -> Result<(), CliError> {
        match self {
            Self::AsItIs => screen.write_raw(data),
            Self::ForTerminal {
                escaper,
                is_line_begun,
            } => {
                let text = escaper.push(data);
                if let Some(last) = text.chars().last() {
                    *is_line_begun = last != '\n';
                }
                screen.write_raw(text.as_bytes())
            }
        }
    }

    /// What comes after a gap does not end a character that was begun before it, and the remark
    /// about it has a line of its own.
    fn before_a_gap(&mut self) -> String {
        match self {
            Self::AsItIs => String::new(),
            Self::ForTerminal {
                escaper,
                is_line_begun,
            } => {
                let mut text = std::mem::take(escaper).finish();
                if *is_line_begun || !text.is_empty() {
                    text.push('\n');
                }
                *is_line_begun = false;
                text
            }
        }
    }

    fn end(self) -> String {
        match self {
            Self::AsItIs => String::new(),
            Self::ForTerminal { escaper, .. } => escaper.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Data;
    use crate::screen::piped;

    #[test]
    fn a_gap_is_one_line() {
        for (format, bytes, expected) in [
            (
                Format::Table,
                1,
                "note: 1 byte of the console was not kept here\n",
            ),
            (
                Format::Table,
                70_000,
                "note: 70000 bytes of the console were not kept here\n",
            ),
            (
                Format::Data(Data::Json),
                70_000,
                "{\"omitted_bytes\":70000}\n",
            ),
        ] {
            assert_eq!(gap(bytes, &piped(format)), expected);
        }
    }

    #[test]
    fn a_gap_ends_the_line_and_the_character() {
        for (begun, pending, expected) in [
            (false, b"".as_slice(), ""),
            (true, b"", "\n"),
            (true, b"\xe2\x82", "\\xe2\\x82\n"),
            (false, b"\xe2", "\\xe2\n"),
        ] {
            let mut escaper = ConsoleEscaper::default();
            assert_eq!(escaper.push(pending), "");
            let mut output = Output::ForTerminal {
                escaper,
                is_line_begun: begun,
            };
            assert_eq!(output.before_a_gap(), expected);
            assert_eq!(output.before_a_gap(), "");
            assert_eq!(output.end(), "");
        }
    }
}
