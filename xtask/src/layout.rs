//! Where everything lies: the one place that spells paths below the workspace.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace and the folders below its `target/` that these chores own.
#[derive(Clone, Debug)]
pub struct Layout {
    workspace: PathBuf,
}

impl Layout {
    /// Finds the workspace from the place this crate was built at.
    pub fn find() -> Result<Self> {
        // Cargo sets the variable for `cargo run`; the built-in path serves a directly started
        // binary.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let workspace = manifest
            .parent()
            .context("the xtask crate lies in a workspace")?
            .canonicalize()
            .with_context(|| format!("the workspace of {} is gone", manifest.display()))?;
        Ok(Self { workspace })
    }

    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// Root of all that is cached; also what the tests are told as `CASEMATE_TEST_ARTIFACTS`.
    pub fn target(&self) -> PathBuf {
        self.workspace.join("target")
    }

    /// Output of every program that was started.
    pub fn logs(&self) -> PathBuf {
        self.target().join("setup")
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// Components, one `<backend>.wasm` each.
    pub fn backends(&self) -> PathBuf {
        self.target().join("backends")
    }

    pub fn backend(&self, name: &str) -> PathBuf {
        self.backends().join(format!("{name}.wasm"))
    }

    /// Cargo's target folder of the WebAssembly builds: another toolchain, hence apart.
    pub fn wasm_target(&self) -> PathBuf {
        self.target().join("wasm")
    }

    /// How tests call Cargo for a crate outside the workspace.
    pub fn wasm_toolchain_of_tests(&self) -> PathBuf {
        self.log("wasm-toolchain").with_extension("json")
    }

    /// The unpacked toolchain, where the installed one cannot build for WebAssembly.
    pub fn toolchain(&self) -> PathBuf {
        self.target().join("toolchain")
    }

    /// Where mutants of the backends are built and tested.
    pub fn mutants(&self) -> PathBuf {
        self.target().join("mutants")
    }

    pub fn guest(&self) -> PathBuf {
        self.target().join("guest")
    }

    pub fn kernel(&self) -> PathBuf {
        self.guest().join("vmlinuz")
    }

    pub fn initrd(&self) -> PathBuf {
        self.guest().join("initrd.cpio.gz")
    }

    /// What the guest is made of: kernel, modules and busybox, out of their packages.
    pub fn guest_parts(&self) -> PathBuf {
        self.target().join("guest-parts")
    }

    /// Kernel and first root of the VM that stands for a whole host.
    pub fn system_vm(&self) -> PathBuf {
        self.target().join("system-vm")
    }

    /// What it is made of.
    pub fn system_vm_parts(&self) -> PathBuf {
        self.target().join("system-vm-parts")
    }

    /// The private apt directory: lists, sources and downloads that the system never sees.
    pub fn apt(&self) -> PathBuf {
        self.target().join("apt")
    }

    /// The same for the distribution's next release.
    pub fn apt_of_next_release(&self) -> PathBuf {
        self.target().join("apt-next-release")
    }

    /// Where a product is made before it is renamed into place.
    pub fn scratch(&self) -> PathBuf {
        self.target().join("scratch")
    }

    pub fn bench_report(&self) -> PathBuf {
        self.target().join("bench/report.json")
    }

    pub fn tools(&self) -> PathBuf {
        self.target().join("tools")
    }

    /// The newer QEMU of the tests; movable as a whole.
    pub fn qemu_backports(&self) -> PathBuf {
        self.tools().join("qemu-backports")
    }

    /// The newest QEMU that the distribution has; movable as a whole.
    pub fn qemu_newest(&self) -> PathBuf {
        self.tools().join("qemu-newest")
    }

    /// Firmware for confidential guests, and its descriptors.
    pub fn firmware(&self) -> PathBuf {
        self.tools().join("firmware")
    }

    /// A registry, and a program that signs; movable as a whole.
    pub fn distribution(&self) -> PathBuf {
        self.tools().join("distribution")
    }

    /// Firmware out of a published package.
    pub fn published(&self) -> PathBuf {
        self.tools().join("published")
    }

    /// A Python environment with sev-snp-measure.
    pub fn sev_snp_measure(&self) -> PathBuf {
        self.tools().join("sev-snp-measure")
    }

    /// What is installed into it.
    pub fn sev_snp_measure_requirements(&self) -> PathBuf {
        self.workspace
            .join("tests/oracles/sev-snp-measure/requirements.txt")
    }

    /// A Python environment with Schemathesis.
    pub fn schemathesis(&self) -> PathBuf {
        self.tools().join("schemathesis")
    }

    /// What is installed into it.
    pub fn schemathesis_requirements(&self) -> PathBuf {
        self.workspace.join("tests/schemathesis/requirements.txt")
    }

    /// Backends in other languages than Rust, as a vendor would write them.
    pub fn examples(&self) -> PathBuf {
        self.workspace.join("examples/backends")
    }

    /// What makes components of JavaScript: packages of npm.
    pub fn componentize_js(&self) -> PathBuf {
        self.tools().join("componentize-js")
    }

    /// What makes components of Python: a Python environment.
    pub fn componentize_py(&self) -> PathBuf {
        self.tools().join("componentize-py")
    }

    /// What compiles C for WebAssembly: a Python environment with Zig.
    pub fn zig(&self) -> PathBuf {
        self.tools().join("zig")
    }

    /// What Zig keeps of what it compiled.
    pub fn zig_cache(&self) -> PathBuf {
        self.target().join("zig-cache")
    }

    /// The contract.
    pub fn contract(&self) -> PathBuf {
        self.workspace.join("wit")
    }

    /// The program that measures IGVM files with another implementation.
    pub fn igvm_oracle(&self) -> PathBuf {
        self.tools().join("igvm-oracle")
    }

    /// Its package, which is no member of the workspace.
    pub fn igvm_oracle_sources(&self) -> PathBuf {
        self.workspace.join("tests/oracles/igvm")
    }

    /// Tests of policies, in a package that is no member of the workspace.
    pub fn policies_tests(&self) -> PathBuf {
        self.workspace.join("tests/policies")
    }

    /// The configuration that packages ship and that the demo starts from.
    pub fn packaged_config(&self) -> PathBuf {
        self.workspace.join("packaging/casemate.toml")
    }

    /// The package of the tests with a real daemon and real components.
    pub fn integration_tests(&self) -> PathBuf {
        self.workspace.join("tests/integration")
    }

    /// Where it is written which test holds which promise.
    pub fn tests_readme(&self) -> PathBuf {
        self.workspace.join("tests/README.md")
    }
}

/// Name of the file inside a product's folder that says what the product was made from.
const STAMP: &str = ".made-from";

/// SHA-256, hexadecimal: of what a recipe depends on.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(bytes))
}

/// What `product` was made from, or nothing where it is missing or was never finished.
pub fn made_from(product: &Path) -> Option<String> {
    std::fs::read_to_string(product.join(STAMP)).ok()
}

/// Puts a finished scratch folder in the place of `product`.
pub fn put_in_place(scratch: &Path, product: &Path, made_from: &str) -> Result<()> {
    std::fs::write(scratch.join(STAMP), made_from)
        .with_context(|| format!("cannot write into {}", scratch.display()))?;
    if product.exists() {
        std::fs::remove_dir_all(product)
            .with_context(|| format!("cannot remove the old {}", product.display()))?;
    }
    if let Some(parent) = product.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    std::fs::rename(scratch, product)
        .with_context(|| format!("cannot move {} into place", product.display()))
}
