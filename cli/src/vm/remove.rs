//! `casemate vm remove`: several at once, each reported, because one that cannot be removed must
//! not keep the others.

use std::collections::HashMap;

use casemate_proto::v1::Vm;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::screen::Screen;
use crate::{plain_text, resolve, waiting};

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArguments {
    /// IDs, unique beginnings of IDs, or unique names.
    #[arg(value_name = "ID", required = true)]
    vms: Vec<String>,
}

/// How it went with one argument.
struct Outcome {
    wanted: String,
    /// None if no VM fits the argument.
    id: Option<String>,
    error: Option<CliError>,
}

pub(crate) async fn run(
    arguments: RemoveArguments,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    let vms = client.list_vms().await?;
    let outcomes =
        waiting::shown("remove the VMs", remove_all(&arguments.vms, &vms, &client)).await;

    let mut lines = String::new();
    let mut values = Vec::new();
    for outcome in &outcomes {
        if let Some(error) = &outcome.error {
            // A program has them in the answer.
            if screen.format == Format::Table {
                screen.write_remark(&screen.error_report(error));
            }
        } else if let Some(id) = &outcome.id {
            lines.push_str(&format!("removed {}\n", plain_text::stripped(id)));
        }
        values.push(value(outcome));
    }
    match screen.format {
        Format::Json => screen.write_json(&Value::Array(values))?,
        Format::Table => screen.write_raw(lines.as_bytes())?,
    }
    verdict(&outcomes)
}

/// An argument that fits no VM keeps none of the others from being removed; two arguments that fit
/// the same VM remove it once.
async fn remove_all(wanted: &[String], vms: &[Vm], client: &Client) -> Vec<Outcome> {
    let mut removals: HashMap<String, JoinHandle<Result<(), CliError>>> = HashMap::new();
    let mut found = Vec::new();
    for wanted in wanted {
        let resolved = resolve::one(vms, wanted).map(|vm| vm.id.clone());
        if let Ok(id) = &resolved {
            removals.entry(id.clone()).or_insert_with(|| {
                let (mut client, id) = (client.clone(), id.clone());
                tokio::spawn(async move { client.remove_vm(id).await })
            });
        }
        found.push((wanted.clone(), resolved));
    }
    let mut outcomes = Vec::new();
    for (wanted, resolved) in found {
        let (id, error) = match resolved {
            Err(error) => (None, Some(error)),
            Ok(id) => match removals.remove(&id) {
                // Counted at its first argument.
                None => continue,
                Some(removal) => {
                    let result = removal.await.unwrap_or_else(|error| {
                        Err(CliError::Runtime(std::io::Error::other(error)))
                    });
                    (Some(id), result.err())
                }
            },
        };
        outcomes.push(Outcome { wanted, id, error });
    }
    outcomes
}

fn value(outcome: &Outcome) -> Value {
    json!({
        "wanted": outcome.wanted,
        "id": outcome.id,
        "removed": outcome.error.is_none(),
        "error": outcome.error.as_ref().map(CliError::to_json),
    })
}

fn verdict(outcomes: &[Outcome]) -> Result<(), CliError> {
    let errors = outcomes.iter().filter_map(|outcome| outcome.error.as_ref());
    match errors.clone().map(CliError::exit_code).max() {
        None => Ok(()),
        Some(worst) => Err(CliError::NotAllRemoved {
            failed: errors.count(),
            wanted: outcomes.len(),
            worst,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(error: Option<CliError>) -> Outcome {
        Outcome {
            wanted: "a".to_owned(),
            id: None,
            error,
        }
    }

    #[test]
    fn the_worst_code_counts() {
        assert!(verdict(&[outcome(None)]).is_ok());
        let missing = CliError::NoSuchVm {
            wanted: "a".to_owned(),
        };
        let broken = CliError::Incomplete {
            doing: "remove the VM",
            missing: "VM",
        };
        let error =
            verdict(&[outcome(Some(missing)), outcome(None), outcome(Some(broken))]).unwrap_err();
        assert_eq!(error.exit_code(), 8);
        assert_eq!(error.to_string(), "2 of 3 VMs were not removed");
    }
}
