//! The VM as a value: booted, told to run scripts, rebooted, cut off its power, and gone when it is
//! dropped. It stays the same machine over reboots: its disk stays, and its clock goes on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::child::{self, LogFile, ProcessGroup};

const QEMU: &str = "qemu-system-x86_64";
/// Two VMs' worth of limits, a daemon, and the page cache of the programs.
const MEMORY: &str = "2048M";
const DISK_BYTES: u64 = 1 << 30;
/// Emulated, on a machine that builds beside it.
const BOOT_DEADLINE: Duration = Duration::from_secs(300);
const END_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// How a boot of the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// What was written reaches the disk, and nothing is asked to end.
    Reboot,
    /// Nothing is written any more.
    PowerCut,
}

/// A script that was begun.
#[derive(Clone, Copy, Debug)]
pub struct Script(u32);

/// What a script came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: u8,
    /// Of standard output and standard error.
    pub output: String,
}

#[derive(Debug)]
pub struct SystemVm {
    /// First, so that it ends before its folder goes.
    qemu: Option<ProcessGroup>,
    folder: TempDir,
    image: PathBuf,
    boot: u32,
    scripts: u32,
    /// How far its clock is ahead of this machine's.
    ahead: Duration,
    boot_id: String,
    boot_time: Duration,
}

