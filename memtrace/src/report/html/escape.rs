//! How text gets onto the page.
//!
//! Whoever writes a traced program chooses the names in a report, so none of them may end an
//! element or begin one. [`html`] is the only way of text into the page and [`json`] the only way of
//! data; the script puts what it reads there into the page as text, never as markup.

use serde::Serialize;

use crate::foreign;
use crate::report::xml::markup;

/// `text` for the page, between tags or within quotes; what acts on a reader or hides from one is
/// spelled out, as in every report.
pub(super) fn html(text: &str) -> String {
    markup(&foreign::escape(text))
}

/// [`html`] of a sentence, with what stands between backticks as code.
pub(super) fn sentence(text: &str) -> String {
    let parts: Vec<String> = text.split('`').map(html).collect();
    let mut safe = String::new();
    for (at, part) in parts.iter().enumerate() {
        // A backtick without a second one is none.
        match at % 2 {
            0 => safe.push_str(part),
            _ if at + 1 < parts.len() => safe.extend(["<code>", part, "</code>"]),
            _ => safe.extend(["`", part]),
        }
    }
    safe
}

/// `data` as JSON that a `<script>` element may hold: no text in it can end the element, begin a
/// comment in it, or break a line of a script.
///
/// # Errors
///
/// When it has no JSON.
pub(super) fn json(data: &impl Serialize) -> serde_json::Result<String> {
    // All of these stand only within strings, where they may be written so.
    let text = serde_json::to_string(data)?;
    Ok(text
        .replace('<', "\\u003c")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(
            html("<a href=\"x\" id='y'>&amp;"),
            "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;amp;"
        );
        assert_eq!(html("größe 日本語"), "größe 日本語");
    }

    #[test]
    fn what_turns_a_line_around_is_spelled_out() {
        assert_eq!(html("a\u{202e}b\u{1b}\n"), "a\\u{202e}b\\u{1b}\\n");
    }

    #[test]
    fn what_is_between_backticks_is_code() {
        assert_eq!(sentence("in `f<T>`."), "in <code>f&lt;T&gt;</code>.");
        assert_eq!(sentence("`a`, `b`"), "<code>a</code>, <code>b</code>");
        assert_eq!(sentence("one ` alone"), "one ` alone");
        assert_eq!(sentence("`a` b ` c"), "<code>a</code> b ` c");
    }

    #[test]
    fn no_text_ends_the_script_that_holds_it() {
        let text = "</script><!--<script>\u{2028}\u{2029}";
        let written = json(&text).unwrap();
        assert!(!written.contains(['<', '\u{2028}', '\u{2029}']));
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
    }
}
