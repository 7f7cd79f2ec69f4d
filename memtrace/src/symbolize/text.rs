//! Foreign names made fit to show: escaped, cut, demangled.

use std::fmt::{self, Write};

/// Bytes of a path that are shown; of a longer one, the end.
pub const MAX_PATH: usize = 1024;

/// Bytes of a function's name that are shown.
pub const MAX_NAME: usize = 1024;

/// Bytes of a mangled name that is demangled; a longer one is shown as it is, cut.
const MAX_MANGLED: usize = 4096;

/// Stands for what was cut.
const CUT: char = '…';

/// The first `limit` bytes of `bytes` as text. Bytes that are not UTF-8 become U+FFFD, characters
/// that would act on a terminal or reorder the line are escaped.
#[must_use]
pub fn shown(bytes: &[u8], limit: usize) -> String {
    let mut out = escaped(&bytes[..bytes.len().min(limit)]);
    if bytes.len() > limit || out.len() > limit {
        out.truncate(out.floor_char_boundary(limit));
        out.push(CUT);
    }
    out
}

/// A path as [`shown`] does it, but keeping the last [`MAX_PATH`] bytes, since a file's name is at
/// its end.
#[must_use]
pub fn shown_path(path: &[u8]) -> String {
    let out = escaped(&path[path.len().saturating_sub(MAX_PATH)..]);
    if path.len() <= MAX_PATH && out.len() <= MAX_PATH {
        return out;
    }
    let from = out.ceil_char_boundary(out.len().saturating_sub(MAX_PATH));
    format!("{CUT}{}", &out[from..])
}

/// The name of a function as its author wrote it, where it is a mangled Rust or C++ name, else as
/// it is; escaped, and at most [`MAX_NAME`] bytes before it is cut.
///
/// A few bytes of mangled C++ can stand for gigabytes of text. Only as much as is shown is made.
#[must_use]
pub fn function(name: &str) -> String {
    if name.len() <= MAX_MANGLED {
        if let Ok(symbol) = rustc_demangle::try_demangle(name) {
            let mut out = Bounded::default();
            // An error means that the bound was met; what was written until then is kept.
            let _ = write!(out, "{symbol:#}");
            return shown(out.0.as_bytes(), MAX_NAME);
        }
        if let Ok(symbol) = cpp_demangle::BorrowedSymbol::new(name.as_bytes()) {
            let mut out = Bounded::default();
            let done = symbol.structured_demangle(&mut out, &cpp_demangle::DemangleOptions::new());
            if done.is_ok() || out.0.len() > MAX_NAME {
                return shown(out.0.as_bytes(), MAX_NAME);
            }
        }
    }
    shown(name.as_bytes(), MAX_NAME)
}

fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for char in String::from_utf8_lossy(bytes).chars() {
        if char.is_control() || acts_on_text(char) {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
    }
    out
}

/// Whether a character has no shape of its own but changes how others are shown.
fn acts_on_text(char: char) -> bool {
    matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Text that takes a little more than [`MAX_NAME`] bytes and then refuses, which ends a demangler.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_demangled() {
        assert_eq!(function("_ZN3foo3barE"), "foo::bar");
        assert_eq!(function("_Z3addii"), "add(int, int)");
        assert_eq!(
            function("_ZN4core3ptr4read17h0123456789abcdefE"),
            "core::ptr::read"
        );
        assert_eq!(function("_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(function("_int_malloc"), "_int_malloc");
        assert_eq!(function("_Zbroken"), "_Zbroken");
        assert_eq!(function("plain"), "plain");
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
        assert!(function(&bomb).len() <= MAX_NAME + CUT.len_utf8());
        assert!(began.elapsed().as_secs() < 5);
        assert_eq!(function(&"x".repeat(9000)).len(), MAX_NAME + CUT.len_utf8());
    }

    #[test]
    fn cuts_fall_between_characters() {
        let text = "é".repeat(MAX_PATH);
        assert!(shown(text.as_bytes(), 5).len() <= 5 + 3 + CUT.len_utf8());
        let path = shown_path(format!("/{text}/lib.so").as_bytes());
        assert!(path.starts_with(CUT) && path.ends_with("é/lib.so"));
        assert!(path.len() <= MAX_PATH + CUT.len_utf8());
    }
}
