//! Sizes as people write them. All multiples are binary, as in QEMU's own options, so that `2G`
//! means the same here and there.

/// Suffixes by the power of 1024 that they stand for.
const UNITS: &[(char, u32)] = &[('K', 1), ('M', 2), ('G', 3), ('T', 4)];

/// `2G`, `512MiB`, `4096`; never nothing.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wanted = || format!("{text:?} is not a size such as 512M, 2G or 1073741824");
    let text = text.trim();
    let end_of_digits = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end_of_digits);
    let number: u64 = digits.parse().map_err(|_| wanted())?;
    let power = power_of(suffix.trim_start()).ok_or_else(wanted)?;
    let bytes = 1024_u64
        .checked_pow(power)
        .and_then(|unit| number.checked_mul(unit))
        .ok_or_else(|| format!("{text} is more than 64 bits can hold"))?;
    if bytes == 0 {
        return Err("must be more than nothing".to_owned());
    }
    Ok(bytes)
}

fn power_of(suffix: &str) -> Option<u32> {
    let mut characters = suffix.chars();
    let Some(first) = characters.next() else {
        return Some(0);
    };
    let rest = characters.as_str();
    if first.eq_ignore_ascii_case(&'B') && rest.is_empty() {
        return Some(0);
    }
    let (_, power) = UNITS
        .iter()
        .find(|(unit, _)| unit.eq_ignore_ascii_case(&first))?;
    matches!(rest, "" | "i" | "B" | "iB").then_some(*power)
}

/// The largest unit that shows the size exactly: `2 GiB`, `1536 MiB`.
pub(crate) fn display(bytes: u64) -> String {
    for &(unit, power) in UNITS.iter().rev() {
        let size = 1024_u64.pow(power);
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{} {unit}iB", bytes / size);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, expected) in [
            ("1", 1),
            ("4096", 4096),
            ("4096B", 4096),
            ("1K", 1024),
            ("4KiB", 4096),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("512Mi", 512 << 20),
            ("512 MiB", 512 << 20),
            ("2G", 2 << 30),
            ("2GB", 2 << 30),
            ("1T", 1 << 40),
            ("16777215T", 16_777_215 << 40),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "G",
            "4kb",
            "-1",
            "+1",
            "1.5G",
            "2P",
            "2GiBi",
            "2G2",
            "0",
            "0M",
            "16777216T",
            "99999999999999999999",
            "0x10",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_exactly() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1000, "1000 B"),
            (1024, "1 KiB"),
            (1536 << 20, "1536 MiB"),
            (2 << 30, "2 GiB"),
            ((2 << 30) + 1, "2147483649 B"),
        ] {
            assert_eq!(display(bytes), expected);
        }
    }
}
