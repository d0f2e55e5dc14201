//! Judges a QEMU argument list by the rules that QEMU, KVM and the firmware impose on guests under
//! SEV-SNP and TDX.
//!
//! The crate shares no code with the host or with a backend. It has a parser of its own and a table
//! of rules of its own ([`RULES`]), so that a backend and its checker do not have one mistake in
//! common. It judges any list: `tests/program/others.rs` gives it those of other projects.
//!
//! What the list alone cannot tell, such as the bit that the CPU encrypts by, is in [`World`].

mod arguments;
mod case;
mod item;
mod keyval;
mod options;
mod quantity;
mod rules;
mod world;

pub use arguments::{Arguments, Cpu, Problem};
pub use item::{Form, Item, Reading};
pub use keyval::{KeyvalError, Pair};
pub use rules::{RULES, Rule, Scope, Weight};
pub use world::{Debugging, Firmware, Smt, World};

use case::Case;

/// What protects the guest of an argument list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Technology {
    SevSnp,
    Tdx,
    /// Nothing that this crate has rules for.
    Plain,
}

impl Technology {
    pub const ALL: [Self; 3] = [Self::SevSnp, Self::Tdx, Self::Plain];

    /// By the guard object: the one that the machine names, else the first one that there is. A
    /// guard that nobody names counts too, so that a list that forgets to name it is judged as what
    /// it was meant to be.
    pub fn of(arguments: &Arguments) -> Self {
        match arguments.guard().map(|guard| guard.kind.as_str()) {
            Some(case::SNP_GUEST) => Self::SevSnp,
            Some(case::TDX_GUEST) => Self::Tdx,
            _ => Self::Plain,
        }
    }
}

/// A rule that a list breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// [`Rule::id`].
    pub rule: &'static str,
    /// What in the list breaks it.
    pub detail: String,
}

/// Every rule of [`RULES`] that is for this kind of list and that `argv` breaks, in the table's
/// order. `argv` is without the program's name.
pub fn check(argv: &[String], world: &World) -> Vec<Violation> {
    let arguments = Arguments::parse(argv);
    let technology = Technology::of(&arguments);
    let case = Case::new(&arguments, world);
    let judge = |rule: &Rule| {
        let details = if rule.scope.covers(technology) {
            rule.judge(&case)
        } else {
            Vec::new()
        };
        let id = rule.id;
        details
            .into_iter()
            .map(move |detail| Violation { rule: id, detail })
    };
    RULES.iter().flat_map(judge).collect()
}
