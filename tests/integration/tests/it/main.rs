//! The integration tests: the real daemon over real sockets, with real components and, unless a
//! test says why not, real QEMU. `tests/README.md` says which file answers which question.

#![expect(clippy::print_stdout, reason = "a skip says why")]

mod adoption;
mod argv;
mod backend_faults;
mod backend_loading;
mod boot;
mod capacity;
mod cli;
mod confidential;
mod confine;
mod console;
mod deadlines;
mod disk;
mod docs;
mod doctor;
mod dry_run;
mod endurance;
mod environment;
mod errors;
mod golden;
mod guard;
mod hang;
mod hostile;
mod http;
mod launch_failures;
mod lifecycle;
mod limits;
mod measured;
mod measurement;
mod newest_qemu;
mod packaging;
mod predecessor_client;
mod predecessor_command;
mod reach;
mod records;
mod reload;
mod sandbox;
mod secrets;
mod space;
mod swap;
mod system_vm;
mod systemd;
mod tidy;
mod tls;
mod watch;
