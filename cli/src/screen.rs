//! Standard output: whether a terminal is behind it, whether it gets colours, and the tables and
//! blocks that go to it. Nothing else writes there.

use std::io::{IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table};
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use crate::arguments::{Data, Format};
use crate::error::CliError;
use crate::{plain_text, yaml};

/// Keys that are longer do not move the values of the others.
const WIDEST_KEY: usize = 64;

/// Space between two columns.
const COLUMN_GAP: u16 = 2;

/// Digits of an ID that is cut: still as good as always the beginning of one VM's only.
const SHORT_ID: usize = 8;

/// A text that is broken into pieces shorter than this is hard to read.
const NARROWEST_TEXT: usize = 14;

#[derive(Debug, Clone)]
pub(crate) struct Screen {
    pub(crate) format: Format,
    output: Sink,
    errors: Sink,
    /// Of the terminal behind standard output.
    width: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sink {
    ColourTerminal,
    PlainTerminal,
    FileOrPipe,
}

impl Sink {
    fn of(is_terminal: impl IsTerminal) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        match is_terminal.is_terminal() {
            false => Self::FileOrPipe,
            true if no_colour || dumb => Self::PlainTerminal,
            true => Self::ColourTerminal,
        }
    }
}

/// What a colour says; a terminal without colours loses nothing but the colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Attention,
    Bad,
    Dim,
}

/// How a column's content takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// May be broken into lines on a narrow terminal.
    Text,
    /// Is read as one word or copied by people, and therefore never broken.
    Word,
    /// As a word; its beginning alone will do where there is no room.
    Id,
    Number,
}

/// Whether a column may go when the terminal is too narrow for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Always,
    /// The highest number goes first.
    IfWide(u8),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    name: &'static str,
    content: Content,
    keep: Keep,
}

impl Column {
    pub(crate) const fn new(name: &'static str, content: Content) -> Self {
        Self {
            name,
            content,
            keep: Keep::Always,
        }
    }

    pub(crate) const fn if_wide(name: &'static str, content: Content, order: u8) -> Self {
        Self {
            name,
            content,
            keep: Keep::IfWide(order),
        }
    }
}

/// Order of a column that is worth more than the end of an ID.
pub(crate) const LAST_TO_GO: u8 = 0;

/// How a table gets its room.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fit {
    /// Indices of columns.
    kept: Vec<usize>,
    ids: Ids,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    Whole,
    Cut,
}

fn beginning(id: &str) -> String {
    id.chars().take(SHORT_ID).collect()
}

/// A cell's text and what its colour says.
pub(crate) type Tinted = (String, Tone);

impl Screen {
    pub(crate) fn of_this_process(format: Format) -> Self {
        Self {
            format,
            output: Sink::of(std::io::stdout()),
            errors: Sink::of(std::io::stderr()),
            // A new table knows no width but the terminal's.
            width: Table::new().width(),
        }
    }

    pub(crate) fn output_is_terminal(&self) -> bool {
        self.output != Sink::FileOrPipe
    }

    /// Whether an answer that changes is drawn in place.
    pub(crate) fn is_redrawn(&self) -> bool {
        self.output_is_terminal() && self.format == Format::Table
    }

    pub(crate) fn write_raw(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut output = std::io::stdout().lock();
        output
            .write_all(bytes)
            .and_then(|()| output.flush())
            .map_err(CliError::Output)
    }

    /// A terminal that is made narrower or wider meanwhile.
    pub(crate) fn with_the_width_of_now(&self) -> Self {
        Self {
            width: Table::new().width(),
            ..*self
        }
    }

    /// Draws in place of what is on the terminal, as far as there are lines.
    pub(crate) fn redraw(&self, text: &str) -> Result<(), CliError> {
        let height = crossterm::terminal::size().map_or(usize::MAX, |(_, rows)| rows.into());
        self.write_raw(frame(text, height).as_bytes())
    }

    /// The answer, for programs.
    pub(crate) fn write_value(&self, value: &Value) -> Result<(), CliError> {
        match self.format {
            Format::Data(Data::Yaml) => self.write_text(&yaml::text(value)?),
            Format::Data(Data::Json) | Format::Table => {
                self.write_raw(plain_text::escaped_json(&format!("{value:#}\n")).as_bytes())
            }
        }
    }

