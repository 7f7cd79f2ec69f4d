//! Makes foreign text safe to print.
//!
//! Names of functions, files and processes come from whoever wrote the program under observation.
//! On a terminal they must not move the cursor, change colours, reorder the line or hide.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` with everything spelled out that a terminal would act on or that could not be seen:
/// control characters (line breaks and escape sequences among them) and characters that only
/// format, such as bidirectional overrides. They become `\n`, `\t`, `\u{1b}` and the like; all
/// else, backslashes included, stays as it is.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if acts(c) => {
                // Writing to a string does not fail.
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// Whether a terminal does something for `c` other than show it.
pub(super) fn acts(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c),
            0xad                    // soft hyphen
            | 0x61c                 // Arabic letter mark
            | 0x180e                // Mongolian vowel separator
            | 0x200b..=0x200f       // zero-width characters, direction marks
            | 0x2028..=0x202e       // line and paragraph separators, embeddings and overrides
            | 0x2060..=0x206f       // invisible operators, isolates
            | 0xfeff                // byte-order mark
            | 0xfff9..=0xfffb       // interlinear annotation
            | 0xe0000..=0xe007f) // tags
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
            "",
        ] {
            assert!(matches!(escape(name), Cow::Borrowed(same) if same == name));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_acts_is_left(text: String) {
            let once = escape(&text).into_owned();
            prop_assert!(!once.contains(acts));
            prop_assert_eq!(&escape(&once), &once);
        }
    }
}
