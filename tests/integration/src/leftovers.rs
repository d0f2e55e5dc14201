//! What a daemon or a VM could leave behind: processes and folders that name its state directory.

use std::path::Path;

/// Command lines of running processes that name `path`, the daemon's own left out.
pub fn processes_naming(path: &Path) -> Vec<String> {
    let needle = path.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten()
    {
        if let Ok(command) = std::fs::read(entry.path().join("cmdline")) {
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(&needle) && !command.contains("casemated") {
                found.push(command);
            }
        }
    }
    found
}

/// Names in the folders of the state directory that hold one entry for each VM.
pub fn vm_entries(state_dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["records", "vms"] {
        for entry in std::fs::read_dir(state_dir.join(folder))
            .expect("it is there")
            .flatten()
        {
            found.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// Nothing of a VM is left: no process, no folder, no record.
pub fn assert_nothing_left(state_dir: &Path) {
    assert_eq!(processes_naming(state_dir), Vec::<String>::new());
    assert_eq!(vm_entries(state_dir), Vec::<String>::new());
}
