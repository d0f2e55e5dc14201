//! Findings as text: severity, what it is about, what was found, what to do.

use casemate_proto::v1::Finding;

use crate::plain_text;
use crate::screen::Tone;

pub(crate) fn tone(severity: &str) -> Tone {
    match severity {
        "pass" => Tone::Good,
        "warn" => Tone::Attention,
        "fail" => Tone::Bad,
        _ => Tone::Plain,
    }
}

/// `tint` puts the colour in, for whichever stream the text goes to.
pub(crate) fn lines(findings: &[Finding], tint: impl Fn(&str, Tone) -> String) -> String {
    let mut text = String::new();
    for finding in findings {
        let severity = plain_text::stripped(&finding.severity);
        let severity = tint(&format!("{severity:<4}"), tone(&severity));
        let id = plain_text::stripped(&finding.id);
        let subject = match plain_text::stripped(&finding.subject) {
            subject if subject.is_empty() => String::new(),
            subject => format!(" ({subject})"),
        };
        let detail = plain_text::stripped(&finding.detail);
        text.push_str(&format!("{severity}  {id}{subject}: {detail}\n"));
        let remedy = plain_text::stripped(&finding.remedy);
        if !remedy.is_empty() {
            text.push_str(&format!("      remedy: {remedy}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_and_its_remedy() {
        let finding = |severity: &str, subject: &str, remedy: &str| Finding {
            id: "cpu.model".to_owned(),
            severity: severity.to_owned(),
            subject: subject.to_owned(),
            detail: "not\nknown\x1b[2J".to_owned(),
            remedy: remedy.to_owned(),
        };
        let findings = [
            finding("note", "", ""),
            finding("fail", "cpu", "name another one"),
        ];
        assert_eq!(
            lines(&findings, |text, _| text.to_owned()),
            "note  cpu.model: not known[2J\n\
             fail  cpu.model (cpu): not known[2J\n      remedy: name another one\n"
        );
    }
}
