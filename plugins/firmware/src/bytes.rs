//! Little-endian fields, GUIDs as UEFI stores them, and areas of guest memory.

use std::fmt;

/// Takes fields from the front of a slice. `None` means that the slice has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn guid(&mut self) -> Option<Guid> {
        self.array().map(Guid)
    }
}

/// A GUID, as its 16 bytes in a file: the first three groups of its text are little-endian there,
/// the other two are not (UEFI specification, appendix A).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guid([u8; 16]);

impl Guid {
    /// From the groups of the text; the last number is the last two groups.
    pub(crate) const fn new(first: u32, second: u16, third: u16, last: u64) -> Self {
        let [a, b, c, d] = first.to_le_bytes();
        let [e, f] = second.to_le_bytes();
        let [g, h] = third.to_le_bytes();
        let [i, j, k, l, m, n, o, p] = last.to_be_bytes();
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// As it is in a file.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f_, g, h, i, j, k, l, m, n, o, p] = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            u32::from_le_bytes([a, b, c, d]),
            u16::from_le_bytes([e, f_]),
            u16::from_le_bytes([g, h]),
            u16::from_be_bytes([i, j]),
            u64::from_be_bytes([0, 0, k, l, m, n, o, p]),
        )
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A piece of guest memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Guest physical address.
    pub base: u64,
    pub size: u64,
}

impl Area {
    /// The first address after it. A broken table may say one that is past all addresses.
    #[must_use]
    pub fn end(&self) -> u128 {
        u128::from(self.base) + u128::from(self.size)
    }

    #[must_use]
    pub fn contains(&self, other: &Area) -> bool {
        self.base <= other.base && other.end() <= self.end()
    }

    /// An empty area overlaps nothing.
    #[must_use]
    pub fn overlaps(&self, other: &Area) -> bool {
        self.size > 0
            && other.size > 0
            && u128::from(self.base) < other.end()
            && u128::from(other.base) < self.end()
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.base, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected bytes are those of Python's `uuid.UUID(text).bytes_le`.
    #[test]
    fn a_guid_is_stored_as_uefi_stores_it() {
        let guid = Guid::new(0x96b5_82de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
        assert_eq!(
            guid.bytes(),
            [
                0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a,
                0x08, 0x2d
            ]
        );
        assert_eq!(guid.to_string(), "96b582de-1fb2-45f7-baea-a366c55a082d");
        assert_eq!(format!("{guid:?}"), guid.to_string());
    }

    #[test]
    fn fields_end_where_the_bytes_end() {
        let mut fields = Fields::of(&[1, 2, 0, 3, 0, 0, 0, 9]);
        assert_eq!(fields.u8(), Some(1));
        assert_eq!(fields.u16(), Some(2));
        assert_eq!(fields.u32(), Some(3));
        assert_eq!(fields.u16(), None);
        assert_eq!(
            fields.u8(),
            Some(9),
            "a field that did not fit took nothing"
        );
        assert_eq!(fields.u8(), None);
    }

    #[test]
    fn areas_touch_without_overlapping() {
        let area = |base, size| Area { base, size };
        for (one, other, overlap, contained) in [
            (area(0, 0x1000), area(0x1000, 0x1000), false, false),
            (area(0, 0x1001), area(0x1000, 0x1000), true, false),
            (area(0, 0x2000), area(0x1000, 0x1000), true, true),
            (area(0, 0x2000), area(0x1000, 0), false, true),
            (area(u64::MAX, 2), area(u64::MAX - 1, 2), true, false),
            (area(u64::MAX, 0), area(u64::MAX, 1), false, false),
        ] {
            assert_eq!(one.overlaps(&other), overlap, "{one} {other}");
            assert_eq!(other.overlaps(&one), overlap, "{other} {one}");
            assert_eq!(one.contains(&other), contained, "{one} {other}");
        }
    }
}
