//! The colours of causes, in pictures: Paul Tol's light scheme, which people with any colour vision
//! tell apart, and on which black text can be read.

use crate::profile::CauseName;

/// The colour of a cause, as `#rrggbb`.
pub(super) fn colour(cause: CauseName) -> &'static str {
    match cause {
        // The two that are often beside each other differ in lightness, too.
        CauseName::Refcount => "#ee8866",
        CauseName::Gc => "#99ddff",
        CauseName::Allocator => "#44bb99",
        CauseName::Object => "#bbcc33",
        CauseName::Data => "#77aadd",
        CauseName::Kernel => "#eedd88",
        CauseName::Remote => "#ffaabb",
        CauseName::Unknown => "#dddddd",
        CauseName::Other(_) => "#aaaa00",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// As WCAG defines it.
    fn luminance(colour: &str) -> f64 {
        let channel = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.040_45 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    #[test]
    fn each_cause_has_its_colour_and_black_can_be_read_on_it() {
        let colours: BTreeSet<_> = CauseName::ALL.into_iter().map(colour).collect();
        assert_eq!(colours.len(), CauseName::ALL.len());
        for colour in colours {
            let contrast = (luminance(colour) + 0.05) / 0.05;
            assert!(contrast > 7.0, "{colour}: {contrast}");
        }
    }
}
