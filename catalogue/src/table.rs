//! The table itself. An entry is found by its id; new ones go to their stage.
//!
//! A cause is one sentence about the class of errors. A remedy reads well after `remedy: `.

use crate::Answer::{Exit, ExitOfItsCause, Grpc, Http};
use crate::GrpcCode::{
    Aborted, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, NotFound,
    ResourceExhausted, Unavailable, Unimplemented,
};
use crate::{Entry, Stage};

/// sysexits(3): the config has to be changed before another start.
const EX_CONFIG: u8 = 78;

/// Declares the ids and their entries, so that there cannot be one without the other.
macro_rules! table {
    ($($stage:ident {
        $($variant:ident $id:literal $answer:expr, $cause:literal, $remedy:literal;)*
    })*) => {
        /// Every error. The variant is the id in another case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ErrorId {
            $($(#[doc = $cause] $variant,)*)*
        }

        impl ErrorId {
            /// In the order of the stages.
            pub const ALL: &'static [Self] = &[$($(Self::$variant,)*)*];

            pub fn entry(self) -> &'static Entry {
                match self {
                    $($(Self::$variant => &Entry {
                        id: $id,
                        stage: Stage::$stage,
                        answer: $answer,
                        cause: $cause,
                        remedy: $remedy,
                    },)*)*
                }
            }
        }
    };
}

