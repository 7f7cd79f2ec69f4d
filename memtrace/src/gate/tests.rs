use super::*;
use crate::diff::compare;
use crate::profile::sample::sample;

fn limit(text: &str) -> Result<Limit, String> {
    text.parse()
}

fn growth(text: &str) -> Result<Growth, String> {
    text.parse()
}

#[test]
fn a_limit_is_a_size_perhaps_per_worker_and_perhaps_of_what_was_only_read() {
    let of = |most, per_worker, measured| Limit {
        most,
        per_worker,
        measured,
    };
    for (text, expected) in [
        ("10MiB", of(10 << 20, false, Measured::Copied)),
        ("10MiB/worker", of(10 << 20, true, Measured::Copied)),
        (
            "4MB/worker:copy-on-read",
            of(4_000_000, true, Measured::CopyOnRead),
        ),
        (
            "1.5 GiB:copy-on-read",
            of(3 << 29, false, Measured::CopyOnRead),
        ),
        ("512KB", of(512_000, false, Measured::Copied)),
        ("0", of(0, false, Measured::Copied)),
    ] {
        assert_eq!(limit(text), Ok(expected), "{text}");
    }
}

#[test]
fn growth_begins_with_a_plus_and_is_a_part_or_a_size() {
    let of = |most, measured| Growth { most, measured };
    for (text, expected) in [
        ("+10%", of(More::Part(0.1), Measured::Copied)),
        ("+0%", of(More::Part(0.0), Measured::Copied)),
        ("+2MiB", of(More::Bytes(2 << 20), Measured::Copied)),
        (
            "+5%:copy-on-read",
            of(More::Part(0.05), Measured::CopyOnRead),
        ),
    ] {
        assert_eq!(growth(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_no_limit_is_refused_with_what_to_write() {
    let refused = |text| limit(text).unwrap_err();
    insta::assert_snapshot!(refused("10"), @"it has no unit; for megabytes write 10MiB");
    insta::assert_snapshot!(refused("10%"), @"it is not a size such as 512KiB, 10MiB or 1.5GB");
    insta::assert_snapshot!(refused("-1MiB"), @"it is not a size such as 512KiB, 10MiB or 1.5GB");
    insta::assert_snapshot!(refused(""), @"it is not a size such as 512KiB, 10MiB or 1.5GB");
    insta::assert_snapshot!(refused("+10%"), @"a trace has nothing that it could be more than; give a limit without +, or compare two reports: memtrace diff --fail-over");
    insta::assert_snapshot!(refused("10MiB/process"), @"'/process' is not known; a limit is for all processes, as 100MiB, or for each worker, as 10MiB/worker");
    insta::assert_snapshot!(refused("10MiB:gc"), @"':gc' is not known; to count only what was copied though it was only read, write :copy-on-read");
    insta::assert_snapshot!(refused("10MiB:copy-on-read/worker"), @"':copy-on-read/worker' is not known; to count only what was copied though it was only read, write :copy-on-read");
    insta::assert_snapshot!(refused("99999999999999999999YiB"), @"it is not a size such as 512KiB, 10MiB or 1.5GB");
    let refused = |text| growth(text).unwrap_err();
    insta::assert_snapshot!(refused("10%"), @"a comparison is held against how much more was copied, so it begins with +, as +10%");
    insta::assert_snapshot!(refused("-10%"), @"a comparison is held against how much more was copied, so it begins with +, as +10%");
    insta::assert_snapshot!(refused("+"), @"it is not a size such as 512KiB, 10MiB or 1.5GB");
    insta::assert_snapshot!(refused("+x%"), @"it is not a percentage such as +10%");
    insta::assert_snapshot!(refused("+nan%"), @"it is not a percentage such as +10%");
    insta::assert_snapshot!(refused("+1e999%"), @"it is not a percentage such as +10%");
    insta::assert_snapshot!(refused("+10MiB/worker"), @"a comparison is by worker in any case, where both reports have workers; leave /worker out");
}

fn checked(text: &str, profile: &Profile) -> Verdict {
    limit(text).unwrap().check(profile)
}

fn broken(verdict: Verdict) -> String {
    match verdict {
        Verdict::Broken(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_limit_that_is_broken_names_figures_and_who_broke_it() {
    let profile = sample();
    assert_eq!(checked("1GiB", &profile), Verdict::Kept(None));
    assert_eq!(checked("15MiB/worker", &profile), Verdict::Kept(None));
    let exactly = format!("{}B", profile.totals.copied_bytes);
    assert_eq!(checked(&exactly, &profile), Verdict::Kept(None));
    insta::assert_snapshot!(broken(checked("10MiB", &profile)), @"
    over the limit of 10.0 MiB: 27.2 MiB was copied
        14.5 MiB  Catalog.render, /srv/shop/app/catalog.py:212
         3.8 MiB  context, /srv/shop/app/context.py:31
         2.4 MiB  recv, /usr/lib/python3.11/socket.py:706
         1.7 MiB  Catalog.render, /srv/shop/app/catalog.py:219
         1.6 MiB  std::_Hashtable<std::string, std::pair<std::string const, shop::pricing::Rule>, std::allocator<std::pair<std::string const, shop::pricing::Rule>>>::_M_insert_unique_node, /usr/include/c++/12/bits/hashtable.h:1719
      ... and 7 more
    ");
    insta::assert_snapshot!(broken(checked("10MiB:copy-on-read", &profile)), @"
    over the limit of 10.0 MiB: 21.0 MiB was copied though only read
        14.5 MiB  Catalog.render, /srv/shop/app/catalog.py:212
         3.8 MiB  context, /srv/shop/app/context.py:31
         1.7 MiB  Catalog.render, /srv/shop/app/catalog.py:219
       560.0 KiB  idle, /srv/shop/gunicorn.conf.py:12
       520.0 KiB  std::_Sp_counted_base<(__gnu_cxx::_Lock_policy)2>::_M_add_ref_copy, /usr/include/c++/12/bits/shared_ptr_base.h:152
      ... and 1 more
    ");
    insta::assert_snapshot!(broken(checked("10MiB/worker", &profile)), @"
    over the limit of 10.0 MiB per worker: 2 of 5 workers are, with up to 12.5 MiB copied
        12.5 MiB  4243 gunicorn: worke
        11.4 MiB  4244 gunicorn: worke
    ");
    insta::assert_snapshot!(broken(checked("2MB/worker:copy-on-read", &profile)), @"
    over the limit of 1.9 MiB per worker: 2 of 5 workers are, with up to 9.8 MiB copied though only read
         9.8 MiB  4243 gunicorn: worke
         9.4 MiB  4244 gunicorn: worke
    ");
}

#[test]
fn a_limit_per_worker_is_not_kept_where_there_are_none() {
    let mut profile = sample();
    profile.processes.truncate(1);
    let Verdict::Unknown(text) = checked("10MiB/worker", &profile) else {
        panic!("it was kept, or broken");
    };
    insta::assert_snapshot!(text, @"the limit of 10.0 MiB per worker could not be checked, since no worker was seen: no process that a traced one had forked and that goes on with its program; trace the process that forks them, or give the limit without /worker");
}

#[test]
fn names_of_those_who_broke_it_do_nothing_to_a_terminal() {
    let mut profile = sample();
    for process in &mut profile.processes {
        process.comm = "\u{1b}[2J".to_owned();
    }
    for site in &mut profile.call_sites {
        site.site.function = "\u{1b}[2J\u{202e}".into();
    }
    for limit in ["0", "0/worker"] {
        let text = broken(checked(limit, &profile));
        assert!(
            text.contains("\\u{1b}[2J") && !text.contains('\u{1b}'),
            "{text}"
        );
    }
}

/// The sample, of which each call site copied so many times as much.
fn times(factor: u64) -> Profile {
    let mut profile = sample();
    for site in &mut profile.call_sites {
        site.bytes *= factor;
    }
    for process in &mut profile.processes {
        process.copied_bytes *= factor;
    }
    profile.totals.copied_bytes *= factor;
    // Workers that are alike, since three of which one died early are not.
    profile.processes.truncate(3);
    for site in &mut profile.call_sites {
        site.processes = [(4243, site.pages - site.pages / 2), (4244, site.pages / 2)].into();
    }
    profile
}

#[test]
fn growth_is_held_against_what_workers_copied() {
    let difference = compare((&times(1), "base.json"), (&times(5), "new.json"));
    let check = |text: &str| growth(text).unwrap().check(&difference);
    assert_eq!(check("+400%"), Verdict::Kept(None));
    assert_eq!(check("+100MiB"), Verdict::Kept(None));
    insta::assert_snapshot!(broken(check("+10%")), @"
    over the limit of 10% more: 68.0 MiB per worker copied, after 13.6 MiB (+400.0%)
        28.9 MiB  Catalog.render, /srv/shop/app/catalog.py:212
         7.6 MiB  context, /srv/shop/app/context.py:31
    ");
    insta::assert_snapshot!(broken(check("+1MiB:copy-on-read")), @"
    over the limit of 1.0 MiB more: 52.5 MiB per worker copied though only read, after 10.5 MiB (+400.0%)
        28.9 MiB  Catalog.render, /srv/shop/app/catalog.py:212
         7.6 MiB  context, /srv/shop/app/context.py:31
    ");
    let same = compare((&times(5), "base.json"), (&times(5), "new.json"));
    assert_eq!(growth("+0%").unwrap().check(&same), Verdict::Kept(None));
}

#[test]
fn growth_that_may_be_chance_breaks_no_limit_and_is_said() {
    let mut new = sample();
    for site in &mut new.call_sites {
        site.bytes += site.bytes / 5;
    }
    new.totals.copied_bytes += new.totals.copied_bytes / 5;
    let difference = compare((&sample(), "base.json"), (&new, "new.json"));
    let Verdict::Kept(Some(text)) = growth("+10%").unwrap().check(&difference) else {
        panic!("nothing was said");
    };
    insta::assert_snapshot!(text, @"over the limit of 10% more, but within what equal runs differ by: 6.4 MiB per worker copied, after 5.3 MiB (+20.0%)");
}
