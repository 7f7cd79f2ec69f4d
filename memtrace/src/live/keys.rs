//! From what a terminal sends to the keys that were pressed.

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// The arrow up.
    Up,
    /// The arrow down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first.
    Home,
    /// To the last.
    End,
    /// Draw all of it again: Ctrl-L.
    Redraw,
}

/// The keys in `bytes`, which are what was there at once: an escape that nothing follows is the key.
/// Sequences of keys that mean nothing here are left out.
#[must_use]
pub fn keys(bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut left = bytes;
    while let Some((&first, rest)) = left.split_first() {
        left = rest;
        match first {
            0x1b => match rest.split_first() {
                Some((b'[' | b'O', sequence)) => {
                    // Parameters, then the byte that says what it is.
                    let end = sequence
                        .iter()
                        .position(|byte| (0x40..=0x7e).contains(byte));
                    let Some(end) = end else { return keys };
                    keys.extend(of_sequence(&sequence[..end], sequence[end]));
                    left = &sequence[end + 1..];
                }
                _ => keys.push(Key::Escape),
            },
            b'\r' | b'\n' => keys.push(Key::Enter),
            0x7f | 0x08 => keys.push(Key::Backspace),
            0x0c => keys.push(Key::Redraw),
            ..0x20 => {}
            _ => {
                let length = 1 + rest.iter().take_while(|&&b| b & 0xc0 == 0x80).count();
                let start = bytes.len() - rest.len() - 1;
                let whole = &bytes[start..start + length];
                left = &rest[length - 1..];
                let text = std::str::from_utf8(whole).ok();
                keys.extend(text.and_then(|text| text.chars().next()).map(Key::Char));
            }
        }
    }
    keys
}

fn of_sequence(parameters: &[u8], last: u8) -> Option<Key> {
    Some(match (last, parameters) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'H', _) | (b'~', b"1" | b"7") => Key::Home,
        (b'F', _) | (b'~', b"4" | b"8") => Key::End,
        (b'~', b"5") => Key::PageUp,
        (b'~', b"6") => Key::PageDown,
        (b'M', b"") => Key::Enter,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_and_characters_are_told_apart() {
        assert_eq!(keys(b"q"), [Key::Char('q')]);
        assert_eq!(keys(b"\x1b[A\x1bOBs"), [Key::Up, Key::Down, Key::Char('s')]);
        assert_eq!(keys(b"\x1b[5~\x1b[6~"), [Key::PageUp, Key::PageDown]);
        assert_eq!(keys(b"\x1b[1~\x1b[F"), [Key::Home, Key::End]);
        assert_eq!(keys(b"\x1b"), [Key::Escape]);
        assert_eq!(keys(b"\x1b\x1b[A"), [Key::Escape, Key::Up]);
        assert_eq!(
            keys(b"\r\x7f\x0c"),
            [Key::Enter, Key::Backspace, Key::Redraw]
        );
        assert_eq!(keys("é日".as_bytes()), [Key::Char('é'), Key::Char('日')]);
        // With Ctrl or Shift it is the same key; of others nothing is left.
        assert_eq!(keys(b"\x1b[1;5A\x1b[15~x"), [Key::Up, Key::Char('x')]);
    }

    #[test]
    fn whatever_is_sent_is_read_to_its_end() {
        for first in 0..=255 {
            for second in 0..=255 {
                let _ = keys(&[first, second]);
                let _ = keys(&[0x1b, b'[', first, second]);
            }
        }
        assert_eq!(keys(b"\xff\xfea"), [Key::Char('a')]);
    }
}
