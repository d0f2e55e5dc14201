//! `--watch` on a terminal: the list, or one VM, drawn anew with each change.

use std::time::Duration;

use casemate_proto::v1::Vm;
use casemate_proto::v1::watch_vms_response::Change;
use tokio::time::MissedTickBehavior;

use crate::client::{Messages, known};
use crate::error::CliError;
use crate::screen::Screen;
use crate::vm::filter::Filter;
use crate::vm::{list, show};

/// Ages and a terminal that is made wider are seen after this time at the latest.
const REDRAW_INTERVAL: Duration = Duration::from_secs(1);

/// What is drawn.
#[derive(Debug)]
pub(super) enum View {
    List(Filter),
    /// By its ID; it ends with the VM.
    One(String),
}

/// The VMs as the changes so far left them, in the order in which they came.
#[derive(Debug)]
struct Picture {
    view: View,
    vms: Vec<Vm>,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The VMs of the start are still coming.
    Filling,
    Complete,
    /// The one VM is gone.
    Over,
}

impl Picture {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Vm(vm) => {
                let vm = known(vm);
                match self.vms.iter_mut().find(|known| known.id == vm.id) {
                    Some(known) => *known = vm,
                    None => self.vms.push(vm),
                }
            }
            Change::Removed(id) => {
                self.vms.retain(|vm| vm.id != id);
                if matches!(&self.view, View::One(only) if *only == id) {
                    self.progress = Progress::Over;
                }
            }
            Change::Synchronized(_) => self.progress = Progress::Complete,
        }
    }

    fn text(&self, screen: &Screen) -> String {
        match &self.view {
            View::List(filter) => {
                let shown: Vec<&Vm> = self.vms.iter().filter(|vm| filter.admits(vm)).collect();
                list::table(&shown, screen)
            }
            View::One(_) => {
                let blocks = self.vms.iter().map(|vm| show::block(vm, screen));
                blocks.collect()
            }
        }
    }
}

pub(super) async fn draw(
    view: View,
    mut changes: Messages<casemate_proto::v1::WatchVmsResponse>,
    screen: &Screen,
) -> Result<(), CliError> {
    let mut picture = Picture {
        view,
        vms: Vec::new(),
        progress: Progress::Filling,
    };
    let mut redraw = tokio::time::interval(REDRAW_INTERVAL);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            answer = changes.next() => {
                let Some(answer) = answer.map_err(CliError::of_watch)? else {
                    return Err(changes.broken_off());
                };
                if let Some(change) = answer.change {
                    picture.apply(change);
                }
            }
            _ = redraw.tick() => {}
        }
        match picture.progress {
            Progress::Filling => {}
            Progress::Complete => {
                let screen = screen.with_the_width_of_now();
                screen.redraw(&picture.text(&screen))?;
            }
            Progress::Over => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use casemate_proto::v1::VmState;

    use super::*;
    use crate::arguments::Format;
    use crate::screen::piped;

    fn vm(id: &str, state: VmState) -> Change {
        Change::Vm(Vm {
            id: id.to_owned(),
            state: state.into(),
            ..Vm::default()
        })
    }

    fn picture(view: View, changes: Vec<Change>) -> Picture {
        let mut picture = Picture {
            view,
            vms: Vec::new(),
            progress: Progress::Filling,
        };
        for change in changes {
            picture.apply(change);
        }
        picture
    }

    #[test]
    fn a_list_is_what_the_changes_left() {
        let list = picture(
            View::List(Filter::default()),
            vec![
                vm("aa11", VmState::Running),
                vm("bb22", VmState::Running),
                Change::Synchronized(true),
                vm("cc33", VmState::Starting),
                vm("aa11", VmState::Exited),
                Change::Removed("bb22".to_owned()),
            ],
        );
        assert_eq!(list.progress, Progress::Complete);
        let text = list.text(&piped(Format::Table));
        let ids: Vec<&str> = text.lines().skip(1).map(|line| &line[..4]).collect();
        assert_eq!(ids, ["aa11", "cc33"]);
        assert!(
            text.contains("exited") && text.contains("starting"),
            "{text}"
        );
    }

    #[test]
    fn one_vm_is_drawn_until_it_is_gone() {
        let changes = || {
            vec![
                vm("aa11", VmState::Running),
                Change::Synchronized(true),
                Change::Removed("other".to_owned()),
            ]
        };
        let one = picture(View::One("aa11".to_owned()), changes());
        assert_eq!(one.progress, Progress::Complete);
        assert!(one.text(&piped(Format::Table)).contains("running"));
        let mut changes = changes();
        changes.push(Change::Removed("aa11".to_owned()));
        let over = picture(View::One("aa11".to_owned()), changes);
        assert_eq!(over.progress, Progress::Over);
    }
}
