//! Family, model and stepping of CPU models, as each QEMU at hand describes them.
//!
//! They are in the registers that a vCPU starts with, so a model that QEMU has and that is measured
//! otherwise, or not at all, is a launch digest that no verifier would ever see.

use casemate_firmware_images::Image;
use casemate_integration::artifacts;
use serde_json::{Value, json};

use super::igvm::write;
use super::site::{Guest, Site, one};
use crate::newest_qemu::answers_to;

/// EAX of CPUID leaf 1 (AMD APM volume 3, section E.3.2).
fn signature(family: u64, model: u64, stepping: u64) -> u64 {
    let (base, extended) = (family.min(15), family.saturating_sub(15));
    extended << 20 | (model >> 4) << 16 | base << 8 | (model & 15) << 4 | stepping
}

/// Names of the models that SEV-SNP guests can have, without what belongs to one machine type.
fn models(definitions: &Value) -> Vec<String> {
    let definitions = definitions["return"].as_array().expect("a list").iter();
    let names = definitions.map(|definition| definition["name"].as_str().expect("a name"));
    let names = names.filter(|name| *name == "EPYC" || name.starts_with("EPYC-"));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

#[tokio::test]
async fn every_epyc_of_qemu_is_measured_with_its_own_signature() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut guest = Guest::of(&write(folder.path(), "OVMF.fd", &Image::good().bytes()));
    let mut site = Site::open("sev-snp");
    let newest = artifacts::newest_qemu();
    for qemu in artifacts::qemus().iter().chain(&newest) {
        let definitions = answers_to(qemu, &[json!({"execute": "query-cpu-definitions"})]);
        let models = models(&definitions[2]);
        assert!(models.len() >= 8, "{}: {models:?}", qemu.display());
        let questions = models.iter().map(|model| {
            json!({
                "execute": "query-cpu-model-expansion",
                "arguments": {"type": "full", "model": {"name": model}},
            })
        });
        let questions: Vec<Value> = questions.collect();
        let answers = answers_to(qemu, &questions);
        for (model, answer) in models.iter().zip(&answers[2..]) {
            let properties = &answer["return"]["model"]["props"];
            let number = |name: &str| {
                let number = properties[name].as_u64();
                number.unwrap_or_else(|| panic!("{model}: {name} in {answer}"))
            };
            let expected = signature(number("family"), number("model"), number("stepping"));
            guest.cpu.clone_from(model);
            let registers = site.measure(&guest, &[]).await.expect(model);
            let inputs = &one(&registers, "launch-digest").inputs;
            let input = inputs.iter().find(|input| input.name == "cpu-signature");
            let measured = &input.expect("it is an input").value;
            assert_eq!(
                measured,
                &format!("{expected:#x}"),
                "{model} of {}",
                qemu.display()
            );
        }
        println!("{} models of {}", models.len(), qemu.display());
    }
}
