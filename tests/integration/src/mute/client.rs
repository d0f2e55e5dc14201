//! `casemate`: its flags, as its own help has them, and its exit codes.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Output, Stdio};

use super::part::{Flag, Part};
use super::{muted, taken};
use crate::artifacts;

/// Every verb has them, and they have no effect that a daemon knows of.
const OF_THE_HELP: [&str; 2] = ["--help", "--version"];

/// How a flag is written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Form {
    short: Option<String>,
    takes_value: bool,
}

/// The arguments that `casemate` is started with: without the flag that is muted.
pub fn arguments<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let Some(Part::Flag(flag)) = muted() else {
        return arguments.to_vec();
    };
    if !is_of(flag, arguments) {
        return arguments.to_vec();
    }
    let forms = forms_in(&help(&flag.verb));
    let form = forms.get(&flag.name).expect("a flag of that verb");
    let without = without(arguments, &flag.name, form);
    if without.len() < arguments.len() {
        taken(flag);
    }
    without
}

/// An end of `casemate` with the code that is muted becomes one with another.
pub fn ended(output: Output) -> Output {
    match output.status.code() {
        Some(code) => Output {
            status: ExitStatus::from_raw(exit_code(code) << 8),
            ..output
        },
        None => output,
    }
}

/// The same of a code alone.
pub fn exit_code(code: i32) -> i32 {
    match muted() {
        Some(part @ Part::Exit(muted)) if code == *muted => {
            taken(part);
            if code == 1 { 2 } else { 1 }
        }
        _ => code,
    }
}

fn is_of(flag: &Flag, arguments: &[&str]) -> bool {
    let verb: Vec<&str> = flag.verb.iter().map(String::as_str).collect();
    verb.is_empty() || arguments.windows(verb.len()).any(|words| words == verb)
}

fn without<'a>(arguments: &[&'a str], name: &str, form: &Form) -> Vec<&'a str> {
    let mut kept = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if *word == name || form.short.as_deref() == Some(word) {
            if form.takes_value {
                words.next();
            }
        } else if word.split_once('=').is_none_or(|(flag, _)| flag != name) {
            kept.push(*word);
        }
    }
    kept
}

/// Every flag of every verb.
pub fn flags() -> Vec<Flag> {
    let mut flags = Vec::new();
    let common = forms_in(&help(&[]));
    collect(&mut Vec::new(), &common, &mut flags);
    flags
}

/// Exit codes that the help lists, but that of success.
pub fn exit_codes() -> Vec<i32> {
    let help = help(&[]);
    let lines = help
        .lines()
        .skip_while(|line| *line != "Exit codes:")
        .skip(1);
    let numbers = lines
        .take_while(|line| line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next()?.parse().ok());
    numbers.filter(|code| *code != 0).collect()
}

fn collect(verb: &mut Vec<String>, common: &BTreeMap<String, Form>, flags: &mut Vec<Flag>) {
    let help = help(verb);
    for name in forms_in(&help).into_keys() {
        let is_listed_above = !verb.is_empty() && common.contains_key(&name);
        if !is_listed_above && !OF_THE_HELP.contains(&name.as_str()) {
            let verb = verb.clone();
            flags.push(Flag { verb, name });
        }
    }
    for name in verbs_in(&help) {
        verb.push(name);
        collect(verb, common, flags);
        verb.pop();
    }
}

fn help(verb: &[String]) -> String {
    #[expect(clippy::disallowed_methods, reason = "the subject of the tests")]
    let mut command = std::process::Command::new(artifacts::program("casemate"));
    let output = command
        .args(verb)
        .arg("--help")
        .stdin(Stdio::null())
        .output()
        .expect("casemate runs");
    assert!(output.status.success(), "{verb:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn verbs_in(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines
        .take_while(|line| line.starts_with(' '))
        // The words that explain a verb are further to the right.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

fn forms_in(help: &str) -> BTreeMap<String, Form> {
    let mut forms = BTreeMap::new();
    for line in help.lines() {
        let mut words = line.split_whitespace().peekable();
        let short = words
            .next_if(|word| word.len() == 3 && word.starts_with('-') && word.ends_with(','))
            .map(|word| word.trim_end_matches(',').to_owned());
        let Some(name) = words.next().and_then(|word| word.strip_prefix("--")) else {
            continue;
        };
        let end = name
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
            .unwrap_or(name.len());
        let takes_value = words.next().is_some_and(|word| word.starts_with('<'));
        forms.insert(format!("--{}", &name[..end]), Form { short, takes_value });
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "\
Reads the console

Usage: casemate vm logs [OPTIONS] <ID>

Commands:
  list    Shows them
  show    Shows one
  help    Print this message

Arguments:
  <ID>  Which one; see --all

Options:
  -f, --follow
          Go on, as --previous does not
      --tail <BYTES>   The end
      --label=<KEY>    One
  -h, --help           Print help
";

    #[test]
    fn help_tells_verbs_and_flags() {
        assert_eq!(verbs_in(HELP), ["list", "show"]);
        let forms = forms_in(HELP);
        let names: Vec<_> = forms.keys().map(String::as_str).collect();
        assert_eq!(names, ["--follow", "--help", "--label", "--tail"]);
        assert_eq!(forms["--follow"].short.as_deref(), Some("-f"));
        assert!(forms["--tail"].takes_value && !forms["--follow"].takes_value);
    }

    #[test]
    fn a_flag_goes_with_its_value() {
        let forms = forms_in(HELP);
        let arguments = ["vm", "logs", "-f", "--tail", "7", "--tail=8", "x"];
        assert_eq!(
            without(&arguments, "--tail", &forms["--tail"]),
            ["vm", "logs", "-f", "x"]
        );
        assert_eq!(
            without(&arguments, "--follow", &forms["--follow"]),
            ["vm", "logs", "--tail", "7", "--tail=8", "x"]
        );
    }
}
