//! Names that a later version of memtrace added.
//!
//! A saved report may name a language, a cause or a backend that this version has never heard of.
//! It is kept as it was written: the figures are right whatever the name means, and written again
//! the report says the same (ADR 0012).

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of the longest name.
const LONGEST: usize = 64;
/// Different names that are kept. All of them stay in memory until memtrace ends, so that
/// [`Other`] can be copied like the variants that it stands beside.
const MOST: usize = 256;

static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// A name that a later version added: letters and digits of ASCII, `_`, `-`, `.` and `+`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Other(&'static str);

impl Other {
    /// # Errors
    ///
    /// When `name` is not a name, or one too many.
    pub fn new(name: &str) -> Result<Self, NotAName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.+".contains(&byte);
        if name.is_empty() || name.len() > LONGEST || !name.bytes().all(is_allowed) {
            return Err(NotAName::Malformed);
        }
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&known) = names.get(name) {
            return Ok(Self(known));
        }
        if names.len() >= MOST {
            return Err(NotAName::TooMany);
        }
        let kept: &'static str = Box::leak(Box::from(name));
        names.insert(kept);
        Ok(Self(kept))
    }

    /// As it was written.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }
}

/// Why a text is not taken for the name of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAName {
    /// It is empty, too long, or has other characters than names have.
    Malformed,
    /// There are more names than any version of memtrace will add.
    TooMany,
}

impl fmt::Display for NotAName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => write!(
                f,
                "a name has 1 to {LONGEST} letters, digits, '_', '-', '.' or '+'"
            ),
            Self::TooMany => write!(f, "there are more than {MOST} names that are not known"),
        }
    }
}

impl std::error::Error for NotAName {}

impl fmt::Debug for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl Serialize for Other {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Other {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = Other;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Other, E> {
                Other::new(name).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Name)
    }
}

/// A value of this version, or the name of one that a later version added: for types that are used
/// for more than to report, where such a name would make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "not a name")]
pub enum OrOther<T> {
    /// A value of this version.
    This(T),
    /// A later version's.
    Other(Other),
}

impl<T> From<T> for OrOther<T> {
    fn from(value: T) -> Self {
        Self::This(value)
    }
}

impl<T: PartialEq> PartialEq<T> for OrOther<T> {
    fn eq(&self, value: &T) -> bool {
        matches!(self, Self::This(this) if this == value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_as_it_is() {
        let ruby = Other::new("ruby").unwrap();
        assert_eq!(ruby.name(), "ruby");
        assert!(std::ptr::eq(
            ruby.name(),
            Other::new("ruby").unwrap().name()
        ));
        assert_eq!(serde_json::to_string(&ruby).unwrap(), "\"ruby\"");
        assert_eq!(serde_json::from_str::<Other>("\"ruby\"").unwrap(), ruby);
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for text in ["", "two words", "\u{1b}[2J", "größe", &"x".repeat(65)] {
            assert_eq!(Other::new(text), Err(NotAName::Malformed), "{text:?}");
        }
        serde_json::from_str::<Other>("17").unwrap_err();
    }
}
