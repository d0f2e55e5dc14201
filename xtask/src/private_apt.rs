//! A private apt directory: packages of the distribution, downloaded and unpacked under `target/`.
//!
//! It has its own sources, lists and cache, so that the system's stay as they are and no root is
//! needed. The mirror is the one the system uses, and signatures are checked against the
//! distribution's keyring.
//!
//! There are two: one of the system's own release, which reads the system's dpkg status, so that
//! libraries which are installed are not fetched again; and one of the next release, whose programs
//! need a newer C library and therefore bring all libraries along.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::child;
use crate::report::Step;
use crate::run::Run;

/// Lists older than this are fetched again: mirrors drop packages that were superseded.
const LISTS_MAXIMUM_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// One source a line; the origin is last, since it may hold spaces.
const INDEX_TARGET_FORMAT: &str = "$(CREATED_BY) $(COMPONENT) $(RELEASE) $(SITE) $(ORIGIN)";
/// What apt leaves in place of an origin that it does not know.
const ORIGIN_UNKNOWN: &str = "$(ORIGIN)";

/// What is installed on this machine, in dpkg's words.
const INSTALLED: &str = "/var/lib/dpkg/status";
/// The same of a machine on which nothing is, in a folder of ours.
const NOTHING_INSTALLED: &str = "status";

/// Where a package may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    /// The release itself, with its updates and security fixes.
    Release,
    /// Its backports, for newer versions.
    Backports,
}

/// One package in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
}

impl std::fmt::Display for Package {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}={}", self.name, self.version)
    }
}

#[derive(Debug)]
pub struct PrivateApt<'run> {
    run: &'run Run,
    folder: PathBuf,
    /// The release, as the mirror's folders call it.
    suite: String,
}

impl<'run> PrivateApt<'run> {
    /// Whether this machine has what a private apt directory is made of.
    pub fn is_possible() -> bool {
        child::is_on_path("apt-get") && child::is_on_path("dpkg-deb") && OsRelease::read().is_ok()
    }

    /// Packages of the system's own release. Fetches their lists, unless they are fresh.
    pub fn open(run: &'run Run, step: &mut Step<'_>) -> Result<Self> {
        let os = OsRelease::read()?;
        let apt = Self::create(run, run.layout.apt(), &os.codename, Path::new(INSTALLED))?;
        if apt.lists_are_fresh() {
            return Ok(apt);
        }
        let sources = apt.sources(&os)?;
        let with_backports = format!("{}{}", sources.release, sources.backports);
        apt.write("sources.list", &with_backports)?;
        if apt.update(step).is_err() {
            // Not every release has backports, and some mirrors leave them out.
            run.interrupt.check()?;
            apt.write("sources.list", &sources.release)?;
            apt.update(step)?;
        }
        Ok(apt)
    }

    /// Packages of the distribution's next release, or the reason to do without. Nothing counts as
    /// installed, since its libraries do not go together with the system's.
    pub fn open_next_release(run: &'run Run, step: &mut Step<'_>) -> Result<Result<Self, String>> {
        if !Self::is_possible() {
            return Ok(Err("no packages of Debian here".to_owned()));
        }
        let os = OsRelease::read()?;
        let Some(suite) = os.next_suite() else {
            return Ok(Err(format!("{} names no next release", os.id)));
        };
        let folder = run.layout.apt_of_next_release();
        let status = folder.join(NOTHING_INSTALLED);
        let apt = Self::create(run, folder, suite, &status)?;
        apt.write(NOTHING_INSTALLED, "")?;
        if apt.lists_are_fresh() {
            return Ok(Ok(apt));
        }
        let mirror = apt.sources(&os)?.mirror;
        let source = os.source_line_of_any_age(&mirror, suite, "main");
        apt.write("sources.list", &source)?;
        if apt.update(step).is_err() {
            // A mirror may leave it out, and a keyring may be too old for its signature.
            run.interrupt.check()?;
            let log = run.log("packages");
            return Ok(Err(format!(
                "{suite} cannot be reached or is not trusted ({})",
                log.display()
            )));
        }
        Ok(Ok(apt))
    }

