//! What came of it: figures, verdicts, a table for people and a list for programs.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Color, Table};
use serde_json::{Value as Json, json};

use crate::sample::Samples;

/// Digits after the point: below them is noise, whatever the unit.
const PRECISION: i32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    unit: &'static str,
    p50: f64,
    p99: f64,
    n: usize,
    budget: Option<f64>,
}

impl Figure {
    pub(crate) fn new(name: &'static str, unit: &'static str, samples: &Samples) -> Self {
        Self {
            name,
            unit,
            p50: rounded(samples.p50()),
            p99: rounded(samples.p99()),
            n: samples.len(),
            budget: None,
        }
    }

    /// How many times `of` is of `to`, a baseline from the same run: it says more about the code
    /// than a time does, since the machine's speed is on both sides.
    pub(crate) fn ratio(name: &'static str, of: &Samples, to: &Samples) -> Self {
        Self {
            name,
            unit: "ratio",
            p50: rounded(of.p50() / to.p50()),
            p99: rounded(of.p99() / to.p99()),
            n: of.len().min(to.len()),
            budget: None,
        }
    }

    /// What the median may be.
    pub(crate) fn with_budget(self, budget: f64) -> Self {
        Self {
            budget: Some(budget),
            ..self
        }
    }

    pub(crate) fn verdict(&self) -> Option<Verdict> {
        let budget = self.budget?;
        Some(if self.p50 <= budget {
            Verdict::Met
        } else {
            Verdict::Missed
        })
    }

    fn to_json(&self) -> Json {
        json!({
            "name": self.name,
            "unit": self.unit,
            "p50": self.p50,
            "p99": self.p99,
            "n": self.n,
            "budget": self.budget,
            "verdict": self.verdict().map(Verdict::as_str),
        })
    }
}

fn rounded(value: f64) -> f64 {
    let scale = 10_f64.powi(PRECISION);
    (value * scale).round() / scale
}

/// Replaces the report on disk.
pub(crate) fn write_json(figures: &[Figure], path: &Path) -> Result<()> {
    let list: Json = figures.iter().map(Figure::to_json).collect();
    let text = serde_json::to_string_pretty(&list).context("the report is no JSON")?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Coloured,
}

impl Style {
    /// Colours are for a terminal, unless NO_COLOR is set and not empty.
    pub(crate) fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !refused {
            Self::Coloured
        } else {
            Self::Plain
        }
    }
}

/// At most 80 columns wide: names are short, and numbers have as many digits as they need.
pub(crate) fn table(figures: &[Figure], style: Style) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    match style {
        Style::Plain => table.force_no_tty(),
        Style::Coloured => table.enforce_styling(),
    };
    table.set_header(["figure", "unit", "p50", "p99", "n", "budget", "verdict"]);
    for figure in figures {
        let verdict = figure.verdict();
        let mut mark = Cell::new(verdict.map_or("", Verdict::as_str));
        if let Some(verdict) = verdict {
            mark = mark.fg(match verdict {
                Verdict::Met => Color::Green,
                Verdict::Missed => Color::Red,
            });
        }
        table.add_row([
            Cell::new(figure.name),
            Cell::new(figure.unit),
            Cell::new(short(figure.p50)),
            Cell::new(short(figure.p99)),
            Cell::new(figure.n),
            Cell::new(figure.budget.map(short).unwrap_or_default()),
            mark,
        ]);
    }
    for position in 2..=5 {
        if let Some(column) = table.column_mut(position) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().into()).collect();
    lines.join("\n")
}

/// Three digits that say something, or all before the point.
fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        values.iter().copied().collect()
    }

    #[test]
    fn the_median_decides_and_the_tail_does_not() {
        let figure = Figure::new("x", "ms", &samples(&[1.0, 2.0, 99.0]));
        assert_eq!(figure.verdict(), None);
        assert_eq!(
            figure.clone().with_budget(2.0).verdict(),
            Some(Verdict::Met)
        );
        assert_eq!(figure.with_budget(1.9).verdict(), Some(Verdict::Missed));
    }

    #[test]
    fn a_ratio_is_of_medians_and_of_tails() {
        let figure = Figure::ratio("x", &samples(&[2.0, 4.0, 30.0]), &samples(&[2.0, 3.0]));
        assert_eq!((figure.p50, figure.p99, figure.n), (2.0, 10.0, 2));
    }

    #[test]
    fn the_report_is_a_list_with_nulls_where_there_is_no_budget() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("bench/report.json");
        let figures = [
            Figure::new("fast", "us", &samples(&[1.23456])).with_budget(2.0),
            Figure::new("free", "ms", &samples(&[5.0, 6.0])),
        ];
        write_json(&figures, &path).expect("it can be written");
        let text = std::fs::read_to_string(&path).expect("it was written");
        let report: Json = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            report,
            json!([
                {"name": "fast", "unit": "us", "p50": 1.235, "p99": 1.235, "n": 1,
                 "budget": 2.0, "verdict": "met"},
                {"name": "free", "unit": "ms", "p50": 5.0, "p99": 6.0, "n": 2,
                 "budget": null, "verdict": null},
            ])
        );
    }

    #[test]
    fn the_table_fits_a_terminal_and_has_colours_only_where_wanted() {
        let widest = Figure::new("create-real-qemu-own-share", "ratio", &samples(&[12345.0]))
            .with_budget(10_000.0);
        let plain = table(std::slice::from_ref(&widest), Style::Plain);
        assert!(plain.lines().all(|line| line.len() <= 80), "{plain}");
        assert!(plain.contains("missed") && !plain.contains('\u{1b}'));
        assert!(table(&[widest], Style::Coloured).contains('\u{1b}'));
    }
}
