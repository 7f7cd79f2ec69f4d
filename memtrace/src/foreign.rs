//! The one policy for text that others wrote: names of functions, files, types and processes, and
//! arguments of programs.
//!
//! Whoever writes a traced program chooses them. On a terminal they must not move the cursor,
//! change colours, reorder the line or hide, and they must not be longer than what a reader can
//! use. [`shown`], [`shown_name`], [`shown_path`], [`function_name`] and [`escaped`] are for bytes
//! on their way into a profile; [`escape`] is for text on its way out of one, and changes nothing
//! that the others have made.
//!
//! What memtrace itself puts in place of a name is in square brackets: `[lost]`, `[unknown]`. So that
//! nothing foreign passes for that, a foreign name or path that begins with a bracket is shown
//! with that bracket spelled out: `\u{5b}lost]`. Only mappings have names in brackets, which the
//! kernel gives them.
//!
//! This module uses nothing else of memtrace, so that a profile and its reports can use it.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Bytes of a path that are shown; of a longer one, the end.
pub const MAX_PATH: usize = 1024;

/// Bytes of the name of a function or a type that are shown.
pub const MAX_NAME: usize = 1024;

/// Replaces what was cut.
pub const CUT: char = '…';

/// Bytes of the longest mangled name that is demangled. A longer one is shown as it is, cut.
const MAX_MANGLED: usize = 4096;

/// How mangled names begin: those of C++ and of Rust, and those of functions that a compiler makes
/// for global objects.
const MANGLED: [&str; 5] = ["_Z", "__Z", "___Z", "_GLOBAL_", "_R"];

/// Bytes of the longest character but one: so far a character reaches that begins within a bound.
const BEYOND: usize = 3;

/// `text` with every character spelled out that acts on a terminal or cannot be seen: control
/// characters (line breaks and escape sequences among them) and characters that only format others,
/// such as bidirectional overrides. They become `\n`, `\t`, `\u{1b}` and the like. Everything
/// else stays as it is, backslashes included.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(acts_or_hides) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts_or_hides(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// `bytes` as text: bytes that are not UTF-8 become U+FFFD, and what [`escape`] spells out is
/// spelled out. When that is longer than `limit` bytes, its beginning, and [`CUT`] after it.
#[must_use]
pub fn shown(bytes: &[u8], limit: usize) -> String {
    cut(escaped(window(bytes, limit)), limit)
}

/// A name as [`shown`] shows text within [`MAX_NAME`], and never like one that memtrace gives.
#[must_use]
pub fn shown_name(bytes: &[u8]) -> String {
    cut(not_ours(escaped(window(bytes, MAX_NAME))), MAX_NAME)
}

/// As much of `bytes` as can be seen of them within `limit`.
fn window(bytes: &[u8], limit: usize) -> &[u8] {
    // As text it is never shorter than it was, so nothing that is shown comes from further on.
    &bytes[..bytes.len().min(limit.saturating_add(BEYOND))]
}

/// `text`, or of one that is longer than `limit` bytes its beginning, and [`CUT`] after it.
fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
        text.push(CUT);
    }
    text
}

/// A path as [`shown`] shows text, but of one that is longer than [`MAX_PATH`] bytes the end,
/// since a file's name is there, and [`CUT`] before it. It never looks like what memtrace puts in
/// place of one.
#[must_use]
pub fn shown_path(path: &[u8]) -> String {
    let text = not_ours(escaped(
        &path[path.len().saturating_sub(MAX_PATH + BEYOND)..],
    ));
    if text.len() <= MAX_PATH {
        return text;
    }
    let from = text.ceil_char_boundary(text.len() - MAX_PATH);
    format!("{CUT}{}", &text[from..])
}

/// The name of a function as its author wrote it where it is a mangled Rust or C++ name, else as
/// it is; either as [`shown`] shows it within [`MAX_NAME`].
///
/// A few bytes of mangled C++ can mean gigabytes of text. Only as much as is shown is made.
#[must_use]
pub fn function_name(name: &str) -> String {
    let demangled = (name.len() <= MAX_MANGLED).then(|| demangled(name));
    let name = demangled.flatten().map_or(Cow::Borrowed(name), Cow::Owned);
    shown_name(name.as_bytes())
}

/// Spells out the bracket that a name begins with.
fn not_ours(name: String) -> String {
    match name.strip_prefix('[') {
        Some(rest) => format!("\\u{{5b}}{rest}"),
        None => name,
    }
}

