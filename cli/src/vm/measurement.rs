//! `casemate vm measurement`: what a verifier will see of a VM, in the format that it reads.

use casemate_proto::v1::{GetMeasurementRequest, MeasurementFormat};

use serde_json::Value;

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
    let wanted = match format {
        Output::Table => MeasurementFormat::Text,
        Output::Json | Output::Yaml => MeasurementFormat::Json,
        Output::Corim => MeasurementFormat::Corim,
        Output::Trustee => MeasurementFormat::Trustee,
    };
    let request = GetMeasurementRequest {
        id: resolve::id(&mut client, &arguments.vm).await?,
        format: wanted.into(),
    };
    let document = client.measurement(request).await?.document;
    if format == Output::Yaml {
        let value: Value =
            serde_json::from_slice(&document).map_err(|error| CliError::Unshowable {
                reason: error.to_string(),
            })?;
        return screen.write_value(&value);
    }
    screen.write_document(&document, format == Output::Corim)
}
