//! Foreign text in XML, for SVG.

use std::borrow::Cow;

use crate::foreign::escape;

/// `text` as the content of an element, or the value of an attribute in either kind of quotes. What
/// no XML may hold is spelled out, or replaced.
pub(super) fn escaped(text: &str) -> String {
    let text: Cow<'_, str> = escape(text);
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => safe.push(char::REPLACEMENT_CHARACTER),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let text = "</title><script>'\"&\u{0}\n\u{1b}\u{202e}\u{fffe}é";
        assert_eq!(
            escaped(text),
            "&lt;/title&gt;&lt;script&gt;&#39;&quot;&amp;\\u{0}\\n\\u{1b}\\u{202e}\u{fffd}é"
        );
    }
}
