//! How each claim of a backend stands after a run. A check passes where nothing fails, and so it passes
//! where nothing was tried; a claim is proven only where what it is about came up.

use serde::Serialize;

use crate::catalogue::{self as checks, Check, Claim, Level};
use crate::report::{Row, Status};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// What it is about came up, and was judged.
    Proven,
    /// It never came up.
    NotProven,
    /// Only a deeper level than the one that was asked for looks at it.
    NotAsked,
}

/// A claim that was never tried, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Unproven {
    pub claim: Claim,
    pub reason: &'static str,
    pub remedy: &'static str,
}

/// Checks that are tried only where the claim shows itself.
fn core(claim: Claim) -> &'static [&'static Check] {
    match claim {
        // A plan, and one that a host would start.
        Claim::Backend => {
            static CORE: [&Check; 2] = [&checks::FORM, &checks::HOST_OWNED];
            &CORE
        }
        Claim::Settings => {
            static CORE: [&Check; 1] = [&checks::VALUES_TAKEN];
            &CORE
        }
        Claim::Facts => {
            static CORE: [&Check; 1] = [&checks::FACTS_FAIL];
            &CORE
        }
        Claim::Guard => {
            static CORE: [&Check; 1] = [&checks::GUARD_IS_OBJECT];
            &CORE
        }
        Claim::Measures => {
            static CORE: [&Check; 2] = [&checks::REGISTERS_FORM, &checks::MEASURED_SAME];
            &CORE
        }
        Claim::Tool => {
            static CORE: [&Check; 1] = [&checks::TOOL_ANSWERS];
            &CORE
        }
        Claim::Golden => {
            static CORE: [&Check; 1] = [&checks::GOLDEN];
            &CORE
        }
    }
}

/// How `claim` stands after a run to `level`.
pub fn of(claim: Claim, rows: &[Row], level: Level) -> Standing {
    let core = core(claim);
    if core.iter().any(|check| check.level > level) {
        return Standing::NotAsked;
    }
    let is_tried = |check: &&Check| {
        rows.iter()
            .any(|row| row.check.id == check.id && row.status != Status::Skip)
    };
    if core.iter().all(is_tried) {
        Standing::Proven
    } else {
        Standing::NotProven
    }
}

/// Why `claim` is not proven, and what to do about it.
pub fn unproven(claim: Claim) -> Unproven {
    const GOLDEN: &str = "say with golden requests what a host answers that can do it (`[host]`), and how it is asked";
    let (reason, remedy) = match claim {
        Claim::Backend => ("no request became a plan that a host would start", GOLDEN),
        Claim::Settings => (
            "no request became a plan that a setting could change",
            GOLDEN,
        ),
        Claim::Facts => (
            "no fact that it announces was asked for",
            "take needs away that nothing asks for, or say with golden requests when they are",
        ),
        Claim::Guard => ("no plan had a guard", GOLDEN),
        Claim::Measures => ("no launch was measured", GOLDEN),
        Claim::Tool => ("no launch was measured by its tool", GOLDEN),
        Claim::Golden => (
            "no golden request was tried",
            "write golden requests into cases.toml",
        ),
    };
    Unproven {
        claim,
        reason,
        remedy,
    }
}
