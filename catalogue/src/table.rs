//! The table itself. An entry is found by its id; new ones go to their stage.
//!
//! A cause is one sentence about the class of errors. A remedy reads well after `remedy: `.

use crate::Answer::{Exit, ExitOfItsCause, Grpc, GrpcAs, Http};
use crate::GrpcCode::{
    Aborted, AlreadyExists, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument,
    NotFound, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable, Unimplemented,
};
use crate::{Entry, Stage};

/// Of a request whose form is right and whose meaning is not (RFC 9110, section 15.5.21).
const UNPROCESSABLE: u16 = 422;
/// Of a condition of the caller's that does not hold (RFC 9110, section 15.5.13).
const CONDITION_FAILED: u16 = 412;
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
        ConfigCanary "config-canary" Exit(EX_CONFIG),
            "A backend is to take the place of one that there is not, or of all VMs.",
            "name a `[[backend]]` that is no canary in `of`, and at least one label";
        ConfigDuplicateBackend "config-duplicate-backend" Exit(EX_CONFIG),
            "Two backends have the same name.",
            "give each `[[backend]]` a name of its own";
        ConfigClient "config-client" Exit(EX_CONFIG),
            "A `[[client]]` of the config file is not of its form, or is another's double.",
            "mend what is named; docs/configuration.md has the keys of a `[[client]]`";
        ConfigNotSupportedYet "config-not-supported-yet" Exit(EX_CONFIG),
            "The config asks for something that this version cannot do yet.",
            "take the setting out, or use a version that has it";
        ListenerExposed "listener-exposed" Exit(EX_CONFIG),
            "A listener without protection would be reachable from other machines.",
            "listen on loopback, set up TLS (`server_cert`, `server_key`) with `client_ca_certs` or a `[[client]]` that has a token, or accept the exposure with `insecure = true` or CASEMATE_INSECURE=true";
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
        SocketUnusable "socket-unusable" Exit(1),
            "A listener's UNIX socket cannot be had.",
            "end the program that serves it, take away what lies at the path, or set another `socket`";
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
        ReloadRefused "reload-refused" Grpc(FailedPrecondition),
            "The config or a backend that it names cannot be used, so nothing was changed.",
            "mend what is named, and reload again";
        ReloadBackend "reload-backend" Exit(1),
            "A backend would not be in service after a reload, so nothing was changed.",
            "mend what is named, and send SIGHUP again; the old backend serves";
        ReloadQemu "reload-qemu" Exit(1),
            "The QEMU that a reload names cannot be used, so nothing was changed.",
            "set `qemu.binary` to one that starts, and send SIGHUP again";
        ReloadLog "reload-log" Exit(1),
            "The log filter of a reload cannot be set, so nothing was changed.",
            "set `log` to a level such as `info`, and send SIGHUP again";
        ReloadTls "reload-tls" Exit(1),
            "The files for TLS cannot be used as they are now, so the ones read before serve on.",
            "mend the file that is named: it is read again when it changes, and at SIGHUP";
    }

    Call {
        Unauthenticated "unauthenticated" Grpc(Unauthenticated),
            "The daemon does not know who calls.",
            "call with what a `[[client]]` of the config is recognised by: a token (`authorization: Bearer TOKEN`), a certificate, or a user of the UNIX socket";
        RoleMissing "role-missing" Grpc(PermissionDenied),
            "The client does not have the role that the call needs.",
            "add the role to `roles` of its `[[client]]` in the config file, and send SIGHUP";
        CallRate "call-rate" Grpc(ResourceExhausted),
            "The client calls more often than it may.",
            "wait as long as the answer says, or raise `limits.calls_per_second` and `limits.call_burst`";
        AuthenticationRate "authentication-rate" Grpc(ResourceExhausted),
            "Too many wrong tokens came from this address.",
            "wait as long as the answer says, and call with the right token";
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
            "look for it at /docs, which shows all routes; gRPC is on another port";
        HttpMethod "http-method" Http(405),
            "The HTTP route does not have this method.",
            "use a method that the header `Allow` names";
    }

    Request {
        RequestMeaning "request-meaning" GrpcAs(InvalidArgument, UNPROCESSABLE),
            "Fields of the request are each of their form, and do not fit together or name what cannot be.",
            "change the field that is named";
        ForeignHost "foreign-host" Http(421),
            "An HTTP request came for a name that is not this host's, as a page of another site would send it.",
            "call the daemon by an address or as `localhost`, or set up a `[[client]]`: then any name will do";
        RequestForm "request-form" Grpc(InvalidArgument),
            "A part of an HTTP request is not of its form.",
            "give what the description at /docs says for this route";
        MediaType "media-type" Http(415),
            "The body of an HTTP request is of a kind that its route does not read.",
            "send JSON, and say so: `Content-Type: application/json`";
        RequestTooLarge "request-too-large" Http(413),
            "The body of an HTTP request is larger than any request needs.",
            "pass less, and let the guest fetch the rest";
        IdempotencyKeyReused "idempotency-key-reused" GrpcAs(AlreadyExists, UNPROCESSABLE),
            "The idempotency key belongs to a VM that was asked for otherwise.",
            "use a key of its own for each VM; with a key that is sent again, send the same request again";
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
        BackendUnknown "backend-unknown" GrpcAs(InvalidArgument, UNPROCESSABLE),
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
        SettingUnknown "setting-unknown" GrpcAs(InvalidArgument, UNPROCESSABLE),
            "The backend has no setting of this name.",
            "`casemate backend show NAME` lists its settings";
        SettingForm "setting-form" GrpcAs(InvalidArgument, UNPROCESSABLE),
            "A setting's value is not of the kind that the backend announces.",
            "give a value of the form that is named; `casemate backend show NAME` lists the kinds";
        SettingNotPerRequest "setting-not-per-request" GrpcAs(InvalidArgument, UNPROCESSABLE),
            "The setting is the operator's, and a request may not have it.",
            "leave it out, or set it under `[backend.settings]` in the config file";
        SettingPath "setting-path" GrpcAs(InvalidArgument, UNPROCESSABLE),
            "The setting names a path of the host, which a request may not.",
            "leave it out, or set it under `[backend.settings]` in the config file";
        FileUnusable "file-unusable" Grpc(FailedPrecondition),
            "A file that the config names cannot be read.",
            "put the file there, or name another in the config file";
        ImageUnusable "image-unusable" Grpc(FailedPrecondition),
            "A file that the request names is not below the image roots, or is no regular file.",
            "name a regular file below one of `images.roots`";
        FileNotAllowed "file-not-allowed" Grpc(PermissionDenied),
            "The request names a file of the host by its path, which takes the role admin.",
            "give a name below one of the image roots";
        KernelCmdline "kernel-cmdline" GrpcAs(InvalidArgument, UNPROCESSABLE),
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
        BackendRefusedRequest "backend-refused-request" GrpcAs(InvalidArgument, UNPROCESSABLE),
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
            "look at the image with `qemu-img info`, and say its format: `disk.format` in the config file, or the request's";
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
        GenerationChanged "generation-changed" GrpcAs(Aborted, CONDITION_FAILED),
            "The VM has changed since the caller last looked at it.",
            "look at the VM again, and ask again with the generation that it has then";
        VmLost "vm-lost" Grpc(FailedPrecondition),
            "The VM is of an earlier daemon and may still run, so it is not touched.",
            "see in its detail what cannot be proven; where a process runs that is a VM of this host, end it by hand, and then start casemated anew";
    }

    Console {
        ConsoleUnreadable "console-unreadable" Grpc(Internal),
            "The console's file cannot be read.",
            "see that the state directory's file system is well";
    }

    Distribution {
        ReferenceForm "reference-form" Exit(2),
            "What is to be pushed, pulled, pinned or inspected is not named by a reference of its form.",
            "write HOST[:PORT]/REPOSITORY:TAG or HOST[:PORT]/REPOSITORY@sha256:DIGEST, or the path of a file";
        PlainHttp "plain-http" Exit(2),
            "A registry or mirror of another machine would be asked without TLS.",
            "use one that has TLS, or accept the exposure with --insecure-http HOST";
        RegistryUnreachable "registry-unreachable" Exit(7),
            "A registry or mirror does not answer, or the connection to it broke.",
            "see whether it runs and can be reached from here without a proxy; SSL_CERT_FILE names the authorities of its certificate; a longer --timeout gives it more time";
        RegistryDenied "registry-denied" Exit(9),
            "A registry does not let this user do that.",
            "log in with `docker login` or its like, which writes ~/.docker/config.json, as a user who may";
        CredentialsUnusable "credentials-unusable" Exit(9),
            "Docker's config, or a credential helper that it names, cannot be used.",
            "mend the file that is named, or name another folder with DOCKER_CONFIG";
        ArtifactUnknown "artifact-unknown" Exit(3),
            "A registry or mirror has nothing of that name.",
            "compare the reference with what the vendor published";
        RegistryAnswer "registry-answer" Exit(8),
            "A registry or mirror answered with an error.",
            "see what it says, and its own log";
        RedirectRefused "redirect-refused" Exit(11),
            "A registry or mirror sends its reader on to a host that was not named.",
            "if that host is where the registry stores its content, name it with --redirect-to HOST";
        ArtifactForm "artifact-form" Exit(11),
            "What a registry has under the reference is no backend as wkg lays components out.",
            "compare the reference with what the vendor published";
        ComponentTooLarge "component-too-large" Exit(11),
            "Something is larger than a component, a signature or a manifest may be.",
            "do not use it: no backend is that large";
        ComponentShort "component-short" Exit(11),
            "A component ended before its announced size.",
            "try again; if it stays so, the registry's copy is damaged";
        DigestMismatch "digest-mismatch" Exit(11),
            "Content is not what its digest says: it was changed on its way or where it lies.",
            "do not use it: pull from elsewhere, and tell who runs the registry or mirror";
        NotAComponent "not-a-component" Exit(11),
            "A file or an artifact is no WebAssembly component of the contract; precompiled code is never accepted.",
            "get the vendor's component";
        PinMismatch "pin-mismatch" Exit(11),
            "A component is not the one that is pinned.",
            "find out why it changed; if the new one is trusted, pin it with `casemate backend pin`";
        OlderThanPinned "older-than-pinned" Exit(11),
            "A component is older than the one that is pinned or that its tag names, or does not say which version it is.",
            "pull the pinned version or a newer one; --allow-downgrade takes the older one";
        NotPinned "not-pinned" Exit(11),
            "The lock file does not have a component.",
            "pin it with `casemate backend pin`, or name what it is held against: the right lock file (--lock), a digest (--sha256) or a key (--key)";
        MirrorNeedsDigest "mirror-needs-digest" Exit(2),
            "A mirror is to be asked for a component whose digest is not known.",
            "give --sha256, pin the component first, or leave --mirror out";
        MirrorAddress "mirror-address" Exit(2),
            "The address of a mirror is not of its form.",
            "give an http:// or https:// URL without user and query, or a folder";
        LockFile "lock-file" Exit(1),
            "The lock file cannot be read or written.",
            "mend the file that is named, or restore it from where it is kept";
        SignatureEnding "signature-ending" Exit(2),
            "The ending of a signature's file does not say what made it.",
            "name it FILE.sig (cosign sign-blob) or FILE.minisig (minisign)";
        BackendName "backend-name" Exit(2),
            "A backend's name is not of its form.",
            "give another, of the form that is named";
        ProjectExists "project-exists" Exit(1),
            "`casemate backend new` would write into a folder that is there.",
            "name another folder with --dir, or move that one away";
        ProjectConfig "project-config" Exit(4),
            "The `backend.toml` of a project is not what its config's lines can be made from.",
            "give it one [[backend]] with a line `name = \"NAME\"`";
        BackendBuild "backend-build" Exit(1),
            "A backend's crate was not built into a component.",
            "see Cargo's message above; where the target is missing: `rustup target add wasm32-unknown-unknown`, or give `-- -Zbuild-std=std,panic_abort` and RUSTC_BOOTSTRAP=1 to a compiler with rust-src";
        SignatureKey "signature-key" Exit(2),
            "A key that is to check signatures cannot be used.",
            "name the vendor's public key: cosign.pub, or the .pub of minisign, readable for the program";
        SignatureMissing "signature-missing" Exit(11),
            "A component has no signature, and keys ask for one.",
            "get the signature from the component's vendor, and put it beside the component, as FILE.sig (cosign) or FILE.minisig";
        SignatureForm "signature-form" Exit(11),
            "A signature is malformed or cannot be read.",
            "get the signature anew from the component's vendor";
        SignatureOtherKey "signature-other-key" Exit(11),
            "A signature was made with a key that is not trusted.",
            "do not use the component, unless its vendor says that the key is theirs; then add it to the keys";
        SignatureMismatch "signature-mismatch" Exit(11),
            "A signature is not one of this component by a trusted key.",
            "do not use the component: get it and its signature anew, and compare the key with what its vendor published";
    }

    Client {
        EndpointForm "endpoint-form" Exit(2),
            "The endpoint is not the address of a daemon.",
            "give a URL such as http://127.0.0.1:7001, https://host.example:7001 or unix:///run/casemate/grpc.sock";
        ClientTls "client-tls" Exit(2),
            "The files for TLS to the daemon are incomplete, cannot be used, or the endpoint speaks no TLS.",
            "use an https:// endpoint, and name PEM files: --client-cert and --client-key together";
        TlsFailed "tls-failed" Exit(7),
            "TLS with the daemon failed: one end does not trust the other's certificate, or it is for another name.",
            "name the daemon's authority with --ca-cert, the daemon as its certificate does, and your own certificate with --client-cert and --client-key if it asks for one";
        TokenForm "token-form" Exit(2),
            "The file of `--token-file`, or CASEMATE_TOKEN, holds no token.",
            "a token is one line of visible ASCII characters, without blanks";
        TokenExposed "token-exposed" Exit(2),
            "A token would cross a network unencrypted.",
            "use an https:// endpoint, or one of this machine: loopback or unix://";
        ContextUnknown "context-unknown" Exit(2),
            "No context has this name.",
            "`casemate context list` shows all; `casemate context set NAME --endpoint URL` makes one";
        ContextName "context-name" Exit(2),
            "A context's name is not of its form.",
            "use 1 to 63 letters, digits, `.`, `_` and `-`";
        ContextsFile "contexts-file" Exit(1),
            "The file of the contexts cannot be read or written.",
            "mend the file that is named, or take it away";
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
        GenerationOfOne "generation-of-one" Exit(2),
            "`--expect-generation` is given with several VMs.",
            "a generation is one VM's: name that VM alone";
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
        SpecFile "spec-file" Exit(4),
            "The file of `--file` describes no VM.",
            "give YAML or JSON of a VmSpec, as docs/cli.md shows it";
        VmEndedEarly "vm-ended-early" Exit(6),
            "The VM ended while `vm create --wait` waited for its agent.",
            "see what the guest wrote: `casemate vm logs ID`";
        AgentSilent "agent-silent" Exit(7),
            "Nothing answered at the VM's agent address within `--wait-timeout`.",
            "the VM goes on: see `casemate vm logs ID`, or wait longer with --wait-timeout";
        Interrupted "interrupted" Exit(130),
            "Ctrl-C ended the command while the daemon was at work.",
            "look with `casemate vm list` what there is";
        ClientStart "client-start" Exit(1),
            "casemate itself cannot start or go on.",
            "see whether this user may have more processes and open files";
        OutputUnwritable "output-unwritable" Exit(1),
            "The answer cannot be written.",
            "see where the output goes, and whether there is room and a right to write";
    }
}
