//! Prints, for each IGVM file that it is told, one line: the SNP launch digest as the crate `igvm`
//! computes it, or `error: ` and why there is none.

use std::ffi::OsStr;

use igvm::measurement::generate_snp_measurement;
use igvm::{IgvmFile, IgvmPlatformHeader};
use igvm_defs::IgvmPlatformType;

fn main() {
    for path in std::env::args_os().skip(1) {
        match digest(&path) {
            Ok(digest) => println!("{digest}"),
            Err(reason) => println!("error: {}", reason.replace('\n', " ")),
        }
    }
}

fn digest(path: &OsStr) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let file = IgvmFile::new_from_binary(&bytes, None).map_err(|error| error.to_string())?;
    let mask = file.platforms().iter().find_map(|header| match header {
        IgvmPlatformHeader::SupportedPlatform(platform)
            if platform.platform_type == IgvmPlatformType::SEV_SNP =>
        {
            Some(platform.compatibility_mask)
        }
        IgvmPlatformHeader::SupportedPlatform(_) => None,
    });
    let mask = mask.ok_or("no SEV-SNP platform")?;
    let digest = generate_snp_measurement(file.initializations(), file.directives(), mask)
        .map_err(|error| error.to_string())?;
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}