    /// One value of several: JSON on a line each, YAML as a document each.
    pub(crate) fn write_one_value(&self, value: &Value) -> Result<(), CliError> {
        match self.format {
            Format::Data(Data::Yaml) => self.write_text(&format!("---\n{}", yaml::text(value)?)),
            Format::Data(Data::Json) | Format::Table => {
                self.write_raw(plain_text::escaped_json(&format!("{value}\n")).as_bytes())
            }
        }
    }

    /// Text of several lines whose control characters a terminal must not obey. A file gets it
    /// byte for byte.
    pub(crate) fn write_text(&self, text: &str) -> Result<(), CliError> {
        if self.output_is_terminal() {
            self.write_raw(plain_text::escaped(text).as_bytes())
        } else {
            self.write_raw(text.as_bytes())
        }
    }

    /// A document for a program. What is no text does not go to a terminal.
    pub(crate) fn write_document(&self, document: &[u8], is_binary: bool) -> Result<(), CliError> {
        match std::str::from_utf8(document) {
            Ok(text) if !is_binary => {
                let end = if text.ends_with('\n') { "" } else { "\n" };
                self.write_text(&format!("{text}{end}"))
            }
            _ if self.output_is_terminal() => Err(CliError::BinaryToTerminal),
            _ => self.write_raw(document),
        }
    }

    /// Remarks that are not part of the answer.
    pub(crate) fn write_remark(&self, text: &str) {
        // An answer is not lost because a remark cannot be shown.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    pub(crate) fn write_table(
        &self,
        columns: &[Column],
        rows: &[Vec<Tinted>],
    ) -> Result<(), CliError> {
        self.write_raw(self.table(columns, rows).as_bytes())
    }

