//! Text in markup: XML, for SVG, and HTML.

use crate::foreign::escape;

/// Foreign `text` as the content of an element of XML, or the value of an attribute in either kind of
/// quotes. What no XML may hold is spelled out, or replaced.
pub(super) fn escaped(text: &str) -> String {
    let replacement = char::REPLACEMENT_CHARACTER.to_string();
    markup(&escape(text).replace(['\u{fffe}', '\u{ffff}'], &replacement))
}

/// `text` with what begins or ends elements, entities and quoted values written as entities.
pub(super) fn markup(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
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
