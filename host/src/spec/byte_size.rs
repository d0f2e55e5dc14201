//! Sizes as operators write them: `2048M`, `2G`, `512Mi` or plain bytes. As in QEMU, `K`, `M`, `G`
//! and `T` are binary multiples.

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{text:?} is not a size; write bytes or a number with K, M, G, T, Ki, Mi, Gi or Ti (`2048M`)"
)]
pub struct ByteSizeError {
    pub text: String,
}

/// Bytes of `text`.
pub fn parse(text: &str) -> Result<u64, ByteSizeError> {
    let error = || ByteSizeError {
        text: text.to_owned(),
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| error())?;
    let shift = match unit {
        "" | "B" => 0,
        "K" | "Ki" | "k" => 10,
        "M" | "Mi" => 20,
        "G" | "Gi" => 30,
        "T" | "Ti" => 40,
        _ => return Err(error()),
    };
    number.checked_mul(1 << shift).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_in_every_form() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("2048M", Some(2 << 30)),
            ("2G", Some(2 << 30)),
            ("512Mi", Some(512 << 20)),
            ("1T", Some(1 << 40)),
            ("", None),
            ("M", None),
            ("-1M", None),
            ("1.5G", None),
            ("1 G", None),
            ("1m", None),
            ("99999999999T", None),
        ] {
            assert_eq!(parse(text).ok(), bytes, "{text:?}");
        }
    }
}
