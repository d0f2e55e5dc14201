//! Versions of backends, by semantic versioning: which of two is the older one.

use semver::Version;

/// What a version is taken from. Nobody signed the first two, so the lowest counts: a registry that
/// calls an old component new gains nothing by one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrderedVersion(Option<Version>);

impl OrderedVersion {
    /// The lowest of those that are versions.
    pub fn lowest<'a>(texts: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let versions = texts.into_iter().flatten();
        let versions = versions.filter_map(|text| Version::parse(text).ok());
        Self(versions.min())
    }

    pub fn of(text: &str) -> Self {
        Self::lowest([Some(text)])
    }

    pub fn text(&self) -> Option<String> {
        self.0.as_ref().map(ToString::to_string)
    }

    /// Whether it is older than the other, or may be: what says nothing is not newer.
    pub fn may_be_older_than(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(this), Some(other)) => this < other,
        }
    }
}

impl std::fmt::Display for OrderedVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(version) => version.fmt(f),
            None => f.write_str("of no version"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_of_what_is_claimed_counts() {
        for (annotation, tag, counts) in [
            (Some("1.2.0"), Some("1.2.0"), Some("1.2.0")),
            (Some("9.0.0"), Some("1.2.0"), Some("1.2.0")),
            (Some("1.1.0"), Some("1.2.0"), Some("1.1.0")),
            (Some("next"), Some("1.2.0"), Some("1.2.0")),
            (None, Some("latest"), None),
        ] {
            let version = OrderedVersion::lowest([annotation, tag]);
            assert_eq!(version.text().as_deref(), counts, "{annotation:?} {tag:?}");
        }
    }

    #[test]
    fn what_says_nothing_is_not_newer() {
        let of = OrderedVersion::of;
        for (this, other, older) in [
            ("1.0.0", "1.0.1", true),
            ("1.0.0-rc.1", "1.0.0", true),
            ("1.10.0", "1.9.0", false),
            ("1.0.0", "1.0.0", false),
            ("latest", "1.0.0", true),
            ("1.0.0", "latest", false),
        ] {
            assert_eq!(
                of(this).may_be_older_than(&of(other)),
                older,
                "{this} {other}"
            );
        }
    }
}
