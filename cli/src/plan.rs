//! `casemate plan`: the QEMU command that `vm create` would run.

use casemate_proto::v1::{PlanVmRequest, PlanVmResponse};

use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::screen::Screen;
use crate::spec::SpecArguments;
use crate::vm::identity_words;
use crate::{findings, json, plain_text};

#[derive(Debug, clap::Args)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    spec: SpecArguments,

    /// Print a shell script that starts such a VM by hand, without the daemon.
    #[arg(long)]
    standalone: bool,

    /// Start QEMU with it, up to where it waits before the guest's first instruction, and end it.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(
    arguments: &PlanArguments,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    let plan = client
        .plan_vm(PlanVmRequest {
            spec: Some(arguments.spec.to_request()?),
            dry_run: arguments.dry_run,
        })
        .await?;
    if arguments.standalone {
        screen.write_text(&plan.standalone_script)?;
        write_remarks(&plan, screen);
        return Ok(());
    }
    show(&plan, screen)
}

pub(crate) fn show(plan: &PlanVmResponse, screen: &Screen) -> Result<(), CliError> {
    if screen.format != Format::Table {
        return screen.write_value(&json::value(plan)?);
    }
    screen.write_text(&command(&plan.command))?;
    write_remarks(plan, screen);
    Ok(())
}

/// On standard error, so that the command can be piped.
fn write_remarks(plan: &PlanVmResponse, screen: &Screen) {
    if let Some(identity) = &plan.identity {
        let words = plain_text::escaped(&identity_words(identity));
        screen.write_remark(&format!("identity: {words}\n"));
    }
    if !plan.dry_run.is_empty() {
        screen.write_remark(
            "dry run: QEMU took the command, and waited before the guest's first instruction\n",
        );
        if plan.confidential {
            screen.write_remark("dry run: its protection is finished after that, and not tried\n");
        }
    }
    screen.write_remark(&findings::lines(&plan.findings, |text, tone| {
        screen.tint_remark(text, tone)
    }));
}

/// One argument a line, in a form that a shell takes.
fn command(arguments: &[String]) -> String {
    let mut text = String::new();
    for (index, argument) in arguments.iter().enumerate() {
        if index > 0 {
            text.push_str(" \\\n  ");
        }
        text.push_str(&quoted(argument));
    }
    text.push('\n');
    text
}

fn quoted(argument: &str) -> String {
    match shlex::try_quote(argument) {
        Ok(quoted) => quoted.into_owned(),
        // Only a NUL cannot be quoted, and no argument of a process has one. It is shown all the
        // same, because hiding it would hide what is wrong.
        Err(_) => argument.replace('\0', "\\0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_quoted_and_read_back_the_same() {
        let arguments: Vec<String> = [
            "/usr/bin/qemu-system-x86_64",
            "-name",
            "guest=a b",
            "-object",
            r#"{"qom-type":"memory-backend-ram","id":"ram1"}"#,
            "-append",
            "it's $HOME",
            "",
        ]
        .map(str::to_owned)
        .to_vec();
        let text = command(&arguments);
        assert_eq!(text.lines().count(), arguments.len());
        assert!(text.starts_with("/usr/bin/qemu-system-x86_64 \\\n  -name \\\n  'guest=a b' \\\n"));
        // A shell takes a backslash at the end of a line away; this parser does not.
        assert_eq!(shlex::split(&text.replace("\\\n", "")), Some(arguments));
    }
}