    /// Makes the folder and its configuration; `status` says what is installed.
    fn create(run: &'run Run, folder: PathBuf, suite: &str, status: &Path) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial", "empty"] {
            let path = folder.join(part);
            std::fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        let apt = Self {
            run,
            folder,
            suite: suite.to_owned(),
        };
        apt.write("apt.conf", &apt.configuration(status))?;
        Ok(apt)
    }

    /// The packages that installing `names` would bring in or replace on this machine.
    pub fn closure(&self, archive: Archive, names: &[&str]) -> Result<Vec<Package>> {
        let mut command = self.program("apt-get");
        command.args(["--simulate", "--no-install-recommends"]);
        if archive == Archive::Backports {
            command.args([
                "-o",
                &format!("APT::Default-Release={}-backports", self.suite),
            ]);
        }
        let text = child::capture(self.run, command.arg("install").args(names))?;
        Ok(text.lines().filter_map(simulated_installation).collect())
    }

    /// The version of `name` that an archive offers, or nothing.
    pub fn candidate(&self, archive: Archive, name: &str) -> Result<Option<String>> {
        let mut command = self.program("apt-cache");
        if archive == Archive::Backports {
            command.args([
                "-o",
                &format!("APT::Default-Release={}-backports", self.suite),
            ]);
        }
        let text = child::capture(self.run, command.args(["policy", name]))?;
        Ok(text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "))
            .filter(|version| *version != "(none)")
            .map(str::to_owned))
    }

    /// What `name` directly depends on.
    pub fn dependencies(&self, name: &str) -> Result<Vec<String>> {
        let text = child::capture(self.run, self.program("apt-cache").args(["depends", name]))?;
        Ok(text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .collect())
    }

