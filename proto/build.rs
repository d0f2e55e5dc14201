//! Compiles the `.proto` files without a `protoc`.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = [
        "manager/manager.proto",
        "casemate/v1/vm.proto",
        "casemate/v1/config.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut builder = tonic_prost_build::configure()
        // A map has one order: a request that is sent again has the same bytes.
        .btree_map(".casemate.v1");
    for message in READ {
        builder = builder.type_attribute(
            format!(".casemate.v1.{message}"),
            "#[derive(serde::Deserialize)] #[serde(default, deny_unknown_fields)]",
        );
    }
    for message in READ_WHOLE {
        builder = builder.type_attribute(
            format!(".casemate.v1.{message}"),
            "#[derive(serde::Deserialize)] #[serde(deny_unknown_fields)]",
        );
    }
    for message in READ.iter().chain(READ_WHOLE).chain(SHOWN) {
        builder = builder.type_attribute(
            format!(".casemate.v1.{message}"),
            "#[derive(serde::Serialize, utoipa::ToSchema)]",
        );
    }
    for name in ENUMS {
        builder = builder.type_attribute(
            format!(".casemate.v1.{name}"),
            "#[derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema)] \
             #[serde(rename_all = \"kebab-case\")]",
        );
    }
    for (field, attribute) in FIELDS {
        builder = builder.field_attribute(format!(".casemate.v1.{field}"), attribute);
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}

/// Messages that are read as JSON.
const READ: &[&str] = &["VmSpec", "Certificates", "Files", "PlanVmRequest"];

/// Messages that are read as JSON with all of their fields.
const READ_WHOLE: &[&str] = &["Identity", "DataDisk"];

/// Messages that are shown as JSON.
const SHOWN: &[&str] = &[
    "Vm",
    "VmIdentity",
    "Exit",
    "Finding",
    "ListVmsResponse",
    "PlanVmResponse",
    "Backend",
    "BackendSetting",
    "Grant",
    "ListBackendsResponse",
    "CheckHostResponse",
    "ReloadBackendsResponse",
    "BackendReload",
    "BackendDiagnosis",
    "ExplainConfigResponse",
    "ConfigValue",
];

const ENUMS: &[&str] = &["Boot", "RestartPolicy", "VmState", "MeasurementFormat"];