impl SystemVm {
    /// A machine that is off. `image` is the folder with kernel and first root.
    pub fn new(image: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("casemate-system-vm-")
            .tempdir()
            .context("cannot create a folder")?;
        std::fs::create_dir(folder.path().join("exchange")).context("cannot create a folder")?;
        let disk = folder.path().join("disk");
        std::fs::File::create(&disk)
            .and_then(|file| file.set_len(DISK_BYTES))
            .context("cannot make a disk")?;
        let mkfs = child::find_on_path("mkfs.ext4").context("there is no mkfs.ext4")?;
        let made = child::program(mkfs)
            .args(["-q", "-E", "lazy_itable_init=1"])
            .arg(&disk)
            .output()
            .context("mkfs.ext4 does not start")?;
        if !made.status.success() {
            bail!("mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr));
        }
        Ok(Self {
            qemu: None,
            folder,
            image: image.to_owned(),
            boot: 0,
            scripts: 0,
            ahead: Duration::ZERO,
            boot_id: String::new(),
            boot_time: Duration::ZERO,
        })
    }

    /// Turns it on, after it was off for as long as its clock is told, and waits until it runs
    /// scripts.
    pub fn boot(&mut self, off: Duration) -> Result<()> {
        let started = Instant::now();
        self.boot += 1;
        self.scripts = 0;
        self.ahead += off;
        let exchange = self.exchange();
        std::fs::create_dir(&exchange).context("cannot create a folder")?;
        let mut command = self.command()?;
        let log = LogFile::append(&self.folder.path().join("qemu.log"), &command)?;
        command.stdout(log.duplicate()?).stderr(log.duplicate()?);
        self.qemu = Some(ProcessGroup::start(&mut command)?);
        let ready = exchange.join("ready");
        while !ready.exists() {
            if self.has_ended()? {
                bail!(
                    "it ended while it booted: {}\n{}",
                    log.tail(),
                    self.last_lines()
                );
            }
            if started.elapsed() > BOOT_DEADLINE {
                bail!("it does not boot:\n{}", self.last_lines());
            }
            std::thread::sleep(POLL);
        }
        let boot_id = std::fs::read_to_string(ready).context("no boot id")?;
        boot_id.trim().clone_into(&mut self.boot_id);
        self.boot_time = started.elapsed();
        Ok(())
    }

    fn command(&self) -> Result<std::process::Command> {
        let folder = self.folder.path();
        let share = |id: &str, path: &Path, is_read_only: &str| {
            format!(
                "local,id={id},path={},security_model=passthrough,multidevs=remap,\
                 readonly={is_read_only}",
                path.display()
            )
        };
        let mut command = child::program(QEMU);
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-accel", "tcg", "-cpu", "max,la57=off"])
            .args(["-machine", "q35,usb=off", "-smp", "2", "-m", MEMORY])
            .arg("-rtc")
            .arg(format!("base={}", self.clock()?))
            .arg("-kernel")
            .arg(self.image.join("vmlinuz"))
            .arg("-initrd")
            .arg(self.image.join("initrd.cpio.gz"))
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet panic=-1 system-vm.boot={}",
                self.boot
            ))
            .arg("-serial")
            .arg(format!("file:{}", self.console_file().display()))
            .arg("-fsdev")
            .arg(share("root", Path::new("/"), "on"))
            .args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"])
            .arg("-fsdev")
            .arg(share("exchange", &folder.join("exchange"), "off"))
            .args(["-device", "virtio-9p-pci,fsdev=exchange,mount_tag=exchange"])
            .arg("-drive")
            .arg(format!(
                "if=virtio,format=raw,file={}",
                folder.join("disk").display()
            ));
        Ok(command)
    }

    /// What its clock shows when it is turned on, as QEMU takes it.
    fn clock(&self) -> Result<String> {
        let now = SystemTime::now() + self.ahead;
        let seconds = now.duration_since(UNIX_EPOCH).context("before 1970")?;
        let output = child::program("date")
            .args(["-u", "+%Y-%m-%dT%H:%M:%S", "-d"])
            .arg(format!("@{}", seconds.as_secs()))
            .output()
            .context("date does not start")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Begins a script for `sh`, which runs after those that were begun before.
    pub fn begin(&mut self, script: &str) -> Result<Script> {
        self.scripts += 1;
        let script_file = self.exchange().join(format!("{}.sh", self.scripts));
        let half_written = script_file.with_extension("part");
        std::fs::write(&half_written, script)
            .and_then(|()| std::fs::rename(&half_written, &script_file))
            .context("cannot write the script")?;
        Ok(Script(self.scripts))
    }

    /// Its exit code, once it has ended.
    pub fn poll(&mut self, script: Script) -> Result<Option<u8>> {
        let file = self.exchange().join(format!("{}.code", script.0));
        if let Ok(code) = std::fs::read_to_string(file) {
            return Ok(Some(code.trim().parse().context("no exit code")?));
        }
        if self.has_ended()? {
            bail!(
                "the VM ended before the command did:\n{}",
                self.last_lines()
            );
        }
        Ok(None)
    }

    /// What it has written so far.
    pub fn output(&self, script: Script) -> Vec<u8> {
        let file = self.exchange().join(format!("{}.out", script.0));
        std::fs::read(file).unwrap_or_default()
    }

    /// Runs a script to its end.
    pub fn run(&mut self, script: &str, deadline: Duration) -> Result<Ended> {
        let begun = Instant::now();
        let running = self.begin(script)?;
        loop {
            if let Some(code) = self.poll(running)? {
                let output = String::from_utf8_lossy(&self.output(running)).into_owned();
                return Ok(Ended { code, output });
            }
            if begun.elapsed() > deadline {
                bail!(
                    "not done within {deadline:?}: {script}\n{}\n{}",
                    String::from_utf8_lossy(&self.output(running)),
                    self.last_lines()
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// Ends this boot, and begins another one after the machine was off for `off`.
    pub fn restart(&mut self, outage: Outage, off: Duration) -> Result<()> {
        if outage == Outage::Reboot {
            // With `-no-reboot` that is QEMU's end. It is at once: nothing shuts down before it.
            self.begin("sync; echo b > /proc/sysrq-trigger")?;
            let end = Instant::now() + END_DEADLINE;
            while !self.has_ended()? {
                if Instant::now() > end {
                    bail!("it does not reboot:\n{}", self.last_lines());
                }
                std::thread::sleep(POLL);
            }
        }
        self.qemu = None;
        self.boot(off)
    }

    /// Of the kernel that runs: another one after each boot.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// How long the last boot took.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// What this boot's kernel wrote.
    pub fn console(&self) -> Vec<u8> {
        std::fs::read(self.console_file()).unwrap_or_default()
    }

    fn last_lines(&self) -> String {
        let console = self.console();
        let text = String::from_utf8_lossy(&console).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    fn has_ended(&mut self) -> Result<bool> {
        match &mut self.qemu {
            Some(qemu) => Ok(qemu.poll()?.is_some()),
            None => Ok(true),
        }
    }

    fn exchange(&self) -> PathBuf {
        self.folder
            .path()
            .join("exchange")
            .join(self.boot.to_string())
    }

    fn console_file(&self) -> PathBuf {
        self.folder.path().join(format!("console-{}", self.boot))
    }
}