    /// Downloads packages and unpacks them into `root`. Nothing is installed.
    pub fn unpack(&self, step: &mut Step<'_>, packages: &[String], root: &Path) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        let mut downloads = self.run.scratch()?;
        if self.download(step, packages, &downloads).is_err() {
            // The mirror may have moved on since the lists were fetched.
            self.run.interrupt.check()?;
            self.update(step)?;
            downloads = self.run.scratch()?;
            self.download(step, packages, &downloads)?;
        }
        for entry in std::fs::read_dir(downloads.path()).context("cannot list the downloads")? {
            let file = entry.context("cannot list the downloads")?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                step.progress(&format!("unpacking {}", file_name(&file)));
                child::run(
                    self.run,
                    step,
                    child::program("dpkg-deb").arg("-x").arg(&file).arg(root),
                    &self.run.log("packages"),
                )?;
            }
        }
        Ok(())
    }

    fn download(&self, step: &mut Step<'_>, packages: &[String], into: &TempDir) -> Result<()> {
        let mut command = self.program("apt-get");
        command
            .args(["--quiet", "download"])
            .args(packages)
            .current_dir(into.path());
        child::run(self.run, step, &mut command, &self.run.log("packages"))
    }

    fn update(&self, step: &mut Step<'_>) -> Result<()> {
        let mut command = self.program("apt-get");
        // A source that cannot be fetched is only a warning to apt unless told otherwise.
        command.args(["--quiet", "-o", "APT::Update::Error-Mode=any", "update"]);
        child::run(self.run, step, &mut command, &self.run.log("packages"))?;
        self.write("updated", "")
    }

    fn lists_are_fresh(&self) -> bool {
        std::fs::metadata(self.folder.join("updated"))
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|updated| {
                SystemTime::now()
                    .duration_since(updated)
                    .is_ok_and(|age| age < LISTS_MAXIMUM_AGE)
            })
    }

    fn program(&self, name: &str) -> Command {
        let mut command = child::program(name);
        command
            .env("LC_ALL", "C")
            .arg("--config-file")
            .arg(self.folder.join("apt.conf"));
        command
    }

    fn configuration(&self, status: &Path) -> String {
        let folder = self.folder.display();
        let status = status.display();
        // The hooks belong to the system's cache, which is not touched here, and some need root.
        // The next release is another one, by the same name, when the present one comes out.
        format!(
            "#clear APT::Update::Pre-Invoke;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             #clear Acquire::IndexTargets::deb::DEP-11;\n\
             Acquire::Languages \"none\";\n\
             Acquire::AllowReleaseInfoChange \"true\";\n\
             Dir::State \"{folder}/state\";\n\
             Dir::State::status \"{status}\";\n\
             Dir::Cache \"{folder}/cache\";\n\
             Dir::Etc::SourceList \"{folder}/sources.list\";\n\
             Dir::Etc::SourceParts \"{folder}/empty\";\n\
             Dir::Etc::Preferences \"/dev/null\";\n\
             Dir::Etc::PreferencesParts \"{folder}/empty\";\n"
        )
    }

    /// The distribution's own sources, from what the system's apt is configured with.
    fn sources(&self, os: &OsRelease) -> Result<Sources> {
        // Who publishes a source is known only where its lists were fetched; where they never
        // were, as in fresh containers, the sources are listed without.
        for listing in [&[][..], &["--no-release-info"][..]] {
            let text = child::capture(
                self.run,
                child::program("apt-get")
                    .env("LC_ALL", "C")
                    .arg("indextargets")
                    .args(listing)
                    .args(["--format", INDEX_TARGET_FORMAT]),
            )?;
            if let Some(sources) = sources_from_index_targets(&text, os) {
                return Ok(sources);
            }
        }
        bail!(
            "apt has no source for {} {} on this machine",
            os.id,
            os.codename
        );
    }

    /// Whether the mirror has backports for this release.
    pub fn has_backports(&self) -> bool {
        std::fs::read_to_string(self.folder.join("sources.list"))
            .is_ok_and(|sources| sources.contains(&format!(" {}-backports ", self.suite)))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Lines of a `sources.list`.
#[derive(Debug, PartialEq, Eq)]
struct Sources {
    release: String,
    backports: String,
    /// Where the release's main part comes from, and other releases do as well.
    mirror: String,
}

fn sources_from_index_targets(text: &str, os: &OsRelease) -> Option<Sources> {
    let suites = ["", "-updates", "-security"].map(|suffix| format!("{}{suffix}", os.codename));
    let mut lines: Vec<String> = Vec::new();
    let mut mirror = None;
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let ["Packages", component, suite, site, origin] = words[..] else {
            continue;
        };
        // Vendors name their suites after the release as well, hence the look at the origin.
        let is_the_distributions = if origin == ORIGIN_UNKNOWN {
            site.contains(&os.id)
        } else {
            origin.eq_ignore_ascii_case(&os.id)
        };
        if !is_the_distributions
            || !suites.iter().any(|known| known == suite)
            || !os.components().contains(&component)
        {
            continue;
        }
        if suite == os.codename && component == "main" {
            mirror.get_or_insert(site);
        }
        let line = os.source_line(site, suite, component);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let mirror = mirror?;
    let backports = format!("{}-backports", os.codename);
    Some(Sources {
        release: lines.concat(),
        backports: os.source_line(mirror, &backports, "main"),
        mirror: mirror.to_owned(),
    })
}

/// `Inst name [old version] (version origin [architecture]) …` of a simulated installation.
fn simulated_installation(line: &str) -> Option<Package> {
    let rest = line.strip_prefix("Inst ")?;
    let name = rest.split(' ').next()?;
    let version = rest.split_once('(')?.1.split(' ').next()?;
    Some(Package {
        name: name.to_owned(),
        version: version.to_owned(),
    })
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// Which distribution this is.
#[derive(Clone, Debug)]
pub struct OsRelease {
    pub id: String,
    pub codename: String,
}

impl OsRelease {
    pub fn read() -> Result<Self> {
        let text = std::fs::read_to_string("/etc/os-release").context("no /etc/os-release")?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            text.lines().find_map(|line| {
                let value = line.strip_prefix(key)?.strip_prefix('=')?;
                Some(value.trim_matches(['"', '\'']).to_owned())
            })
        };
        let (Some(id), Some(codename)) = (value("ID"), value("VERSION_CODENAME")) else {
            bail!("/etc/os-release names no ID or no VERSION_CODENAME");
        };
        Ok(Self { id, codename })
    }

    fn components(&self) -> &'static [&'static str] {
        // Ubuntu keeps busybox-static and much of QEMU in "universe".
        match self.id.as_str() {
            "ubuntu" => &["main", "universe"],
            _ => &["main"],
        }
    }

    /// What mirrors call the release that comes after the newest one, whichever that is.
    fn next_suite(&self) -> Option<&'static str> {
        match self.id.as_str() {
            "debian" => Some("testing"),
            _ => None,
        }
    }

    fn source_line(&self, site: &str, suite: &str, component: &str) -> String {
        self.line(None, site, suite, component)
    }

    /// A suite that changes every day says for how long its lists are good, and many mirrors are
    /// behind. Whoever plays old lists to a test run gains an old QEMU in it; the signature counts.
    fn source_line_of_any_age(&self, site: &str, suite: &str, component: &str) -> String {
        self.line(Some("check-valid-until=no"), site, suite, component)
    }

    fn line(&self, option: Option<&str>, site: &str, suite: &str, component: &str) -> String {
        let keyring = format!("/usr/share/keyrings/{}-archive-keyring.gpg", self.id);
        // Without the keyring file, apt uses the keys that the system trusts for everything.
        let signed_by = Path::new(&keyring)
            .exists()
            .then(|| format!("signed-by={keyring}"));
        let options: Vec<String> = signed_by
            .into_iter()
            .chain(option.map(str::to_owned))
            .collect();
        let options = if options.is_empty() {
            String::new()
        } else {
            format!("[{}] ", options.join(" "))
        };
        format!("deb {options}{site} {suite} {component}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bookworm() -> OsRelease {
        OsRelease {
            // No such distribution, hence no keyring whose presence would change the lines.
            id: "nowhere".to_owned(),
            codename: "bookworm".to_owned(),
        }
    }

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
        let os = OsRelease::parse("ID=debian\nVERSION_CODENAME=\"bookworm\"\n")
            .expect("both keys are there");
        assert_eq!(
            (os.id.as_str(), os.codename.as_str()),
            ("debian", "bookworm")
        );
        assert!(OsRelease::parse("ID=arch\n").is_err());
    }

    #[test]
    fn only_the_distributions_own_suites_are_taken_over() {
        let text = "Packages main bookworm http://a.example/nowhere Nowhere\n\
                    Packages main bookworm http://a.example/nowhere Nowhere\n\
                    DEP-11 main bookworm http://a.example/nowhere Nowhere\n\
                    Packages main bookworm-security http://a.example/security Nowhere\n\
                    Packages main bookworm-vendor http://b.example/apt Nowhere\n\
                    Packages main bookworm http://d.example/apt Some Vendor\n\
                    Packages main bookworm http://d.example/apt $(ORIGIN)\n\
                    Packages stable bookworm http://c.example/apt Nowhere\n";
        let sources = sources_from_index_targets(text, &bookworm()).expect("a mirror is named");
        assert_eq!(
            sources.release,
            "deb http://a.example/nowhere bookworm main\n\
             deb http://a.example/security bookworm-security main\n"
        );
        assert_eq!(
            sources.backports,
            "deb http://a.example/nowhere bookworm-backports main\n"
        );
        assert_eq!(sources.mirror, "http://a.example/nowhere");
        assert_eq!(sources_from_index_targets("", &bookworm()), None);
    }

    #[test]
    fn simulated_installations_name_package_and_version() {
        let upgrade = "Inst qemu [1:7.2] (1:10.0.2+ds-2 Debian Backports:stable [amd64]) []";
        let new = "Inst libllvm22 (1:22.1.8-1 Debian:12 [amd64])";
        for (line, expected) in [
            (upgrade, Some("qemu=1:10.0.2+ds-2")),
            (new, Some("libllvm22=1:22.1.8-1")),
            ("Conf qemu (1:10)", None),
        ] {
            let package = simulated_installation(line).map(|package| package.to_string());
            assert_eq!(package.as_deref(), expected);
        }
    }
}