/// The arguments of a program, each ended by a NUL, without empty ones at the end: servers that
/// show in their arguments what they are doing fill up the rest of the room with NULs.
#[must_use]
pub fn without_padding(arguments: &[u8]) -> &[u8] {
    let padding = arguments.iter().rev().take_while(|&&byte| byte == 0);
    &arguments[..arguments.len() - padding.count()]
}

/// A little more than the first [`MAX_NAME`] bytes of what a mangled name means; `None` when it is
/// not one.
fn demangled(name: &str) -> Option<String> {
    // Both demanglers take more than compilers write: one makes `float` of the C function `f`.
    if !MANGLED.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let mut out = Bounded::default();
    if let Ok(symbol) = rustc_demangle::try_demangle(name) {
        // An error means that the bound was met. What was written until then is kept.
        let _ = write!(out, "{symbol:#}");
        return Some(out.0);
    }
    let symbol = cpp_demangle::BorrowedSymbol::new(name.as_bytes()).ok()?;
    let done = symbol.structured_demangle(&mut out, &cpp_demangle::DemangleOptions::new());
    (done.is_ok() || out.0.len() > MAX_NAME).then_some(out.0)
}

/// Text that accepts a little more than [`MAX_NAME`] bytes and then refuses, which ends a
/// demangler.
#[derive(Default)]
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = (MAX_NAME + 4).saturating_sub(self.0.len());
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() > room {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}

/// All of `bytes` as text: bytes that are not UTF-8 become U+FFFD, and what [`escape`] spells out
/// is spelled out. For what was bounded when it was read.
#[must_use]
pub fn escaped(bytes: &[u8]) -> String {
    escape(&String::from_utf8_lossy(bytes)).into_owned()
}

