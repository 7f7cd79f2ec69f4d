//! Copied pages by cause and by origin, and the names of both: each from one list.
//!
//! To add a cause, add a line to its list here. Whatever shows causes then shows it, and the
//! compiler asks for its words where a report has words for each.

use std::collections::BTreeMap;
use std::fmt;

use memtrace_common::record::{Cause, Origin};
use serde::{Deserialize, Serialize};

use super::other::Other;

macro_rules! tally {
    (
        $(#[$by_meta:meta])*
        pub struct $By:ident by
        $(#[$name_meta:meta])*
        enum $Name:ident of $Coded:ident {
            $($(#[$meta:meta])* $field:ident: $Variant:ident,)+
        }
    ) => {
        $(#[$by_meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $By {
            $($(#[$meta])* #[serde(default)] pub $field: u64,)+
            /// Those of later versions, each under its own name.
            #[serde(flatten)]
            pub other: BTreeMap<Other, u64>,
        }

        $(#[$name_meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(rename_all = "snake_case", expecting = "not a name")]
        pub enum $Name {
            $($(#[$meta])* $Variant,)+
            /// One of a later version.
            #[serde(untagged)]
            Other(Other),
        }

        impl $Name {
            /// All that this version knows, in the order in which reports have them.
            pub const ALL: [Self; [$(stringify!($field)),+].len()] = [$(Self::$Variant),+];

            /// As reports spell it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$Variant => stringify!($field),)+
                    Self::Other(other) => other.name(),
                }
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl From<$Coded> for $Name {
            fn from(coded: $Coded) -> Self {
                match coded {
                    $($Coded::$Variant => Self::$Variant,)+
                }
            }
        }

        impl $By {
            /// Every name with its pages; those of later versions last.
            pub fn iter(&self) -> impl Iterator<Item = ($Name, u64)> {
                let other = self.other.iter().map(|(&name, &pages)| ($Name::Other(name), pages));
                [$(($Name::$Variant, self.$field)),+].into_iter().chain(other)
            }

            /// The pages of one name.
            #[must_use]
            pub fn get(&self, name: $Name) -> u64 {
                match name {
                    $($Name::$Variant => self.$field,)+
                    $Name::Other(other) => self.other.get(&other).copied().unwrap_or(0),
                }
            }

            /// Adds pages of one name.
            pub fn add(&mut self, name: $Name, pages: u64) {
                let sum = match name {
                    $($Name::$Variant => &mut self.$field,)+
                    $Name::Other(other) => self.other.entry(other).or_default(),
                };
                *sum = sum.saturating_add(pages);
            }

            /// Adds all pages of another.
            pub fn absorb(&mut self, more: &Self) {
                for (name, pages) in more.iter().filter(|&(_, pages)| pages > 0) {
                    self.add(name, pages);
                }
            }

            /// The pages of all names.
            #[must_use]
            pub fn total(&self) -> u64 {
                self.iter().fold(0, |sum, (_, pages)| sum.saturating_add(pages))
            }
        }
    };
}

tally! {
    /// Copied pages by what the write was.
    pub struct ByCause by
    /// What a write was.
    enum CauseName of Cause {
        /// An object's reference count.
        refcount: Refcount,
        /// A garbage collector's header or mark.
        gc: Gc,
        /// Bookkeeping of malloc or of the interpreter's allocator.
        allocator: Allocator,
        /// A field of an object.
        object: Object,
        /// Anything else in writable data.
        data: Data,
        /// The kernel wrote on behalf of a system call.
        kernel: Kernel,
        /// Another process wrote.
        remote: Remote,
        /// Not known; the call site says why.
        unknown: Unknown,
    }
}

tally! {
    /// Copied pages by what they were before the copy.
    pub struct ByOrigin by
    /// What a page was before it was copied.
    enum OriginName of Origin {
        /// Anonymous, shared since a fork.
        fork: Fork,
        /// Merged by KSM.
        ksm: Ksm,
        /// Of a private file mapping.
        file: File,
        /// Of a hugetlb pool.
        hugetlb: Hugetlb,
    }
}

impl CauseName {
    /// Whether the program only read when it made such a copy, unless it was on its way out.
    #[must_use]
    pub fn is_copy_on_read(self) -> bool {
        matches!(self, Self::Refcount | Self::Gc)
    }
}

impl ByCause {
    /// Pages of the causes that are copy-on-read, as far as this version knows them.
    #[must_use]
    pub fn copy_on_read(&self) -> u64 {
        let read = self.iter().filter(|(name, _)| name.is_copy_on_read());
        read.fold(0, |sum, (_, pages)| sum.saturating_add(pages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_a_place_of_its_own() {
        let mut by = ByCause::default();
        for (at, name) in (1..).zip(CauseName::ALL) {
            by.add(name, at);
        }
        for (at, name) in (1..).zip(CauseName::ALL) {
            assert_eq!(by.get(name), at, "{name}");
        }
        assert_eq!(by.total(), (1..=CauseName::ALL.len() as u64).sum::<u64>());
        assert_eq!(by.copy_on_read(), by.refcount + by.gc);
        assert!(by.iter().map(|(name, _)| name).eq(CauseName::ALL));
        assert!(OriginName::ALL.is_sorted());
    }

    #[test]
    fn a_name_is_spelled_as_its_field_is() {
        let mut by = ByCause::default();
        for name in CauseName::ALL {
            by.add(name, 1);
            assert_eq!(
                serde_json::to_value(name).unwrap(),
                serde_json::Value::from(name.name())
            );
        }
        let written = serde_json::to_value(&by).unwrap();
        for name in CauseName::ALL {
            assert_eq!(written[name.name()], 1, "{name}");
        }
        assert_eq!(format!("{:>8}|", CauseName::Gc), "      gc|");
    }

    #[test]
    fn names_of_later_versions_are_counted_and_written_again() {
        let text = r#"{"refcount":1,"gc":2,"mark":30,"unknown":4}"#;
        let mut by: ByCause = serde_json::from_str(text).unwrap();
        let mark = CauseName::Other(Other::new("mark").unwrap());
        assert_eq!((by.get(mark), by.total()), (30, 37));
        assert_eq!(by.iter().last(), Some((mark, 30)));
        by.absorb(&by.clone());
        assert_eq!(serde_json::to_value(&by).unwrap()["mark"], 60);
        serde_json::from_str::<ByCause>(r#"{"mark":"many"}"#).unwrap_err();
        serde_json::from_str::<ByCause>(r#"{"two words":1}"#).unwrap_err();
    }

    #[test]
    fn what_does_not_fit_stays_at_the_greatest_number() {
        let mut by = ByOrigin::default();
        by.add(OriginName::Fork, u64::MAX);
        by.add(OriginName::Fork, 1);
        by.add(OriginName::File, 1);
        assert_eq!((by.fork, by.total()), (u64::MAX, u64::MAX));
    }
}
