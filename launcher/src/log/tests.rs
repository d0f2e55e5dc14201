//! The log against a plain vector of all that was written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::{HEADER_LENGTH, Header, MAX_CAP, Transcript, Writer, read_from};

struct Files {
    head: File,
    tail: File,
}

impl Files {
    fn new() -> Self {
        Self {
            head: tempfile::tempfile().unwrap(),
            tail: tempfile::tempfile().unwrap(),
        }
    }

    fn writer(&self, head_cap: u64, tail_cap: u64) -> Writer {
        let head = self.head.try_clone().unwrap();
        let tail = self.tail.try_clone().unwrap();
        Writer::create(head, head_cap, tail, tail_cap).unwrap()
    }

    fn transcript(&self) -> Transcript {
        Transcript::read(&self.head, &self.tail).unwrap()
    }
}

/// Bytes that differ from their neighbours and from those a ring further on.
fn pattern(from: u64, length: usize) -> Vec<u8> {
    (from..from + length as u64)
        .map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect()
}

/// What is to be left of `stream`.
fn expected(stream: &[u8], head_cap: usize, tail_cap: usize) -> Transcript {
    let head_length = stream.len().min(head_cap);
    let past = &stream[head_length..];
    let omitted = past.len().saturating_sub(tail_cap);
    Transcript {
        head: stream[..head_length].to_vec(),
        omitted: omitted as u64,
        tail: past[omitted..].to_vec(),
        total: stream.len() as u64,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_first_and_the_last_bytes_are_kept(
        head_cap in 0usize..40,
        tail_cap in 0usize..40,
        writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20),
    ) {
        let files = Files::new();
        let mut writer = files.writer(head_cap as u64, tail_cap as u64);
        let mut stream = Vec::new();
        prop_assert_eq!(files.transcript(), expected(&stream, head_cap, tail_cap));
        for bytes in writes {
            writer.write(&bytes);
            stream.extend(bytes);
            prop_assert_eq!(files.transcript(), expected(&stream, head_cap, tail_cap));
        }
        prop_assert_eq!(writer.dropped(), 0);
        let size = files.head.metadata().unwrap().len() + files.tail.metadata().unwrap().len();
        prop_assert!(size <= (head_cap + tail_cap) as u64 + HEADER_LENGTH);
    }

    #[test]
    fn a_follower_gets_every_byte_or_is_told_that_it_is_gone(
        head_cap in 0usize..40,
        tail_cap in 0usize..40,
        steps in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..60), 0usize..4, 0usize..30), 0..20),
    ) {
        let files = Files::new();
        let mut writer = files.writer(head_cap as u64, tail_cap as u64);
        let mut stream = Vec::new();
        let mut offset = 0u64;
        for (bytes, reads, max) in steps {
            writer.write(&bytes);
            stream.extend(bytes);
            for _ in 0..reads {
                let chunk = read_from(&files.head, &files.tail, offset, max).unwrap();
                prop_assert!(chunk.bytes.len() <= max);
                let at = usize::try_from(offset + chunk.skipped).unwrap();
                prop_assert_eq!(&chunk.bytes, &stream[at..at + chunk.bytes.len()]);
                prop_assert_eq!(chunk.next_offset, (at + chunk.bytes.len()) as u64);
                // Skipped is what the ring has lost, and nothing else.
                if chunk.skipped > 0 {
                    prop_assert_eq!(at, stream.len() - tail_cap.min(stream.len()));
                }
                // Something comes whenever there is something.
                if chunk.bytes.is_empty() && max > 0 {
                    prop_assert_eq!(chunk.next_offset, stream.len() as u64);
                }
                offset = chunk.next_offset;
            }
        }
    }

    #[test]
    fn any_header_is_an_error_or_a_log(
        header in prop::collection::vec(any::<u8>(), 0..80),
        keep in 0usize..40,
        offset in any::<u64>(),
        max in any::<usize>(),
    ) {
        let files = Files::new();
        files.writer(3, 16).write(&pattern(0, 90));
        // As much of a good header is kept as lets every check be reached.
        let mut bytes = vec![0; usize::try_from(files.tail.metadata().unwrap().len()).unwrap()];
        files.tail.read_exact_at(&mut bytes, 0).unwrap();
        let end = (keep + header.len()).min(bytes.len());
        bytes[keep..end].copy_from_slice(&header[..end - keep]);
        files.tail.write_all_at(&bytes, 0).unwrap();
        for error in [
            Transcript::read(&files.head, &files.tail).err(),
            read_from(&files.head, &files.tail, offset, max).err(),
        ].into_iter().flatten() {
            prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}

#[test]
fn broken_tails_are_named() {
    let good = Header {
        cap: 8,
        begun: 3,
        total: 3,
    };
    let bytes = |header: Header, ring: usize| {
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(vec![0; ring]);
        bytes
    };
    let mut other_version = bytes(good, 8);
    other_version[8] = 2;
    let cases = [
        (b"short".to_vec(), "no header"),
        (vec![0; 48], "begins as no tail"),
        (other_version, "version 2 is not known"),
        (bytes(Header { cap: 9, ..good }, 8), "ring of 9"),
        (bytes(Header { cap: 7, ..good }, 8), "ring of 7"),
        (
            bytes(
                Header {
                    cap: MAX_CAP + 1,
                    ..good
                },
                8,
            ),
            "ring of",
        ),
        (
            bytes(Header { total: 4, ..good }, 8),
            "4 bytes written of 3",
        ),
        (
            bytes(
                Header {
                    begun: u64::MAX,
                    total: u64::MAX,
                    ..good
                },
                8,
            ),
            "begun",
        ),
    ];
    for (bytes, expected) in cases {
        let files = Files::new();
        files.tail.write_all_at(&bytes, 0).unwrap();
        let error = Transcript::read(&files.head, &files.tail).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    let files = Files::new();
    files.head.set_len(MAX_CAP + 1).unwrap();
    let error = Transcript::read(&files.head, &files.tail).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_crash_between_the_bytes_and_the_header_loses_only_what_it_may_have_spoilt() {
    let files = Files::new();
    let stream = pattern(0, 100);
    files.writer(10, 20).write(&stream);
    // The next write was of 5 bytes, and the writer was killed within it.
    let begun = Header {
        cap: 20,
        begun: 95,
        total: 90,
    };
    files.tail.write_all_at(&begun.to_bytes(), 0).unwrap();
    let spoilt = HEADER_LENGTH + 90 % 20;
    files.tail.write_all_at(&[0xEE; 5], spoilt).unwrap();
    let transcript = files.transcript();
    assert_eq!(transcript.tail, stream[85..]);
    assert_eq!(transcript.omitted, 75);
    assert_eq!(transcript.total, 100);
}

#[test]
fn readers_beside_a_flood_see_only_bytes_that_were_written() {
    read_beside_a_writer(1000, 50_000, 20_000_000);
    // The passage from head to tail happens once in a log, so it takes many.
    for round in 0..300 {
        read_beside_a_writer(round * 10, 5000, 100_000);
    }
}

fn read_beside_a_writer(head_cap: u64, tail_cap: u64, length: u64) {
    let files = Files::new();
    let mut writer = files.writer(head_cap, tail_cap);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while at < length {
                // Of many lengths, some beyond the ring.
                let piece = (at * 7 + 13) % (tail_cap + tail_cap / 5) + 1;
                let piece = piece.min(length - at);
                writer.write(&pattern(at, usize::try_from(piece).unwrap()));
                at += piece;
            }
            done.store(true, Ordering::SeqCst);
        });
        let mut offset = 0;
        loop {
            let last = done.load(Ordering::SeqCst);
            let transcript = files.transcript();
            assert!(transcript.head == pattern(0, transcript.head.len()));
            let at = transcript.head.len() as u64 + transcript.omitted;
            assert!(transcript.tail == pattern(at, transcript.tail.len()));
            let chunk = read_from(&files.head, &files.tail, offset, 20_000).unwrap();
            let at = offset + chunk.skipped;
            assert!(chunk.bytes == pattern(at, chunk.bytes.len()));
            assert_eq!(chunk.next_offset, at + chunk.bytes.len() as u64);
            offset = chunk.next_offset;
            if last && chunk.bytes.is_empty() {
                assert_eq!((offset, transcript.total), (length, length));
                break;
            }
        }
    });
}

#[test]
fn files_with_something_in_them_are_not_written_to() {
    let files = Files::new();
    files.head.write_all_at(b"precious", 0).unwrap();
    let head = files.head.try_clone().unwrap();
    let tail = files.tail.try_clone().unwrap();
    let error = Writer::create(head, 100, tail, 100).unwrap_err();
    assert!(error.to_string().contains("not empty"));
    assert_eq!(files.head.metadata().unwrap().len(), 8);
}
