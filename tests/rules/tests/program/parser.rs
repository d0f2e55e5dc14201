//! The parser takes any list without panicking, and gives back what was written.
//!
//! The lists are made from a seed, so that a failure comes again.

use casemate_rules::{Arguments, Pair, Problem, Reading, Technology, check};

use crate::lists::{Base, Launch, owned, world};

/// Lists for each property. A run takes some seconds at most without optimisation.
const ROUNDS: u64 = 8_000;

/// xorshift64*: enough to choose pieces by.
struct Choice(u64);

impl Choice {
    fn new(round: u64) -> Self {
        // Any odd number will do; the state must not be 0.
        Self((round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(word).expect("31 bits") % bound
    }

    fn of<'a>(&mut self, pieces: &[&'a str]) -> &'a str {
        pieces[self.below(pieces.len())]
    }

    fn text(&mut self, pieces: &[&str], most: usize) -> String {
        (0..self.below(most + 1)).map(|_| self.of(pieces)).collect()
    }
}

#[rustfmt::skip]
const PIECES: &[&str] = &[
    ",", ",,", "=", ".", "-", "+", "_", ":", "{", "}", "[", "]", "\"", "\\", "\0", " ", "é", "🦀",
    "id", "on", "off", "0x", "-1", "18446744073709551616", "9e999", "K", "G", "E", "a", "null", "true",
    "type", "policy", "cbitpos", "size", "maxcpus", "accel", "memory-backend", "igvm-cfg", "pflash0",
    "confidential-guest-support", "sev-snp-guest", "tdx-guest", "cgs0", "quote-generation-socket",
    "{\"qom-type\":\"tdx-guest\",\"id\":\"cgs0\",\"attributes\":", "\"quote-generation-socket\":{\"type\":\"",
];
#[rustfmt::skip]
const OPTIONS: &[&str] = &[
    "-machine", "-M", "--machine", "-object", "-device", "-m", "-smp", "-cpu", "-accel", "-bios",
    "-drive", "-netdev", "-chardev", "-global", "-kernel", "-append", "-pflash", "-blockdev", "-vga",
    "-display", "-nodefaults", "-", "--", "", "-no-such-option", "image",
];

#[test]
fn any_list_is_judged_without_a_panic() {
    let mut seen = [false; 3];
    for round in 0..ROUNDS {
        let mut choice = Choice::new(round);
        let mut argv = Vec::new();
        // A part of a right list in front brings the rules behind the parser into play.
        if choice.below(2) == 0 {
            let launch = Launch::of(Base::ALL[choice.below(Base::ALL.len())]);
            let kept = choice.below(launch.argv.len() + 1);
            argv.extend(launch.argv.into_iter().take(kept));
        }
        for _ in 0..choice.below(8) {
            argv.push(choice.of(OPTIONS).to_owned());
            argv.push(choice.text(PIECES, 9));
        }
        check(&argv, &world());
        let technology = Technology::of(&Arguments::parse(&argv));
        for (seen, one) in seen.iter_mut().zip(Technology::ALL) {
            *seen |= one == technology;
        }
    }
    assert_eq!(seen, [true; 3], "the lists are of every kind");
}

/// One right list with one byte replaced, removed or doubled in one place.
#[test]
fn a_list_that_was_damaged_is_judged_without_a_panic() {
    for round in 0..ROUNDS {
        let mut choice = Choice::new(round);
        let mut argv = Launch::of(Base::ALL[choice.below(Base::ALL.len())]).argv;
        let at = choice.below(argv.len());
        let mut characters: Vec<char> = argv[at].chars().collect();
        if !characters.is_empty() {
            let place = choice.below(characters.len());
            match choice.below(3) {
                0 => drop(characters.remove(place)),
                1 => characters.insert(place, characters[place]),
                _ => characters[place] = choice.of(PIECES).chars().next().unwrap_or(','),
            }
        }
        argv[at] = characters.into_iter().collect();
        check(&argv, &world());
    }
}

#[test]
fn values_with_commas_come_back_as_they_were() {
    for round in 0..ROUNDS {
        let mut choice = Choice::new(round);
        let values = [
            choice.text(PIECES, 6),
            choice.text(PIECES, 6),
            choice.text(&[",", "a"], 8),
        ];
        // An option string that begins with a brace is JSON.
        let [first, second, third] = &values;
        let doubled = |text: &str| text.replace(',', ",,");
        let text = format!(
            "x,a={},b={},c={}",
            doubled(first),
            doubled(second),
            doubled(third)
        );
        let pairs = Pair::split(&text).expect("an option string");
        let found: Vec<_> = pairs
            .iter()
            .filter_map(|pair| pair.value.as_deref())
            .collect();
        assert_eq!(found, ["x", first, second, third], "{text}");

        let parsed = Arguments::parse(&["-device".to_owned(), text]);
        let device = parsed.items("device").next().expect("there is one");
        assert_eq!(device.kind, "x");
        assert_eq!(device.text("c"), Reading::Is(third.as_str()));
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let cases: &[(&[&str], Problem)] = &[
        (
            &["-frobnicate", "7"],
            Problem::Unknown("-frobnicate".to_owned()),
        ),
        (&["disk.img"], Problem::Stray("disk.img".to_owned())),
        (&["-nodefaults", "-m"], Problem::NoValue("m")),
        (
            &["-device", "virtio-blk-pci,=off"],
            Problem::Unreadable("device", "a part has no key".to_owned()),
        ),
        (
            &["-object", "id=ram0"],
            Problem::Unreadable("object", "it has no type".to_owned()),
        ),
    ];
    for (argv, problem) in cases {
        let parsed = Arguments::parse(&owned(argv));
        assert_eq!(parsed.problems(), std::slice::from_ref(problem), "{argv:?}");
    }
}

/// A value may look like an option: QEMU takes what follows.
#[test]
fn the_argument_after_an_option_is_its_value() {
    let parsed = Arguments::parse(&owned(&["-append", "-bios", "-bios", "-pflash"]));
    assert_eq!(parsed.texts("append").collect::<Vec<_>>(), ["-bios"]);
    assert_eq!(parsed.texts("bios").collect::<Vec<_>>(), ["-pflash"]);
    assert!(!parsed.has("pflash"));
}
