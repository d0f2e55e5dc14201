//! QEMU's texts for whole numbers, sizes and switches.

/// What a size without a suffix counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Properties of objects.
    Byte,
    /// `-m`.
    Mebibyte,
}

pub(crate) const MEBIBYTE: u64 = 1 << 20;
pub(crate) const GIBIBYTE: u64 = 1 << 30;

/// Digits behind the point of a size that are looked at: 10^18 is the largest power in a `u64`.
const FRACTION_DIGITS: usize = 18;

/// Decimal, hexadecimal with `0x`, or octal with `0`, as C's `strtoull` takes it with base 0.
pub(crate) fn number(text: &str) -> Option<u64> {
    let text = text.trim_start_matches([' ', '\t']);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // `from_str_radix` takes a sign, of which there has been one already.
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// `on`, `yes`, `true` and `y`, and their opposites.
pub(crate) fn switch(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// Bytes of `224395264`, `2G` or `1.5G`; `0x800` for bytes alone.
pub(crate) fn size(text: &str, unit: Unit) -> Option<u64> {
    if text.starts_with("0x") && unit == Unit::Byte {
        return number(text);
    }
    let (digits, scale) = match text.chars().last()? {
        last if last.is_ascii_digit() => (text, factor(unit)),
        last => {
            let digits = text.strip_suffix(last)?;
            (digits, suffix(last)?)
        }
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = decimal(whole)?.checked_mul(u128::from(scale))?;
    let part = if fraction.is_empty() {
        0
    } else {
        let kept: String = fraction.chars().take(FRACTION_DIGITS).collect();
        let power = 10_u128.checked_pow(u32::try_from(kept.len()).ok()?)?;
        decimal(&kept)?.checked_mul(u128::from(scale))? / power
    };
    u64::try_from(whole.checked_add(part)?).ok()
}

fn decimal(text: &str) -> Option<u128> {
    let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| text.parse().ok()).flatten()
}

fn factor(unit: Unit) -> u64 {
    match unit {
        Unit::Byte => 1,
        Unit::Mebibyte => MEBIBYTE,
    }
}

fn suffix(letter: char) -> Option<u64> {
    let shift = match letter.to_ascii_uppercase() {
        'B' => 0,
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        'P' => 50,
        'E' => 60,
        _ => return None,
    };
    Some(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 10.0.2 answered to `query-memory-size-summary` after `-m`, and to `qom-get` of a
    /// memory backend's size. libvirt means the same by its `219136k`, beside which it has
    /// 224395264.
    #[test]
    fn sizes_are_those_that_qemu_reads() {
        let cases = [
            ("219136k", Unit::Mebibyte, Some(224_395_264)),
            ("4194304k", Unit::Mebibyte, Some(4_294_967_296)),
            ("2048", Unit::Mebibyte, Some(2_147_483_648)),
            ("1.5G", Unit::Mebibyte, Some(1_610_612_736)),
            ("010M", Unit::Mebibyte, Some(10_485_760)),
            ("0x800", Unit::Mebibyte, None),
            ("1e3", Unit::Mebibyte, None),
            ("2048 ", Unit::Mebibyte, None),
            ("1048576", Unit::Byte, Some(1_048_576)),
            ("0x100000", Unit::Byte, Some(1_048_576)),
            ("1m", Unit::Byte, Some(1_048_576)),
            ("1e6", Unit::Byte, None),
            ("", Unit::Byte, None),
            ("G", Unit::Byte, None),
            ("-1", Unit::Byte, None),
            ("1.5.5G", Unit::Byte, None),
            ("16E", Unit::Byte, None),
            ("9é", Unit::Byte, None),
        ];
        for (text, unit, expected) in cases {
            assert_eq!(size(text, unit), expected, "{text}");
        }
    }

    /// What QEMU 10.0.2 answered to `qom-get` of the policy of a `sev-snp-guest`.
    #[test]
    fn numbers_have_three_bases() {
        let cases = [
            ("0x30000", Some(196_608)),
            ("196608", Some(196_608)),
            ("0600000", Some(196_608)),
            ("+196608", Some(196_608)),
            (" 196608", Some(196_608)),
            ("-1", None),
            ("0", Some(0)),
            ("", None),
            ("0x", None),
            ("++1", None),
            ("08", None),
            ("0x-1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    /// What QEMU 10.0.2 answered to `qom-get` of `kernel-hashes`, and what it refused.
    #[test]
    fn switches_have_four_words_each() {
        let cases = [
            ("on", Some(true)),
            ("yes", Some(true)),
            ("true", Some(true)),
            ("y", Some(true)),
            ("off", Some(false)),
            ("ON", None),
            ("1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(switch(text), expected, "{text}");
        }
    }
}
