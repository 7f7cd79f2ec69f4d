//! Call sites, grouped anew: the rows of the main table.

use std::borrow::Cow;
use std::collections::BTreeMap;
#[cfg(feature = "live")]
use std::hash::BuildHasher as _;
use std::sync::Arc;

use clap::ValueEnum;
use foldhash::HashMap;
#[cfg(feature = "live")]
use foldhash::fast::FixedState;

use super::words;
use crate::distribution::Distribution;
use crate::profile::{
    CallSite, CauseName, Frame, Language, OriginName, Phase, Profile, Site, StackPages, Unknown,
};

/// What a row of a table of copies is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The function, file and line that copied, the cause and the phase.
    Site,
    /// The application's function, file and line that led there, where a library copied.
    App,
    /// The function that copied.
    Function,
    /// The whole call stack.
    Stack,
    /// The type of the object written to.
    Type,
    /// The process.
    Process,
    /// The source file, or the program or library.
    File,
    /// What the write was.
    Cause,
}

/// One row.
pub(crate) struct Group<'a> {
    /// The same for the same row of a later profile, as long as memtrace runs.
    #[cfg(feature = "live")]
    pub id: u64,
    /// Its name; not escaped yet.
    pub name: Cow<'a, str>,
    pub pages: u64,
    pub bytes: u64,
    /// Pages by cause.
    pub causes: BTreeMap<CauseName, u64>,
    /// Pages by origin.
    pub origins: BTreeMap<OriginName, u64>,
    /// Pages by pid; empty when that is not known for the row.
    pub processes: BTreeMap<u32, u64>,
    /// The call sites in it, each with its pages in this row.
    pub parts: Vec<(&'a CallSite, u64)>,
    /// The one stack that the row is; otherwise `None`.
    pub stack: Option<&'a StackPages>,
    /// Whether the row has its call sites whole, so that their histograms are its own.
    whole: bool,
}