    /// On a terminal the table fits its width; in a file or a pipe each row is one line with all
    /// columns.
    pub(crate) fn table(&self, columns: &[Column], rows: &[Vec<Tinted>]) -> String {
        let Fit { kept, ids } = self.fit(columns, rows);
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        match self.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        match self.output {
            Sink::ColourTerminal => table.enforce_styling(),
            Sink::PlainTerminal | Sink::FileOrPipe => table.force_no_tty(),
        };
        table.set_header(
            kept.iter()
                .map(|&index| self.cell(columns[index].name, Tone::Dim)),
        );
        for row in rows {
            table.add_row(kept.iter().map(|&index| {
                let (text, tone) = &row[index];
                match (columns[index].content, ids) {
                    (Content::Id, Ids::Cut) => self.cell(&beginning(text), *tone),
                    _ => self.cell(text, *tone),
                }
            }));
        }
        for (position, &index) in kept.iter().enumerate() {
            let Some(column) = table.column_mut(position) else {
                continue;
            };
            column.set_padding((0, COLUMN_GAP));
            match columns[index].content {
                Content::Text => {}
                Content::Word | Content::Id => {
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
                Content::Number => {
                    column.set_cell_alignment(CellAlignment::Right);
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
            }
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        if kept.len() < columns.len() {
            let left_out: Vec<&str> = (0..columns.len())
                .filter(|index| !kept.contains(index))
                .map(|index| columns[index].name)
                .collect();
            let names = format!("(no room for {})", left_out.join(", "));
            let note = match self.width {
                Some(width) if names.len() > usize::from(width) => {
                    format!("(no room for {} columns)", left_out.len())
                }
                _ => names,
            };
            text.push_str(&self.tint(&note, Tone::Dim));
            text.push('\n');
        }
        text
    }

    /// Columns go one after the other, until the rest has room; before the last of them, IDs are
    /// cut.
    fn fit(&self, columns: &[Column], rows: &[Vec<Tinted>]) -> Fit {
        let mut fit = Fit {
            kept: (0..columns.len()).collect(),
            ids: Ids::Whole,
        };
        let Some(width) = self.width else {
            return fit;
        };
        let needed = |index: usize, ids: Ids| {
            let column = columns[index];
            let cells = rows.iter().map(|row| match (column.content, ids) {
                (Content::Id, Ids::Cut) => beginning(&row[index].0).width(),
                _ => row[index].0.width(),
            });
            let natural = cells.chain([column.name.len()]).max().unwrap_or(0);
            let least = match column.content {
                Content::Text => natural.min(NARROWEST_TEXT),
                Content::Word | Content::Id | Content::Number => natural,
            };
            least + usize::from(COLUMN_GAP)
        };
        let order = |index: &usize| match columns[*index].keep {
            Keep::Always => None,
            Keep::IfWide(order) => Some(order),
        };
        loop {
            let total: usize = fit.kept.iter().map(|&index| needed(index, fit.ids)).sum();
            if total <= usize::from(width) {
                return fit;
            }
            match fit.kept.iter().filter_map(order).max() {
                Some(goes) if goes > LAST_TO_GO || fit.ids == Ids::Cut => {
                    fit.kept.retain(|index| order(index) != Some(goes));
                }
                _ if fit.ids == Ids::Whole => fit.ids = Ids::Cut,
                _ => return fit,
            }
        }
    }

    fn cell(&self, text: &str, tone: Tone) -> Cell {
        let text = plain_text::stripped(text);
        let cell = Cell::new(if text.is_empty() {
            "-".to_owned()
        } else {
            text
        });
        match colour_of(tone) {
            Some(colour) if self.output == Sink::ColourTerminal => cell.fg(colour),
            _ => cell,
        }
    }

    /// `key: value` lines with the values below each other.
    pub(crate) fn block(&self, fields: &[(&str, Tinted)]) -> String {
        let keys = fields.iter().map(|(key, _)| plain_text::stripped(key));
        let keys: Vec<String> = keys.collect();
        let width = keys
            .iter()
            .map(|key| key.width())
            .max()
            .unwrap_or(0)
            .min(WIDEST_KEY)
            + 1;
        let mut text = String::new();
        for (key, (_, (value, tone))) in keys.iter().zip(fields) {
            let key = format!("{key}:");
            let value = plain_text::stripped(value);
            let value = tinted(&value, *tone, self.output);
            text.push_str(format!("{key:width$}  {value}").trim_end());
            text.push('\n');
        }
        text
    }

    pub(crate) fn tint(&self, text: &str, tone: Tone) -> String {
        tinted(text, tone, self.output)
    }

    pub(crate) fn tint_remark(&self, text: &str, tone: Tone) -> String {
        tinted(text, tone, self.errors)
    }

    /// As the answer would have been: for people, or one line of JSON.
    pub(crate) fn error_report(&self, error: &CliError) -> String {
        let value = || serde_json::json!({"error": error.to_json()});
        match self.format {
            Format::Data(Data::Yaml) => match yaml::text(&value()) {
                Ok(text) => plain_text::escaped(&text),
                Err(_) => self.report("", error),
            },
            Format::Data(Data::Json) => plain_text::escaped_json(&format!("{}\n", value())),
            Format::Table => self.report("", error),
        }
    }

    /// For people: which of several things the error is about comes first.
    pub(crate) fn error_report_about(&self, about: &str, error: &CliError) -> String {
        self.report(&format!("{about}: "), error)
    }

    fn report(&self, about: &str, error: &CliError) -> String {
        let label = self.tint_remark("error:", Tone::Bad);
        let mut report = format!("{label} {about}{error}\n");
        for line in error.details() {
            report.push_str("  ");
            report.push_str(&line);
            report.push('\n');
        }
        report
    }
}

/// From the upper left corner on; what was there before is cleared line by line, which does not
/// flicker.
fn frame(text: &str, height: usize) -> String {
    const HOME: &str = "\x1b[H";
    const CLEAR_REST_OF_LINE: &str = "\x1b[K";
    const CLEAR_BELOW: &str = "\x1b[J";
    let lines: Vec<&str> = text.lines().collect();
    // The cursor needs a line, too.
    let room = height.saturating_sub(1).max(1);
    let mut frame = HOME.to_owned();
    let (shown, more) = match lines.len() > room {
        true => lines.split_at(room - 1),
        false => (lines.as_slice(), [].as_slice()),
    };
    for line in shown {
        frame.push_str(&format!("{line}{CLEAR_REST_OF_LINE}\n"));
    }
    if !more.is_empty() {
        let lines = more.len();
        frame.push_str(&format!(
            "(no room for {lines} lines){CLEAR_REST_OF_LINE}\n"
        ));
    }
    frame + CLEAR_BELOW
}

fn colour_of(tone: Tone) -> Option<Color> {
    match tone {
        Tone::Plain => None,
        Tone::Good => Some(Color::DarkGreen),
        Tone::Attention => Some(Color::DarkYellow),
        Tone::Bad => Some(Color::DarkRed),
        Tone::Dim => Some(Color::DarkGrey),
    }
}

fn tinted(text: &str, tone: Tone, sink: Sink) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => "32",
        Tone::Attention => "33",
        Tone::Bad => "31",
        Tone::Dim => "90",
    };
    if sink == Sink::ColourTerminal {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
pub(crate) fn wide(format: Format, width: u16) -> Screen {
    Screen {
        width: Some(width),
        ..piped(format)
    }
}

#[cfg(test)]
pub(crate) fn piped(format: Format) -> Screen {
    Screen {
        format,
        output: Sink::FileOrPipe,
        errors: Sink::FileOrPipe,
        width: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Tinted {
        (text.to_owned(), Tone::Good)
    }

    #[test]
    fn a_table_has_one_line_a_row_and_no_colours_in_a_pipe() {
        let columns = [
            Column::new("NAME", Content::Text),
            Column::new("VCPUS", Content::Number),
        ];
        let rows = [
            vec![plain("one\x1b[2J"), plain("2")],
            vec![plain(""), plain("16")],
        ];
        assert_eq!(
            piped(Format::Table).table(&columns, &rows),
            "NAME    VCPUS\none[2J      2\n-          16\n"
        );
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns_and_broken_texts() {
        let columns = [
            Column::new("ID", Content::Word),
            Column::new("NAME", Content::Text),
            Column::if_wide("CPU", Content::Word, 1),
            Column::if_wide("TEE", Content::Word, 2),
        ];
        let rows = [vec![
            plain("0123456789"),
            plain("abcdefghijklmnopqrstuvw"),
            plain("EPYC"),
            plain("none"),
        ]];
        let table_at = |width| {
            let screen = Screen {
                width: Some(width),
                ..piped(Format::Table)
            };
            screen.table(&columns, &rows)
        };
        assert_eq!(
            table_at(80),
            "ID          NAME                     CPU   TEE\n\
             0123456789  abcdefghijklmnopqrstuvw  EPYC  none\n"
        );
        assert_eq!(
            table_at(36),
            "ID          NAME              CPU\n\
             0123456789  abcdefghijklmnop  EPYC\n            qrstuvw\n\
             (no room for TEE)\n"
        );
        assert!(table_at(22).ends_with("(no room for CPU, TEE)\n"));
        assert!(table_at(20).ends_with("(no room for 2 columns)\n"));
    }

    #[test]
    fn a_frame_fits_the_height() {
        assert_eq!(frame("one\ntwo\n", 4), "\x1b[Hone\x1b[K\ntwo\x1b[K\n\x1b[J");
        assert_eq!(
            frame("one\ntwo\nthree\nfour\n", 4),
            "\x1b[Hone\x1b[K\ntwo\x1b[K\n(no room for 2 lines)\x1b[K\n\x1b[J"
        );
        assert!(frame("one\n", 0).contains("one"));
    }

    #[test]
    fn a_block_has_its_values_below_each_other() {
        let fields = [("name", plain("a\nb")), ("protection", plain("none"))];
        assert_eq!(
            piped(Format::Table).block(&fields),
            "name:        a b\nprotection:  none\n"
        );
        let long = "k".repeat(100_000);
        let fields = [("a\u{1b}[8m\n", plain("x")), (&*long, plain("y"))];
        let text = piped(Format::Table).block(&fields);
        assert!(text.starts_with("a[8m"), "{}", &text[..20]);
        assert!(text.ends_with(":  y\n") && !text.contains('\u{1b}'));
    }

    #[test]
    fn an_error_has_its_details_below_it() {
        let error = CliError::NoSuchVm {
            wanted: "x".to_owned(),
        };
        assert_eq!(
            piped(Format::Table).error_report(&error),
            "error: no VM has \"x\" as its name, its ID or the beginning of its ID\n  remedy: \
             `casemate vm list` shows all\n  error: vm-name-unknown (stage client, subject x)\n"
        );
    }
}