/// How fields look as JSON, where that is not what serde makes of them; and what a schema says of
/// them beside their type. The limits are those of `from_proto` in the host; `cargo xtask schemathesis`
/// finds where they differ.
const FIELDS: &[(&str, &str)] = &[
    (
        "VmSpec.name",
        "#[schema(max_length = 63, pattern = r\"^[A-Za-z0-9._-]*$\")]",
    ),
    (
        "VmSpec.backend",
        "#[schema(max_length = 256, pattern = r\"^[^\\x00-\\x1f\\x7f-\\x9f]*$\")]",
    ),
    (
        "VmSpec.machine",
        "#[schema(max_length = 256, pattern = r\"^[^\\x00-\\x1f\\x7f-\\x9f]*$\")]",
    ),
    (
        "VmSpec.cpu",
        "#[schema(max_length = 256, pattern = r\"^[^\\x00-\\x1f\\x7f-\\x9f]*$\")]",
    ),
    (
        "VmSpec.memory_bytes",
        "#[serde(deserialize_with = \"crate::json::whole\")] #[schema(minimum = 0, maximum = 70368744177664_u64, multiple_of = 1048576)]",
    ),
    (
        "VmSpec.vcpus",
        "#[serde(deserialize_with = \"crate::json::whole\")] #[schema(value_type = u64, minimum = 0, maximum = 4294967295_u64)]",
    ),
    (
        "VmSpec.boot",
        "#[serde(serialize_with = \"crate::json::name::<Boot, _>\", deserialize_with = \"crate::json::number::<Boot, _>\")] #[schema(value_type = Boot, default = \"unspecified\")]",
    ),
    (
        "VmSpec.kernel_cmdline",
        "#[schema(max_length = 4096, pattern = r\"^[^\\x00-\\x1f\\x7f-\\x9f]*$\")]",
    ),
    (
        "VmSpec.environment",
        "#[schema(schema_with = crate::json::environment)]",
    ),
    (
        "VmSpec.settings",
        "#[schema(schema_with = crate::json::settings)]",
    ),
    (
        "VmSpec.ttl_seconds",
        "#[serde(deserialize_with = \"crate::json::whole_or_none\")] #[schema(minimum = 1, maximum = 316224000)]",
    ),
    (
        "VmSpec.restart_policy",
        "#[serde(serialize_with = \"crate::json::name::<RestartPolicy, _>\", deserialize_with = \"crate::json::number::<RestartPolicy, _>\")] #[schema(value_type = RestartPolicy, default = \"unspecified\")]",
    ),
    (
        "VmSpec.labels",
        "#[schema(schema_with = crate::json::labels)]",
    ),
    (
        "VmSpec.secrets",
        "#[serde(with = \"crate::json::base64_map\")] #[schema(schema_with = crate::json::secrets)]",
    ),
    (
        "VmSpec.identity",
        "#[schema(schema_with = crate::json::identity)]",
    ),
    ("VmSpec.data_disks", "#[schema(max_items = 16)]"),
    (
        "Identity.digest",
        "#[serde(with = \"crate::json::base64\")] #[schema(schema_with = crate::json::pem)]",
    ),
    (
        "Certificates.client_certificate",
        "#[serde(with = \"crate::json::base64\")] #[schema(schema_with = crate::json::pem)]",
    ),
    (
        "Certificates.client_key",
        "#[serde(with = \"crate::json::base64\")] #[schema(schema_with = crate::json::pem)]",
    ),
    (
        "Certificates.server_ca",
        "#[serde(with = \"crate::json::base64\")] #[schema(schema_with = crate::json::pem)]",
    ),
    (
        "Files.kernel",
        "#[schema(max_length = 255, pattern = r\"^[^\\x00-\\x1f\\x7f-\\x9f]*$\")]",
    ),
    (
        "Files.initrd",
        "#[schema(max_length = 255, pattern = r\"^[^\\x00-\\x1f\\x7f-\\x9f]*$\")]",
    ),
    (
        "Files.firmware",
        "#[schema(max_length = 255, pattern = r\"^[^\\x00-\\x1f\\x7f-\\x9f]*$\")]",
    ),
    (
        "Files.igvm",
        "#[schema(max_length = 255, pattern = r\"^[^\\x00-\\x1f\\x7f-\\x9f]*$\")]",
    ),
    (
        "Files.disk",
        "#[schema(max_length = 255, pattern = r\"^[^\\x00-\\x1f\\x7f-\\x9f]*$\")]",
    ),
    (
        "Files.disk_format",
        "#[schema(schema_with = crate::json::optional_disk_format)]",
    ),
    (
        "DataDisk.id",
        "#[schema(pattern = r\"^[A-Za-z][A-Za-z0-9_-]{0,19}$\")]",
    ),
    (
        "DataDisk.image",
        "#[schema(min_length = 1, max_length = 255, pattern = r\"^[^\\x00-\\x1f\\x7f-\\x9f]*$\")]",
    ),
    (
        "DataDisk.format",
        "#[schema(schema_with = crate::json::disk_format)]",
    ),
    (
        "Vm.state",
        "#[serde(serialize_with = \"crate::json::name::<VmState, _>\")] #[schema(value_type = VmState)]",
    ),
    (
        "Vm.restart_policy",
        "#[serde(serialize_with = \"crate::json::name::<RestartPolicy, _>\")] #[schema(value_type = RestartPolicy)]",
    ),
    (
        "PlanVmResponse.plan_json",
        "#[serde(rename = \"plan\", serialize_with = \"crate::json::embedded\")] #[schema(value_type = Object)]",
    ),
    (
        "PlanVmResponse.measurement_json",
        "#[serde(rename = \"measurement\", serialize_with = \"crate::json::embedded\")] #[schema(value_type = Option<Object>)]",
    ),
    (
        "PlanVmResponse.facts_json",
        "#[serde(rename = \"facts\", serialize_with = \"crate::json::embedded\")] #[schema(value_type = serde_json::Value)]",
    ),
];