#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Site([Option<&'a Site>; 3], CauseName, Phase),
    App(&'a Site),
    Function(&'a str, Option<&'a str>, Language),
    Stack(&'a [Arc<Frame>]),
    Type(&'a str),
    NoType(CauseName),
    Process(u32),
    File(&'a str),
    Cause(CauseName),
}

/// The rows of a table by `by`, the largest first.
pub(crate) fn regroup(profile: &Profile, by: By) -> Vec<Group<'_>> {
    let mut groups = Groups {
        rows: Vec::new(),
        index: HashMap::default(),
    };
    for site in &profile.call_sites {
        let whole = |key, name| (key, name, site.pages);
        let blamed = &site.site;
        let (key, name, pages) = match by {
            By::Process => {
                for (&pid, &pages) in &site.processes {
                    let group = groups.row(Key::Process(pid), || process_name(profile, pid).into());
                    group.add(site, pages);
                    group.processes.insert(pid, pages);
                    group.whole = false;
                }
                continue;
            }
            By::Stack => {
                for stack in &site.stacks {
                    let leaf = stack
                        .frames
                        .first()
                        .map_or("[no stack]", |leaf| &leaf.function);
                    let group = groups.row(Key::Stack(&stack.frames), || leaf.into());
                    group.add(site, stack.pages);
                    group.stack = Some(stack);
                    group.whole = false;
                }
                continue;
            }
            By::Site => {
                let ways = [Some(blamed), site.app.as_ref(), site.caller.as_ref()];
                whole(Key::Site(ways, site.cause, site.phase), site_name(blamed))
            }
            By::App => whole(Key::App(site.act_on()), site_name(site.act_on())),
            By::Function => whole(
                Key::Function(
                    &blamed.function,
                    place_of_definition(blamed),
                    blamed.language,
                ),
                Cow::Borrowed(&*blamed.function),
            ),
            By::Type => match site.object_type.as_deref() {
                Some(object_type) => whole(Key::Type(object_type), object_type.into()),
                None => whole(Key::NoType(site.cause), words::no_type(site.cause)),
            },
            By::File => {
                let file = blamed.file.as_deref().or(blamed.module.as_deref());
                let file = file.unwrap_or("[file not known]");
                whole(Key::File(file), file.into())
            }
            By::Cause => whole(Key::Cause(site.cause), site.cause.name().into()),
        };
        let group = groups.row(key, || name);
        group.add(site, pages);
        for (&pid, &pages) in &site.processes {
            *group.processes.entry(pid).or_default() += pages;
        }
    }
    let mut rows = groups.rows;
    rows.sort_by_key(|row| std::cmp::Reverse(row.pages));
    rows
}

struct Groups<'a> {
    rows: Vec<Group<'a>>,
    index: HashMap<Key<'a>, usize>,
}

impl<'a> Groups<'a> {
    fn row(&mut self, key: Key<'a>, name: impl FnOnce() -> Cow<'a, str>) -> &mut Group<'a> {
        #[cfg(feature = "live")]
        let id = FixedState::default().hash_one(&key);
        let at = *self.index.entry(key).or_insert_with(|| {
            self.rows.push(Group {
                #[cfg(feature = "live")]
                id,
                name: name(),
                pages: 0,
                bytes: 0,
                causes: BTreeMap::new(),
                origins: BTreeMap::new(),
                processes: BTreeMap::new(),
                parts: Vec::new(),
                stack: None,
                whole: true,
            });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }
}

impl<'a> Group<'a> {
    fn add(&mut self, site: &'a CallSite, pages: u64) {
        self.pages += pages;
        // All pages of a call site are of one size, since they have one origin.
        let bytes = u128::from(site.bytes) * u128::from(pages) / u128::from(site.pages.max(1));
        self.bytes += bytes as u64;
        *self.causes.entry(site.cause).or_default() += pages;
        *self.origins.entry(site.origin).or_default() += pages;
        self.parts.push((site, pages));
    }

    /// Distribution of `which` over the row, where it is known.
    pub(crate) fn merged(&self, which: fn(&CallSite) -> &Distribution) -> Distribution {
        let mut merged = Distribution::new();
        if self.whole {
            self.parts
                .iter()
                .for_each(|(site, _)| merged.merge(which(site)));
        }
        merged
    }
}

/// Why a call site has no name, as its stacks tell.
pub(super) fn reason_of(site: &CallSite) -> Option<Unknown> {
    let frames = site.stacks.first()?.frames.iter();
    frames
        .filter(|frame| frame.function == site.site.function)
        .find_map(|frame| frame.unknown)
}

/// The function; of Python and its like with the file's name and the line, since many functions of
/// a program have the same name.
pub(super) fn site_name(site: &Site) -> Cow<'_, str> {
    match (&site.file, site.line) {
        (Some(file), Some(line)) if site.language.is_interpreted() => {
            let base = file.rsplit('/').next().unwrap_or(file);
            format!("{}  {base}:{line}", site.function).into()
        }
        _ => Cow::Borrowed(&*site.function),
    }
}

/// What tells functions of one name apart: the module, or of Python and its like, which have none,
/// the file.
pub(super) fn place_of_definition(site: &Site) -> Option<&str> {
    let file = site
        .file
        .as_deref()
        .filter(|_| site.language.is_interpreted());
    site.module.as_deref().or(file)
}

/// `4243 gunicorn`, or the number alone.
fn process_name(profile: &Profile, pid: u32) -> String {
    let process = profile
        .processes
        .iter()
        .rev()
        .find(|process| process.pid == pid);
    process.map_or_else(
        || pid.to_string(),
        |process| match process.stands_for {
            Some(_) => process.called(),
            None => format!("{pid} {}", process.called()),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::{sample, sample_pending, sample_with_losses};

    #[test]
    fn every_grouping_keeps_all_pages_and_bytes() {
        for profile in [sample(), sample_with_losses(), sample_pending()] {
            for &by in By::value_variants() {
                let rows = regroup(&profile, by);
                let pages: u64 = rows.iter().map(|row| row.pages).sum();
                let bytes: u64 = rows.iter().map(|row| row.bytes).sum();
                assert_eq!(pages, profile.totals.copied_pages, "{by:?}");
                assert_eq!(bytes, profile.totals.copied_bytes, "{by:?}");
                assert!(rows.is_sorted_by_key(|row| std::cmp::Reverse(row.pages)));
            }
        }
    }

    #[test]
    fn rows_of_whole_call_sites_have_their_latencies() {
        let profile = sample();
        let rows = regroup(&profile, By::File);
        let collector = rows
            .iter()
            .find(|row| row.name == "/srv/shop/app/context.py")
            .unwrap();
        assert_eq!(collector.merged(|site| &site.latency_ns).count(), 970);
        assert!(
            regroup(&profile, By::Stack)[0]
                .merged(|site| &site.latency_ns)
                .is_empty()
        );
        assert!(
            regroup(&profile, By::Process)[0]
                .merged(|site| &site.latency_ns)
                .is_empty()
        );
    }

    #[test]
    fn a_stack_of_two_call_sites_is_one_row() {
        let mut profile = sample();
        let mut other = profile.call_sites[0].clone();
        other.cause = CauseName::Data;
        profile.call_sites.push(other);
        let rows = regroup(&profile, By::Stack);
        // Objects of four types were written to with this stack.
        assert_eq!(rows[0].pages, 3_702 + 2_500);
        assert_eq!(
            rows[0].causes,
            BTreeMap::from([(CauseName::Refcount, 3_702), (CauseName::Data, 2_500)])
        );
    }

    #[test]
    fn a_call_site_is_one_row_for_each_cause_whatever_the_types() {
        let mut profile = sample();
        let mut other = profile.call_sites[0].clone();
        other.cause = CauseName::Data;
        profile.call_sites.push(other);
        let rows = regroup(&profile, By::Site);
        let render: Vec<_> = rows
            .iter()
            .filter(|row| row.name == "Catalog.render  catalog.py:212")
            .map(|row| (row.pages, row.parts.len()))
            .collect();
        assert_eq!(render, [(3_702, 4), (2_500, 1)]);
    }

    #[test]
    fn a_call_site_is_one_row_for_each_frame_of_the_application() {
        let mut profile = sample();
        let library = profile
            .call_sites
            .iter()
            .position(|site| site.app.is_some())
            .unwrap();
        let mut other = profile.call_sites[library].clone();
        other.app.as_mut().unwrap().function = "export".into();
        profile.call_sites.push(other);
        let rows = regroup(&profile, By::Site);
        let apps: Vec<_> = rows
            .iter()
            .filter_map(|row| Some(&*row.parts[0].0.app.as_ref()?.function))
            .collect();
        assert_eq!(apps, ["checkout", "export"]);
    }

    #[test]
    fn by_app_a_library_is_part_of_what_it_was_called_for() {
        let mut profile = sample();
        let library = profile.call_sites.iter();
        let library = library.clone().find(|site| site.app.is_some()).unwrap();
        let mut own = library.clone();
        own.site = own.app.take().unwrap();
        profile.call_sites.push(own);
        let rows = regroup(&profile, By::App);
        let row = rows
            .iter()
            .find(|row| row.name == "checkout  views.py:91")
            .unwrap();
        assert_eq!((row.pages, row.parts.len()), (2 * 612, 2));
        // Where there is none, the call site is what can be acted on.
        assert!(rows.iter().any(|row| row.name == "_PyObject_Free"));
    }

    #[test]
    fn functions_of_one_name_in_two_python_files_are_two_rows() {
        let mut profile = sample();
        let mut other = profile.call_sites[0].clone();
        other.site.file = Some("/srv/shop/app/other.py".into());
        profile.call_sites.push(other);
        let rows = regroup(&profile, By::Function);
        let named = rows.iter().filter(|row| row.name == "Catalog.render");
        assert_eq!(named.count(), 2);
    }

    #[test]
    fn rows_without_a_type_say_what_was_written() {
        let profile = sample();
        let rows = regroup(&profile, By::Type);
        let pages = |name| {
            rows.iter()
                .find(|row| row.name == name)
                .map(|row| row.pages)
        };
        assert_eq!(pages("(no object: data)"), Some(464));
        assert_eq!(pages("(no object: kernel)"), Some(612));
        assert_eq!(pages("(no object: allocator)"), Some(120));
        assert_eq!(pages("(type not known: gc)"), Some(140));
        assert_eq!(pages("(type not known: refcount)"), Some(130));
        assert_eq!(pages("(cause not known)"), Some(180));
    }

    #[test]
    fn a_process_has_the_pages_that_it_copied() {
        let profile = sample();
        for row in regroup(&profile, By::Process) {
            let pid: u32 = row.name.split(' ').next().unwrap().parse().unwrap();
            let process = profile
                .processes
                .iter()
                .find(|process| process.pid == pid)
                .unwrap();
            assert_eq!(row.pages, process.copied_pages);
        }
    }
}
