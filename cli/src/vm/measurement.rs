//! `casemate vm measurement`: what a verifier will see of a VM, in the format that it reads.

use casemate_proto::v1::{GetMeasurementRequest, MeasurementFormat};

use crate::arguments::Output;
use crate::client::Client;
use crate::error::CliError;
use crate::resolve;
use crate::screen::Screen;

#[derive(Debug, clap::Args)]
pub(crate) struct MeasurementArguments {
    /// ID, unique beginning of an ID, or unique name.
    #[arg(value_name = "ID")]
    vm: String,
}

pub(crate) async fn run(
    arguments: &MeasurementArguments,
    format: Output,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    let vms = client.list_vms().await?;
    let wanted = match format {
        Output::Table => MeasurementFormat::Text,
        Output::Json => MeasurementFormat::Json,
        Output::Corim => MeasurementFormat::Corim,
        Output::Trustee => MeasurementFormat::Trustee,
    };
    let request = GetMeasurementRequest {
        id: resolve::one(&vms, &arguments.vm)?.id.clone(),
        format: wanted.into(),
    };
    let document = client.measurement(request).await?.document;
    screen.write_document(&document, format == Output::Corim)
}
