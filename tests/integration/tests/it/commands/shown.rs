//! Whether what a command prints is what a document says: numbers, ids, times and blanks may differ.

/// How much of it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Every line; `...` alone stands for any lines, and `…` for any words.
    All,
    /// Every line, and every digit of it.
    Digits,
    /// The documented lines are among those that are printed, in their order.
    Among,
    /// Only the ids of findings about the host, in their order: the rest is each machine's own.
    HostFindings,
}

/// What differs, in words.
pub(super) fn differs(documented: &[String], printed: &str, shown: Shown) -> Option<String> {
    // One line, such as an exit code, has no findings.
    if shown == Shown::HostFindings && documented.len() > 1 {
        let (wanted, found) = (
            findings(documented.iter().map(String::as_str)),
            findings(printed.lines()),
        );
        return (wanted != found || wanted.is_empty())
            .then(|| format!("findings of the host: {found:?}, documented {wanted:?}"));
    }
    let normal = match shown {
        Shown::Digits => |line: &str| line.to_owned(),
        Shown::All | Shown::Among | Shown::HostFindings => normal,
    };
    let printed: Vec<String> = printed.lines().map(normal).collect();
    let mut rest = printed.iter();
    let mut skips = shown == Shown::Among;
    for line in documented {
        if line.trim() == "..." {
            skips = true;
            continue;
        }
        let wanted = normal(line);
        let found = if skips {
            rest.any(|line| fits(&wanted, line))
        } else {
            rest.next().is_some_and(|line| fits(&wanted, line))
        };
        if !found {
            return Some(format!(
                "{wanted:?} is not where it should be in {printed:#?}"
            ));
        }
        skips = shown == Shown::Among;
    }
    let more = rest.next();
    // A block need not show what a command prints, and then it shows nothing of it.
    (!skips && !documented.is_empty() && more.is_some())
        .then(|| format!("more than documented: {more:?}"))
}

/// `host.qemu` and so on, up to where the first backend's begin.
fn findings<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let of_the_host = lines.take_while(|line| !line.is_empty());
    let ids = of_the_host.filter_map(|line| line.split_whitespace().nth(1));
    let mut ids: Vec<String> = ids
        .filter(|id| id.starts_with("host."))
        .map(str::to_owned)
        .collect();
    ids.dedup();
    ids
}

/// `…` stands for anything.
fn fits(wanted: &str, line: &str) -> bool {
    let Some((first, rest)) = wanted.split_once('…') else {
        return wanted == line;
    };
    let (middle, last) = rest.rsplit_once('…').unwrap_or(("", rest));
    let Some(mut left) = line
        .strip_prefix(first)
        .and_then(|line| line.strip_suffix(last))
    else {
        return false;
    };
    middle.split('…').all(|part| {
        let found = left.find(part);
        left = found.map_or("", |at| &left[at + part.len()..]);
        found.is_some()
    })
}

/// One blank between words, and `N` for numbers, ids and digests. A line that is one digit is an
/// exit code.
fn normal(line: &str) -> String {
    if line.len() == 1 {
        return line.to_owned();
    }
    let words: Vec<String> = line.split_whitespace().map(normal_word).collect();
    words.join(" ")
}

fn normal_word(word: &str) -> String {
    let mut text = String::new();
    let mut token = String::new();
    for character in word.chars().chain(['\0']) {
        if character.is_ascii_alphanumeric() || (character == '-' && !token.is_empty()) {
            token.push(character);
            continue;
        }
        text.push_str(&normal_token(&token));
        token.clear();
        if character != '\0' {
            text.push(character);
        }
    }
    text
}

/// An id, a digest or a number is `N`; other words keep all but their digits. A number of three
/// digits stays as it is: it is a status.
fn normal_token(token: &str) -> String {
    let is_number = token.bytes().all(|byte| byte.is_ascii_digit());
    if is_number && token.len() == 3 {
        return token.to_owned();
    }
    let is_hexadecimal = token
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if token.len() >= 16 && is_hexadecimal {
        return "N".to_owned();
    }
    let mut text = String::new();
    for character in token.chars() {
        let is_digit = character.is_ascii_digit();
        if is_digit && text.ends_with('N') {
            continue;
        }
        text.push(if is_digit { 'N' } else { character });
    }
    text
}

#[test]
fn what_differs_is_seen_and_what_may_is_not() {
    let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    for (documented, printed, shown, is_right) in [
        ("a", "a", Shown::All, true),
        ("a", "b", Shown::All, false),
        ("a", "a\nb", Shown::All, false),
        ("", "a", Shown::All, true),
        ("a\n...", "a\nb\nc", Shown::All, true),
        ("...\nc", "a\nb\nc", Shown::All, true),
        ("...\nd", "a\nb\nc", Shown::All, false),
        ("b", "a\nb\nc", Shown::Among, true),
        ("c\nb", "a\nb\nc", Shown::Among, false),
        ("a  17 MiB", "a 4 MiB", Shown::All, true),
        ("0", "9", Shown::All, false),
        ("a 17 MiB", "a 42 GiB", Shown::All, false),
        (
            "id c0a1d5b2-40e7-4e6b-9a2a-43a7c9f4d210",
            "id deadbeef-0000-4000-8000-43a7c9f4d210",
            Shown::All,
            true,
        ),
        ("422", "412", Shown::All, false),
        ("0123456789abcdef", "0123456789abcdee", Shown::All, true),
        ("0123456789abcdef", "0123456789abcdee", Shown::Digits, false),
        ("x: …", "x: anything at all", Shown::All, true),
        ("x …y", "x and y", Shown::All, true),
        ("x …y", "x and z", Shown::All, false),
        ("{a…b…}", "{a, b, c}", Shown::All, true),
        ("{a…d…}", "{a, b, c}", Shown::All, false),
        (
            "  pass  host.qemu (x): y\n  fail  sev.device (z): w",
            "  fail  host.qemu (a): b",
            Shown::HostFindings,
            true,
        ),
        (
            "  pass  host.qemu (x): y",
            "  pass  host.kvm (x)",
            Shown::HostFindings,
            false,
        ),
    ] {
        let differs = differs(&lines(documented), printed, shown);
        assert_eq!(
            differs.is_none(),
            is_right,
            "{documented:?} {printed:?}: {differs:?}"
        );
    }
}
