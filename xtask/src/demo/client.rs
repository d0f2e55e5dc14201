//! The command line client, used as a person would use it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::child;
use crate::run::Run;

/// Where the client looks when nobody says where the daemon is.
const USUAL_ENDPOINT: &str = "http://127.0.0.1:7001";

#[derive(Debug)]
pub(super) struct Client {
    program: PathBuf,
    endpoint: String,
}

/// What `casemate vm create` said about the new VM.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CreatedVm {
    pub(super) id: String,
    pub(super) state: String,
    /// Host address that is forwarded to the agent in the guest.
    pub(super) agent_address: String,
}

impl Client {
    pub(super) fn new(program: &Path, grpc_address: &str) -> Self {
        Self {
            program: program.to_owned(),
            endpoint: format!("http://{grpc_address}"),
        }
    }

    pub(super) fn is_at_usual_address(&self) -> bool {
        self.endpoint == USUAL_ENDPOINT
    }

    /// Without being told where the daemon is.
    pub(super) fn at_usual_address(&self) -> Self {
        Self {
            program: self.program.clone(),
            endpoint: String::new(),
        }
    }

    pub(super) fn create(&self, run: &Run, name: &str, variable: &str) -> Result<CreatedVm> {
        let mut command = self.command(&["vm", "create", "--name", name, "--env", variable]);
        let text = child::capture(run, command.args(["--format", "json"]))?;
        created_vm(&text).with_context(|| format!("casemate vm create printed:\n{text}"))
    }

    pub(super) fn list(&self, run: &Run) -> Result<String> {
        child::capture(run, &mut self.command(&["vm", "list"]))
    }

    pub(super) fn logs(&self, run: &Run, id: &str, tail: &str) -> Result<String> {
        child::capture(run, &mut self.command(&["vm", "logs", id, "--tail", tail]))
    }

    pub(super) fn remove(&self, run: &Run, id: &str) -> Result<()> {
        child::capture(run, &mut self.command(&["vm", "remove", id])).map(|_| ())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = child::program(&self.program);
        command
            .env("CASEMATE_ENDPOINT", &self.endpoint)
            .args(arguments);
        command
    }
}

fn created_vm(text: &str) -> Result<CreatedVm> {
    let json: serde_json::Value = serde_json::from_str(text).context("it is no JSON")?;
    let field = |name: &str| {
        json[name]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("it has no field {name}"))
    };
    Ok(CreatedVm {
        id: field("id")?,
        state: field("state")?,
        agent_address: field("agent_address")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_field_is_named() {
        let text = r#"{"id":"a","state":"running","agent_address":"127.0.0.1:6100"}"#;
        assert_eq!(created_vm(text).expect("complete").id, "a");
        let error = created_vm(r#"{"id":"a","state":"running"}"#).expect_err("incomplete");
        assert_eq!(error.to_string(), "it has no field agent_address");
    }
}
