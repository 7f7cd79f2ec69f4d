//! Which name of a function is shown when it has several.
//!
//! The plainest, by the first of these in which they differ:
//!
//! 1. one without a version (`memcpy@GLIBC_2.2.5`), that is not the C library's for its own use
//!    (`__GI_memcpy`);
//! 2. one that is not a C++ operator for memory (`operator delete(void*)` is `free`, where an
//!    allocator has made them one function);
//! 3. the fewest leading underscores: `malloc`, not `__libc_malloc`; a mangled name has those that
//!    it means, which are none;
//! 4. one that is not mangled;
//! 5. the shortest: `free`, not `cfree`;
//! 6. the first by alphabet.

/// The plainest of these names, as they are in symbol tables; `None` where there is none. The
/// default version of a symbol (`malloc@@GLIBC_2.2.5`) is left out.
pub(super) fn plainest(names: &[String]) -> Option<&str> {
    let names = names.iter().map(|name| without_default_version(name));
    names
        .filter(|name| !name.is_empty())
        .min_by_key(|name| order(name))
}

/// Whether a name is one for everybody's use: it has no plainer one.
pub(super) fn is_plain(name: &str) -> bool {
    let (internal, operator, underscores, ..) = order(name);
    !internal && !operator && underscores == 0
}

fn order(name: &str) -> (bool, bool, usize, bool, usize, &str) {
    let mangled = name.starts_with("_Z") || name.starts_with("_R");
    let operator = ["_Znw", "_Zna", "_Zdl", "_Zda"];
    let underscores = name.len() - name.trim_start_matches('_').len();
    (
        name.contains('@') || name.starts_with("__GI_"),
        operator.iter().any(|operator| name.starts_with(operator)),
        if mangled { 0 } else { underscores },
        mangled,
        name.len(),
        name,
    )
}

fn without_default_version(name: &str) -> &str {
    name.split_once("@@").map_or(name, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plainest_name_is_shown() {
        for names in [
            &["free", "cfree", "_ZdlPv", "__libc_free", "mi_free"][..],
            &["malloc", "__libc_malloc", "malloc@GLIBC_2.0"],
            &["malloc", "__GI___libc_malloc", "__malloc"],
            &["memcpy", "__GI_memcpy", "memcpy@GLIBC_2.2.5"],
            &["mi_new", "_Znwm"],
            &["__mine_allocate", "_Znwm"],
            &["PyObject_Free", "_PyObject_Free"],
            &["_ZN4shop3addEi", "__internal_add"],
            &["foo", "_ZN4shop3addEi"],
            &["aaa", "aab"],
            &["_ZdlPv"],
            &["__GI_only"],
        ] {
            let mut several: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            // In whichever order the file has them.
            for _ in 0..several.len() {
                several.rotate_left(1);
                assert_eq!(plainest(&several), Some(names[0]), "{names:?}");
            }
        }
        assert_eq!(plainest(&[]), None);
    }

    #[test]
    fn the_default_version_is_no_part_of_a_name() {
        let names = ["malloc@@GLIBC_2.2.5".to_owned()];
        assert_eq!(plainest(&names), Some("malloc"));
        let names = ["memcpy@GLIBC_2.2.5".to_owned()];
        assert_eq!(plainest(&names), Some("memcpy@GLIBC_2.2.5"));
    }

    #[test]
    fn names_for_internal_use_are_not_plain() {
        for name in ["malloc", "_ZN4shop3addEi", "_RNvC6_123foo3bar"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["__libc_malloc", "_int_free", "_Znwm", "__GI_memcpy", "a@B"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