/// Whether a terminal does something for `c` other than show it, or shows nothing: control
/// characters, separators of lines, and the characters that Unicode calls ignorable by default,
/// with the annotation marks, which it leaves out.
#[must_use]
pub fn acts_or_hides(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'                     // soft hyphen
            | '\u{34f}'                  // grapheme joiner
            | '\u{61c}'                  // Arabic letter mark
            | '\u{115f}'..='\u{1160}'    // Hangul fillers
            | '\u{17b4}'..='\u{17b5}'    // Khmer vowels without a shape
            | '\u{180b}'..='\u{180f}'    // Mongolian variation selectors, vowel separator
            | '\u{200b}'..='\u{200f}'    // zero-width characters, direction marks
            | '\u{2028}'..='\u{202e}'    // separators of lines, embeddings and overrides
            | '\u{2060}'..='\u{206f}'    // invisible operators, isolates
            | '\u{3164}'                 // Hangul filler
            | '\u{fe00}'..='\u{fe0f}'    // variation selectors
            | '\u{feff}'                 // byte-order mark
            | '\u{ffa0}'                 // Hangul filler of half width
            | '\u{fff0}'..='\u{fffb}'    // reserved for such, interlinear annotation
            | '\u{1bca0}'..='\u{1bca3}'  // shorthand formatting
            | '\u{1d173}'..='\u{1d17a}'  // musical formatting
            | '\u{e0000}'..='\u{e0fff}') // tags, variation selectors
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_spelled_out() {
        let cases = [
            ("\x1b[31mred\x1b[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("two\nlines\r\t", "two\\nlines\\r\\t"),
            (
                "bell\x07 delete\x7f csi\u{9b}2J",
                "bell\\u{7} delete\\u{7f} csi\\u{9b}2J",
            ),
            (
                "user\u{202e}txt.exe\u{2066}",
                "user\\u{202e}txt.exe\\u{2066}",
            ),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
            ("\0", "\\u{0}"),
        ];
        for (given, expected) in cases {
            assert_eq!(escape(given), expected);
            assert_eq!(shown(given.as_bytes(), 100), expected);
            assert_eq!(shown_path(given.as_bytes()), expected);
            assert_eq!(function_name(given), expected);
        }
    }

    #[test]
    fn what_cannot_be_seen_is_spelled_out_wherever_text_comes_from() {
        let hidden = [
            0xad, 0x34f, 0x61c, 0x1160, 0x180e, 0x200b, 0x200d, 0x2028, 0x202e, 0x2066, 0x3164,
            0xfe0f, 0xfeff, 0xfff9, 0xfffb, 0xe0001, 0xe0041, 0xe007f, 0xe01ef,
        ];
        for code in hidden {
            let text = format!("a{}b", char::from_u32(code).unwrap());
            let expected = format!("a\\u{{{code:x}}}b");
            assert_eq!(escape(&text), expected);
            assert_eq!(shown(text.as_bytes(), 100), expected);
            assert_eq!(shown_path(text.as_bytes()), expected);
            assert_eq!(function_name(&text), expected);
        }
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in [
            "std::vec<T>::push",
            "größe",
            "日本語",
            "C:\\x",
            "fn@@GLIBC_2.17",
            "\u{fffd}",
            "",
        ] {
            assert!(matches!(escape(name), Cow::Borrowed(same) if same == name));
            assert_eq!(shown(name.as_bytes(), 100), name);
            assert_eq!(shown_path(name.as_bytes()), name);
        }
    }

    #[test]
    fn names_are_demangled() {
        assert_eq!(function_name("_ZN3foo3barE"), "foo::bar");
        assert_eq!(function_name("_Z3addii"), "add(int, int)");
        assert_eq!(
            function_name("_ZN4core3ptr4read17h0123456789abcdefE"),
            "core::ptr::read"
        );
        assert_eq!(function_name("_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(function_name("_int_malloc"), "_int_malloc");
        assert_eq!(function_name("_Zbroken"), "_Zbroken");
        assert_eq!(function_name("plain"), "plain");
        assert_eq!(
            function_name("___Z3foov_block_invoke"),
            "invocation function for block in foo()"
        );
    }

    #[test]
    fn what_is_not_mangled_keeps_its_name() {
        // All of these mean something to a demangler.
        let short = [
            "f",
            "i",
            "w",
            "v",
            "x",
            "Pi",
            "Ri",
            "rd",
            "ro",
            "PKc",
            "St",
            "Dn",
            "Sa",
            "Ss",
            "z",
            "FvvE",
            "ZN3foo3barE",
            "ZN4core3ptr4read17h0123456789abcdefE",
            "RNvC6_123foo3bar",
        ];
        for name in short {
            assert_eq!(function_name(name), name);
        }
        for first in b'!'..=b'~' {
            let one = char::from(first).to_string();
            if first != b'[' {
                assert_eq!(function_name(&one), one);
            }
        }
    }

    #[test]
    fn nothing_foreign_looks_like_what_memtrace_says_itself() {
        for name in [
            "[lost]",
            "[pending]",
            "[unknown]",
            "[no stack]",
            "[unrecorded]",
            "[",
        ] {
            let expected = format!("\\u{{5b}}{}", &name[1..]);
            assert_eq!(function_name(name), expected);
            assert_eq!(shown_name(name.as_bytes()), expected);
            assert_eq!(shown_path(name.as_bytes()), expected);
            assert_eq!(escape(&expected), expected);
        }
        // A mangled name that means something in brackets, and one that has them elsewhere.
        assert!(!function_name("_ZDC1a1bE").starts_with('['));
        assert_eq!(function_name("_Z1fB5cxx11v"), "f[abi:cxx11]()");
        assert_eq!(shown_path(b"/tmp/[lost]"), "/tmp/[lost]");
        // Of a mapping that the kernel names.
        assert_eq!(shown(b"[heap]", 100), "[heap]");
        let long = format!("[{}", "x".repeat(MAX_NAME));
        assert!(shown_name(long.as_bytes()).len() <= MAX_NAME + CUT.len_utf8());
    }

    #[test]
    fn padding_is_not_shown() {
        assert_eq!(without_padding(b"a\0b\0"), b"a\0b");
        assert_eq!(
            without_padding(b"postgres: writer\0\0\0\0"),
            b"postgres: writer"
        );
        assert_eq!(without_padding(b"a\0\0b\0\0"), b"a\0\0b");
        assert_eq!(without_padding(b"\0\0"), b"");
        assert_eq!(without_padding(b""), b"");
    }

    #[test]
    fn a_name_that_grows_without_end_is_cut() {
        // Every parameter is a pair of the one before twice: 2^40 characters of text.
        let mut bomb = String::from("_Z1fSt4pairIiiE");
        for at in 0..40_u32 {
            let previous = if at == 0 {
                "S_".to_owned()
            } else {
                let digits = char::from_digit((at - 1) % 36, 36)
                    .unwrap()
                    .to_ascii_uppercase();
                if at <= 36 {
                    format!("S{digits}_")
                } else {
                    format!("S1{digits}_")
                }
            };
            write!(bomb, "St4pairI{previous}{previous}E").unwrap();
        }
        let began = std::time::Instant::now();
        assert!(function_name(&bomb).len() <= MAX_NAME + CUT.len_utf8());
        assert!(began.elapsed().as_secs() < 5);
        assert_eq!(
            function_name(&"x".repeat(9000)).len(),
            MAX_NAME + CUT.len_utf8()
        );
    }

    #[test]
    fn cuts_fall_between_characters() {
        assert_eq!(shown("ééé".as_bytes(), 5), "éé…");
        assert_eq!(shown("ééé".as_bytes(), 6), "ééé");
        assert_eq!(shown("a\u{10348}".as_bytes(), 2), "a…");
        assert_eq!(shown(b"ab\xff", 2), "ab…");
        let text = "é".repeat(MAX_PATH);
        let path = shown_path(format!("/{text}/lib.so").as_bytes());
        assert!(path.starts_with("…é") && path.ends_with("é/lib.so"));
        assert!(path.len() <= MAX_PATH + CUT.len_utf8());
    }

    /// Text with many characters that are spelled out, and many of several bytes.
    fn any_text() -> impl Strategy<Value = String> {
        let any_char = prop_oneof![
            any::<char>(),
            "[a-z/]".prop_map(|text| text.chars().next().unwrap_or('x')),
            prop::sample::select(vec![
                '\n',
                '\u{1b}',
                '\u{ad}',
                '\u{202e}',
                '\u{e0041}',
                'é',
                '日',
                CUT,
            ]),
        ];
        proptest::collection::vec(any_char, 0..60).prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn nothing_that_acts_or_hides_is_left(text in any_text()) {
            let once = escape(&text).into_owned();
            prop_assert!(!once.contains(acts_or_hides));
            prop_assert_eq!(&escape(&once), &once);
        }

        #[test]
        fn any_bytes_are_shown_within_the_bound(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..120),
                any_text().prop_map(String::into_bytes),
            ],
            limit in 0_usize..80,
        ) {
            let once = shown(&bytes, limit);
            prop_assert!(!once.contains(acts_or_hides));
            prop_assert!(once.len() <= limit + CUT.len_utf8());
            prop_assert!(once.len() <= limit || once.ends_with(CUT));
            prop_assert_eq!(&shown(once.as_bytes(), limit), &once);
            prop_assert_eq!(&escape(&once), &once);
        }

        #[test]
        fn what_is_shown_is_the_beginning_up_to_a_whole_character(
            text in any_text(), limit in 0_usize..200,
        ) {
            let whole = escape(&text).into_owned();
            let part = shown(text.as_bytes(), limit);
            if whole.len() <= limit {
                prop_assert_eq!(part, whole);
            } else {
                let part = part.strip_suffix(CUT).unwrap();
                prop_assert!(whole.starts_with(part));
                prop_assert!(limit - part.len() < 4, "{} of {limit} bytes", part.len());
            }
        }

        #[test]
        fn of_a_path_the_end_is_shown_from_a_whole_character_on(
            unit in any_text(), times in 0_usize..200, name in any_text(),
        ) {
            let path = unit.repeat(times) + &name;
            let whole = not_ours(escape(&path).into_owned());
            let once = shown_path(path.as_bytes());
            prop_assert!(once.len() <= MAX_PATH + CUT.len_utf8());
            prop_assert_eq!(&shown_path(once.as_bytes()), &once);
            if whole.len() <= MAX_PATH {
                prop_assert_eq!(once, whole);
            } else {
                let end = once.strip_prefix(CUT).unwrap();
                prop_assert!(whole.ends_with(end));
                prop_assert!(MAX_PATH - end.len() < 4, "{} bytes", end.len());
            }
        }

        #[test]
        fn any_name_of_a_function_is_shown_within_the_bound(
            name in prop_oneof![
                any_text(),
                "_ZN?[0-9a-zA-Z_]{0,40}E?[a-z]{0,4}",
                "_R[NIvC0-9a-zA-Z_]{0,40}",
            ],
        ) {
            let once = function_name(&name);
            prop_assert!(!once.contains(acts_or_hides) && !once.starts_with('['));
            prop_assert!(once.len() <= MAX_NAME + CUT.len_utf8());
            prop_assert_eq!(&shown_name(once.as_bytes()), &once);
        }
    }
}