table! {
    StartUp {
        ConfigUnreadable "config-unreadable" Exit(EX_CONFIG),
            "The config file cannot be read.",
            "name another file with `--config`; `casemate config default` prints one to start from";
        ConfigForm "config-form" Exit(EX_CONFIG),
            "The config file is not TOML, or a `[[backend]]` of it is not of its form.",
            "mend the line that is named";
        ConfigValue "config-value" Exit(EX_CONFIG),
            "A value in the config is not of the form that its key wants.",
            "give a value of the form that is named";
        ConfigUnknownKey "config-unknown-key" Exit(EX_CONFIG),
            "The config file has a key that casemated does not know.",
            "correct the name, or take it out; `casemate config default` prints all keys";
        ConfigUnknownVariable "config-unknown-variable" Exit(EX_CONFIG),
            "The environment has a variable of casemated's that it does not know.",
            "correct the variable's name, or unset it";
        ConfigConflict "config-conflict" Exit(EX_CONFIG),
            "Two sources of the same rank differ on one key.",
            "leave one of the two out";
        ConfigBackendConflict "config-backend-conflict" Exit(EX_CONFIG),
            "Two sources name different default backends.",
            "leave one of the two out, or let both name the same";
        ConfigBackendUnknown "config-backend-unknown" Exit(EX_CONFIG),
            "The config names a backend that it does not declare.",
            "add a `[[backend]]` of that name, or name another";
        ConfigDuplicateBackend "config-duplicate-backend" Exit(EX_CONFIG),
            "Two backends have the same name.",
            "give each `[[backend]]` a name of its own";
        ConfigNotSupportedYet "config-not-supported-yet" Exit(EX_CONFIG),
            "The config asks for something that this version cannot do yet.",
            "take the setting out, or use a version that has it";
        ListenerExposed "listener-exposed" Exit(EX_CONFIG),
            "A listener without protection would be reachable from other machines.",
            "listen on loopback, set up mTLS (`server_cert`, `server_key`, `client_ca_certs`), or accept the exposure with `insecure = true` or CASEMATE_INSECURE=true";
        TlsFiles "tls-files" Exit(EX_CONFIG),
            "The files for TLS are incomplete or cannot be used.",
            "give certificate and key as PEM files that casemated may read";
        StateDirMode "state-dir-mode" Exit(1),
            "Others may change the state directory.",
            "set mode 0711, or set another `state_dir`";
        StateDirOwner "state-dir-owner" Exit(1),
            "The state directory belongs to another user.",
            "change its owner, or set another `state_dir`";
        StateDirLocked "state-dir-locked" Exit(1),
            "Another casemated uses the state directory.",
            "end the other one, or give each a `state_dir` of its own";
        StateDirIo "state-dir-io" Exit(1),
            "The state directory cannot be used.",
            "see that its file system is writable and has room";
        StateDirNotADirectory "state-dir-not-a-directory" Exit(1),
            "What `state_dir` names is not a directory.",
            "move it away, or set another `state_dir`";
        PortInUse "port-in-use" Exit(1),
            "A listener's address cannot be had.",
            "end the program that listens there, or set another port";
        Engine "engine" Exit(1),
            "The engine that runs backends cannot be set up.",
            "see that the processor and the memory limits of the service allow it";
        ConfigFlag "config-flag" Exit(EX_CONFIG),
            "A value of `--set` is not of the form KEY=VALUE.",
            "write it as `--set vm.memory=4G`";
        ConfigShape "config-shape" Exit(EX_CONFIG),
            "The values of the config do not fit together, which is a mistake of casemated.",
            "report it as a bug of Casemate";
        StartFailed "start-failed" Exit(1),
            "The daemon cannot have what every program needs: threads, signals, a log.",
            "see that the limits of the service allow it";
        ServerFailed "server-failed" Exit(1),
            "A listener of the running daemon failed, and the daemon ended.",
            "see the log for the cause, and start casemated again";
    }

    Reload {
        ReloadBackend "reload-backend" Exit(1),
            "A backend would not be in service after a reload, so nothing was changed.",
            "mend what is named, and send SIGHUP again; the old backend serves";
        ReloadQemu "reload-qemu" Exit(1),
            "The QEMU that a reload names cannot be used, so nothing was changed.",
            "set `qemu.binary` to one that starts, and send SIGHUP again";
        ReloadLog "reload-log" Exit(1),
            "The log filter of a reload cannot be set, so nothing was changed.",
            "set `log` to a level such as `info`, and send SIGHUP again";
    }

    Call {
        DeadlineExceeded "deadline-exceeded" Grpc(DeadlineExceeded),
            "The call's deadline passed before the work was done.",
            "look with `casemate vm list` what came of it, or give the call more time";
        DeadlineForm "deadline-form" Grpc(InvalidArgument),
            "The call's `grpc-timeout` is no time.",
            "send up to eight digits and a unit of H, M, S, m, u, n, such as `30S`";
        MethodUnknown "method-unknown" Grpc(Unimplemented),
            "The daemon does not know the called method.",
            "use a client and a daemon of the same version";
        RouteUnknown "route-unknown" Grpc(NotFound),
            "There is no such HTTP route.",
            "the routes are /health, /ready and /metrics; everything else is gRPC, on another port";
        HttpMethod "http-method" Http(405),
            "The HTTP route does not have this method.",
            "use GET";
    }

    Request {
        RequestField "request-field" Grpc(InvalidArgument),
            "A field of the request has a value that it cannot have.",
            "give the field a value of the form that is named, or leave it out";
        RequestEnvironment "request-environment" Grpc(InvalidArgument),
            "A variable of the request's environment cannot be given to the guest.",
            "give each variable a plain name and a value on one line";
        RequestTtl "request-ttl" Grpc(InvalidArgument),
            "The time to live is no time that a VM can have.",
            "give a positive duration, or leave it out";
        NoSuchVm "no-such-vm" Grpc(NotFound),
            "No VM has this id.",
            "`casemate vm list` shows what there is";
        NoSuchBackend "no-such-backend" Grpc(NotFound),
            "No backend with this name can be shown.",
            "`casemate backend list` shows what there is";
        NoMeasurement "no-measurement" Grpc(FailedPrecondition),
            "An attestation policy is asked for, and there is no measurement that a verifier could hold a VM against.",
            "start the VM with a backend that measures, and see with `casemate vm measurement` what is not known and why";
        PolicyFiles "policy-files" Grpc(FailedPrecondition),
            "A file that the config names for attestation policies cannot be used.",
            "mend the file that is named, or unset the key in the config file";
    }

    Admission {
        ShuttingDown "shutting-down" Grpc(Unavailable),
            "The daemon is shutting down.",
            "try again when the daemon is back";
        VmLimit "vm-limit" Grpc(ResourceExhausted),
            "There are as many VMs as `max_vms` allows.",
            "stop or remove a VM, or raise `max_vms` in the config file";
        VcpusExhausted "vcpus-exhausted" Grpc(ResourceExhausted),
            "The VM's vCPUs would be more than `max_vcpus` allows for all VMs.",
            "give it fewer vCPUs, stop or remove a VM, or raise `max_vcpus` in the config file";
        MemoryExhausted "memory-exhausted" Grpc(ResourceExhausted),
            "The VM's memory would be more than `max_memory` allows for all VMs.",
            "give it less memory, stop or remove a VM, or raise `max_memory` in the config file";
        HostResource "host-resource" Grpc(ResourceExhausted),
            "The plan takes something that is counted, of which too little is free.",
            "stop or remove a VM that has it, or set how much there is under `[leases]` in the config file";
    }

    Plan {
        BackendUnknown "backend-unknown" Grpc(InvalidArgument),
            "The VM is to have a backend that the config does not declare.",
            "`casemate backend list` shows what there is";
        BackendNotInService "backend-not-in-service" Grpc(FailedPrecondition),
            "The backend's component was refused when it was loaded.",
            "do what the reason asks for, and reload casemated (SIGHUP); `casemate backend list` shows the others";
        BackendNotChosen "backend-not-chosen" Grpc(FailedPrecondition),
            "The request names no backend, and there is no default.",
            "name a backend, or set `default_backend` in the config file (`plain-kvm` by name, too)";
        BackendArchitecture "backend-architecture" Grpc(FailedPrecondition),
            "The backend does not serve this host's architecture.",
            "choose another backend";
        SettingUnknown "setting-unknown" Grpc(InvalidArgument),
            "The backend has no setting of this name.",
            "`casemate backend show NAME` lists its settings";
        SettingForm "setting-form" Grpc(InvalidArgument),
            "A setting's value is not of the kind that the backend announces.",
            "give a value of the form that is named; `casemate backend show NAME` lists the kinds";
        SettingNotPerRequest "setting-not-per-request" Grpc(InvalidArgument),
            "The setting is the operator's, and a request may not have it.",
            "leave it out, or set it under `[backend.settings]` in the config file";
        SettingPath "setting-path" Grpc(InvalidArgument),
            "The setting names a path of the host, which a request may not.",
            "leave it out, or set it under `[backend.settings]` in the config file";
        FileUnusable "file-unusable" Grpc(FailedPrecondition),
            "A file that the config names cannot be read.",
            "put the file there, or name another in the config file";
        KernelCmdline "kernel-cmdline" Grpc(InvalidArgument),
            "The kernel command line is too long or holds a control character.",
            "shorten it, and keep it on one line";
        NetworkProperties "network-properties" Grpc(FailedPrecondition),
            "The config sets a property of the network device that it cannot have.",
            "mend `network.properties` in the config file";
        QemuNotFound "qemu-not-found" Grpc(FailedPrecondition),
            "There is no QEMU where the config says.",
            "install QEMU, or set `qemu.binary` in the config file";
        QemuNotStartable "qemu-not-startable" Grpc(FailedPrecondition),
            "QEMU is there and cannot be started.",
            "start that QEMU by hand to see what it lacks";
        QemuNoMonitor "qemu-no-monitor" Grpc(Aborted),
            "QEMU was asked what it can do, and did not answer over QMP.",
            "start that QEMU by hand to see what it lacks";
        QemuLacks "qemu-lacks" Grpc(FailedPrecondition),
            "The installed QEMU lacks a machine, a CPU model, a type or a property of the plan.",
            "install a QEMU that has it, or choose another backend, machine or CPU";
        NeedsKvm "needs-kvm" Grpc(FailedPrecondition),
            "The plan needs KVM, and the config says another accelerator.",
            "set `qemu.accelerator = \"kvm\"`";
        DeviceRefused "device-refused" Grpc(FailedPrecondition),
            "The backend cannot have a device that the VM is to have.",
            "leave the device out, or choose another backend";
        NotConfidential "not-confidential" Grpc(FailedPrecondition),
            "A confidential VM is asked for, and the backend plans one that is not.",
            "name a backend that guards its guests";
        BackendRefusedRequest "backend-refused-request" Grpc(InvalidArgument),
            "The backend cannot do what the request asks for.",
            "change the request as the backend says";
        BackendRefusedHost "backend-refused-host" Grpc(FailedPrecondition),
            "The backend says that this host cannot run its VMs.",
            "`casemate backend show NAME` lists what the backend finds on this host";
        BackendRefusedFile "backend-refused-file" Grpc(FailedPrecondition),
            "The backend cannot use a file that it was given.",
            "name a file of the kind that the backend asks for";
        BackendRefusedForNow "backend-refused-for-now" Grpc(Unavailable),
            "The backend says that something it needs is not there at the moment.",
            "try again later";
        BackendRefusedOther "backend-refused-other" Grpc(FailedPrecondition),
            "The backend refuses for a reason of its own.",
            "see what the backend says; its vendor can tell more";
        BackendFault "backend-fault" Grpc(Internal),
            "The backend broke: it trapped, passed a limit, or answered against the contract.",
            "report it to the backend's vendor; nothing was started";
    }

    Prepare {
        UserRangeExhausted "user-range-exhausted" Grpc(ResourceExhausted),
            "All user ids of `qemu.uids` are taken.",
            "remove VMs that have exited, or widen `qemu.uids` in the config file";
        Device "device" Grpc(FailedPrecondition),
            "A device of the host cannot be opened.",
            "load the kernel module and give the daemon access, or set `qemu.accelerator = \"tcg\"`";
        HostPath "host-path" Grpc(FailedPrecondition),
            "QEMU's user may not use a path of the host that the plan names.",
            "give it a group of its own, not root's, and mode 0660 (a udev rule), or take it out of the backend's settings";
        DiskMissing "disk-missing" Grpc(FailedPrecondition),
            "The boot is from a disk, and there is no disk image.",
            "set `vm.disk` in the config file";
        DiskUnusable "disk-unusable" Grpc(FailedPrecondition),
            "The disk image cannot be used, or names further files.",
            "check `vm.disk` with `qemu-img info`, and set `disk.format` to its format";
        DiskTool "disk-tool" Grpc(FailedPrecondition),
            "`qemu-img`, which makes the VM's disk, is missing or fails.",
            "install QEMU's tools, and check `vm.disk` with `qemu-img info`";
        StateDirNotUtf8 "state-dir-not-utf8" Grpc(FailedPrecondition),
            "The path of the state directory is not UTF-8, which QEMU's monitor needs.",
            "set another `state_dir` in the config file";
        Store "store" Grpc(Internal),
            "The state directory cannot be written.",
            "see that the state directory has room and is the daemon's own";
        StoreFull "store-full" Grpc(ResourceExhausted),
            "The file system of the state directory or of `secrets_dir` is full.",
            "free room on the file system of the path that is named; VMs that run go on, and removing one works";
        CommandUnrenderable "command-unrenderable" Grpc(Internal),
            "A checked plan cannot be made into arguments.",
            "report it as a bug of Casemate";
    }

    Launch {
        GuestNotConfined "guest-not-confined" Grpc(FailedPrecondition),
            "The guest's network cannot be kept from this host.",
            "run casemated as root on a host with cgroup v2, or set `network.outbound` to `none` or, if the guest may reach this host, to `unfiltered`";
        MeasuringTool "measuring-tool" Grpc(FailedPrecondition),
            "The program that config allows to measure what VMs start from gave no measurement.",
            "see that `attestation.tool` names the program and `attestation.tool_sha256` is its digest, or unset both";
        MeasurementsDiffer "measurements-differ" Grpc(FailedPrecondition),
            "The backend and the program that config allows measured the same VM differently, so one of them is wrong.",
            "do not trust either before you know which; unset `attestation.tool` to start the VM with the backend's value";
        MeasurementChanged "measurement-changed" Grpc(FailedPrecondition),
            "A VM that starts again would be measured otherwise than before: its firmware, kernel or settings changed.",
            "put back what was changed, or start it with `casemate vm start --accept-measurement`, and give verifiers its new policy";
        SecretsGone "secrets-gone" Grpc(FailedPrecondition),
            "The VM's environment and certificates were in memory only and went with the host's boot.",
            "create the VM anew; with a `secrets_dir` on disk they outlive a boot";
        QemuSpawn "qemu-spawn" Grpc(FailedPrecondition),
            "The VM's QEMU cannot be started.",
            "start that QEMU by hand to see what it lacks";
        QemuEnded "qemu-ended" Grpc(Aborted),
            "QEMU ended before the guest ran.",
            "read QEMU's lines above; `casemate plan --standalone` prints a command to try by hand";
        QemuUnresponsive "qemu-unresponsive" Grpc(Aborted),
            "QEMU stopped answering before the guest ran, and was killed.",
            "see whether the host is overloaded, or raise `qemu.start_time` in the config file";
        QemuRefused "qemu-refused" Grpc(Aborted),
            "QEMU refused a command that the launch needs.",
            "read what QEMU says; `casemate plan --standalone` prints a command to try by hand";
        QemuProtocol "qemu-protocol" Grpc(Aborted),
            "QEMU's monitor answered something else than was asked.",
            "use another QEMU; if it is a released one, report it as a bug of Casemate";
        PortRangeExhausted "port-range-exhausted" Grpc(ResourceExhausted),
            "No port of `network.ports` is free.",
            "remove a VM, free the ports, or widen `network.ports` in the config file";
        GuardMismatch "guard-mismatch" Grpc(Aborted),
            "QEMU has another guard than the plan, so the guest was not let run.",
            "do not use this QEMU for confidential VMs";
        QemuNotRunning "qemu-not-running" Grpc(Aborted),
            "QEMU took the command to run the guest, and does not run it.",
            "read QEMU's lines above; `casemate plan --standalone` prints a command to try by hand";
        Removed "removed" Grpc(Aborted),
            "The VM was removed before it ran.",
            "create it again if it is still wanted";
        Internal "internal" Grpc(Internal),
            "The daemon failed at its own work.",
            "report it as a bug of Casemate, with the daemon's log";
    }

    Act {
        NotNow "not-now" Grpc(FailedPrecondition),
            "The VM is in a state in which this cannot be done.",
            "see `casemate vm show` for its state, and bring it into another first";
        NotAbleTo "not-able-to" Grpc(FailedPrecondition),
            "The plan of the VM's backend does not allow this; guests with encrypted state often cannot be paused or reset.",
            "stop the VM and start it again";
        ActSuperseded "act-superseded" Grpc(Aborted),
            "Another call brought the VM elsewhere meanwhile.",
            "look at the VM, and try again if it is still wanted";
        ActFailed "act-failed" Grpc(Unavailable),
            "QEMU did not do what it was told.",
            "see the VM's state; stop it by force if it does not answer";
        WatchTooSlow "watch-too-slow" Grpc(Aborted),
            "The reader of changes fell too far behind and was cut off.",
            "start watching anew: it begins with all VMs as they are";
    }

    Remove {
        FilesLeft "files-left" Grpc(Internal),
            "A VM is stopped, and a file or folder of it cannot be deleted. It stays in the list as `removing`, and casemated goes on trying.",
            "see in the log which path it is, and what holds it (`findmnt`, `lsof`)";
        VmLost "vm-lost" Grpc(FailedPrecondition),
            "The VM is of an earlier daemon and may still run, so it is not touched.",
            "see in its detail what cannot be proven; where a process runs that is a VM of this host, end it by hand, and then start casemated anew";
    }

    Console {
        ConsoleUnreadable "console-unreadable" Grpc(Internal),
            "The console's file cannot be read.",
            "see that the state directory's file system is well";
    }

    Client {
        EndpointForm "endpoint-form" Exit(2),
            "The endpoint is not the address of a daemon.",
            "give a URL such as http://127.0.0.1:7001";
        DaemonUnreachable "daemon-unreachable" Exit(7),
            "Nothing answers at the endpoint.",
            "is casemated running (systemctl status casemated)? Name its gRPC address with --endpoint or CASEMATE_ENDPOINT if it is another one";
        ConnectionBroken "connection-broken" Exit(7),
            "The connection broke before the daemon answered.",
            "see the daemon's log, and look with `casemate vm list` what came of it";
        ClientTimeout "client-timeout" Exit(7),
            "No answer came within `--timeout`.",
            "the daemon may still be at it: look with `casemate vm list`, or wait longer with --timeout";
        AnswerUnexplained "answer-unexplained" ExitOfItsCause,
            "The daemon refused without naming an error of this catalogue.",
            "see the daemon's log, and use a client and a daemon of the same version";
        AnswerIncomplete "answer-incomplete" Exit(8),
            "The daemon's answer leaves out what its interface promises.",
            "use a client and a daemon of the same version";
        VmNameUnknown "vm-name-unknown" Exit(3),
            "No VM has this name, this ID or an ID that begins so.",
            "`casemate vm list` shows all";
        VmNameAmbiguous "vm-name-ambiguous" Exit(4),
            "Several VMs have this name or an ID that begins so.",
            "give more of the ID";
        VmsNotRemoved "vms-not-removed" ExitOfItsCause,
            "Some of several VMs were not removed.",
            "see the errors of the single VMs";
        HostUnfit "host-unfit" Exit(6),
            "`casemate doctor` found that no VM can be started on the daemon's host.",
            "mend what fails, the host's first; each finding has its remedy";
        MeasureBackend "measure-backend" Exit(1),
            "The component that `casemate measure` names cannot be loaded.",
            "name a backend of this host, or a `.wasm` file of its vendor";
        SettingTwice "setting-twice" Exit(2),
            "`casemate measure` is given one setting twice.",
            "give each `--set KEY=VALUE` once";
        FormatOfPolicies "format-of-policies" Exit(2),
            "`--format corim` or `--format trustee` is given to a verb whose answer is no policy.",
            "use `--format table` or `--format json`";
        BinaryToTerminal "binary-to-terminal" Exit(2),
            "A CoRIM would be written to a terminal.",
            "send it to a file: `casemate … --format corim > policy.corim`";
        FactsForm "facts-form" Exit(1),
            "A file of `--facts` holds no record of facts.",
            "give the JSON that `casemate plan --format json` printed on the host, or leave it out";
        InputUnreadable "input-unreadable" Exit(1),
            "A file that the command line names cannot be read.",
            "name a file that you may read";
        EnvironmentFile "environment-file" Exit(4),
            "A line of the file of variables cannot be read.",
            "a line is NAME=VALUE, empty, or begins with #";
        ClientStart "client-start" Exit(1),
            "casemate itself cannot start or go on.",
            "see whether this user may have more processes and open files";
        OutputUnwritable "output-unwritable" Exit(1),
            "The answer cannot be written.",
            "see where standard output goes, and whether there is room";
    }
}
