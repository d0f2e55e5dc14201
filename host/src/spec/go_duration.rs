//! Durations as Go writes them (`1h30m`, `90s`, `1.5h`), which is the form of `CreateReq.ttl`.
//!
//! The grammar is that of Go's `time.ParseDuration`, without a sign: a TTL lies ahead.

use std::time::Duration;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{text:?} is not a duration; write numbers with units, such as `90s`, `1h30m` or `1.5h`, at least 1s and at most 10 years"
)]
pub struct GoDurationError {
    pub text: String,
}

/// Longest TTL: beyond it clock arithmetic could overflow, and nobody means it.
const MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// Shortest TTL: less cannot be kept by a VM that takes longer than that to start.
const MIN: Duration = Duration::from_secs(1);

/// The duration of `text`, between one second and ten years.
pub fn parse(text: &str) -> Result<Duration, GoDurationError> {
    let error = || GoDurationError {
        text: text.to_owned(),
    };
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(error());
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let number_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(error)?;
        let (number, tail) = rest.split_at(number_end);
        let number: f64 = number.parse().map_err(|_| error())?;
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(error()),
        };
        total += number * seconds;
        rest = tail;
    }
    let duration = Duration::try_from_secs_f64(total).map_err(|_| error())?;
    check(duration).ok_or_else(error)
}

/// `duration` if it can be a TTL.
pub fn check(duration: Duration) -> Option<Duration> {
    (MIN..=MAX).contains(&duration).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::parse;

    /// Values as Go 1.26's `time.ParseDuration` gives them.
    #[test]
    fn durations_as_go_reads_them() {
        for (text, millis) in [
            ("1h", Some(3_600_000)),
            ("1h30m", Some(5_400_000)),
            ("90s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("+2m", Some(120_000)),
            ("1m0.5s", Some(60_500)),
            ("3000ms", Some(3_000)),
            ("5", None),
            ("", None),
            ("h", None),
            ("-1h", None),
            ("1d", None),
            ("0s", None),
            ("0.1s", None),
            ("1h 30m", None),
            (".s", None),
            ("1..5h", None),
            ("999999999h", None),
        ] {
            assert_eq!(parse(text).ok().map(|d| d.as_millis()), millis, "{text:?}");
        }
    }
}
