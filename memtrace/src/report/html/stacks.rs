//! Stacks of the page's data, and the text and frames that they are made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::HashMap;

use super::data::index_of;
use super::roles::Roles;
use crate::foreign::shown;
use crate::profile::{CauseName, Frame, Profile};
use crate::report::frames::mark;

/// Bytes of a name.
const NAME: usize = 240;

/// Pages of each stack, whose frames are root first, by role and cause: the number of the role times
/// how many causes there are, and the index of the cause.
type Stacks = BTreeMap<Vec<u32>, BTreeMap<usize, u64>>;

/// All stacks of a profile, whatever the page has room for.
pub(super) struct Collected {
    /// Their frames.
    tables: Tables,
    stacks: Stacks,
    /// Pages of each stack, the most first.
    sizes: Vec<u64>,
}

/// The stacks that are in the page.
pub(super) struct Chosen {
    /// Front-coded, as `Data::stacks` has them.
    pub coded: Vec<u64>,
    /// Boxes that they make in a flame graph.
    pub nodes: usize,
    /// Stacks that were added up, and their pages.
    pub folded: Option<(u64, u64)>,
    /// Where a stack is, by its frames in [`Collected`].
    index: HashMap<Vec<u32>, usize>,
}

impl Collected {
    pub fn of(profile: &Profile, causes: &[CauseName], roles: &Roles) -> Self {
        let (mut tables, mut stacks) = (Tables::default(), Stacks::new());
        for site in &profile.call_sites {
            let kind = roles.of_site(site) * causes.len() + index_of(causes, site.cause);
            for stack in &site.stacks {
                let key = tables.stack(&stack.frames);
                let pages = stacks.entry(key).or_default().entry(kind).or_default();
                *pages = pages.saturating_add(stack.pages);
            }
        }
        let mut sizes: Vec<u64> = stacks.values().map(sum).collect();
        sizes.sort_by_key(|&pages| std::cmp::Reverse(pages));
        Self {
            tables,
            stacks,
            sizes,
        }
    }

    /// How many stacks there are that have at least so many pages.
    pub fn with_at_least(&self, pages: u64) -> usize {
        self.sizes.partition_point(|&it| it >= pages)
    }

    /// Chooses the `keep` stacks with the most pages, and adds up the others. What they are made of
    /// gets into `tables`.
    pub fn choose(&self, keep: usize, tables: &mut Tables) -> Chosen {
        // Of those that have as many as the last one, the first ones.
        let least = keep
            .checked_sub(1)
            .and_then(|last| self.sizes.get(last))
            .copied();
        let more = self
            .sizes
            .partition_point(|&it| least.is_none_or(|least| it > least));
        let mut equal = keep.saturating_sub(more);
        let mut chosen = Chosen {
            coded: Vec::new(),
            nodes: 0,
            folded: None,
            index: HashMap::default(),
        };
        let mut known = HashMap::default();
        let (mut previous, mut others): (&[u32], BTreeMap<usize, u64>) = (&[], BTreeMap::new());
        for (frames, by_kind) in &self.stacks {
            let pages = sum(by_kind);
            let is_kept = least.is_some_and(|least| pages > least || pages == least && equal > 0);
            if !is_kept {
                let (number, all) = chosen.folded.get_or_insert_default();
                (*number, *all) = (*number + 1, all.saturating_add(pages));
                for (&kind, &more) in by_kind {
                    let sum = others.entry(kind).or_default();
                    *sum = sum.saturating_add(more);
                }
                continue;
            }
            equal -= usize::from(least == Some(pages));
            let common = frames
                .iter()
                .zip(previous)
                .take_while(|(a, b)| a == b)
                .count();
            let new = frames[common..].iter().map(|&frame| {
                let index = *known
                    .entry(frame)
                    .or_insert_with(|| self.tables.copy(frame, tables));
                u64::from(index)
            });
            chosen.push(common, new.collect(), by_kind);
            chosen.index.insert(frames.clone(), chosen.index.len());
            previous = frames;
        }
        if chosen.folded.is_some() {
            let other = tables.frame("[other]", "", 0, false);
            chosen.push(0, vec![other.into()], &others);
        }
        chosen
    }

    /// Where a stack is among those that were chosen; what was added up is nowhere.
    pub fn find(&mut self, frames: &[Arc<Frame>], among: &Chosen) -> Option<usize> {
        among.index.get(&self.tables.stack(frames)).copied()
    }
}

impl Chosen {
    fn push(&mut self, common: usize, new: Vec<u64>, by_kind: &BTreeMap<usize, u64>) {
        self.nodes += new.len();
        self.coded.extend([common as u64, new.len() as u64]);
        self.coded.extend(new);
        self.coded.push(by_kind.len() as u64);
        for (&kind, &pages) in by_kind {
            self.coded.extend([kind as u64, pages]);
        }
    }
}

fn sum(by_kind: &BTreeMap<usize, u64>) -> u64 {
    by_kind
        .values()
        .fold(0, |sum: u64, &it| sum.saturating_add(it))
}

/// Text and frames, each kept once.
#[derive(Default)]
pub(super) struct Tables {
    pub strings: Vec<String>,
    string_index: HashMap<String, u32>,
    pub frames: Vec<u32>,
    frame_index: HashMap<[u32; 4], u32>,
    /// Frames of a profile are shared, so most are found by where they are.
    known: HashMap<*const Frame, u32>,
}

impl Tables {
    /// The index of a text, spelled out as in every report, and cut where it is very long.
    pub fn text(&mut self, text: &str) -> u32 {
        let text = shown(text.as_bytes(), NAME);
        if let Some(&index) = self.string_index.get(&text) {
            return index;
        }
        let index = self.strings.len() as u32;
        self.strings.push(text.clone());
        self.string_index.insert(text, index);
        index
    }

    fn frame(&mut self, function: &str, file: &str, line: u32, interpreted: bool) -> u32 {
        let key = [
            self.text(function),
            self.text(file),
            line,
            u32::from(interpreted),
        ];
        let next = self.frame_index.len() as u32;
        let index = *self.frame_index.entry(key).or_insert(next);
        if index == next {
            self.frames.extend(key);
        }
        index
    }

    /// Copies a frame to other tables.
    fn copy(&self, frame: u32, to: &mut Self) -> u32 {
        let at = frame as usize * 4;
        let text = |index: u32| self.strings.get(index as usize).map_or("", String::as_str);
        match self.frames.get(at..at + 4) {
            Some(&[function, file, line, interpreted]) => {
                to.frame(text(function), text(file), line, interpreted != 0)
            }
            _ => to.frame("[unknown]", "", 0, false),
        }
    }

    /// Indices of a stack's frames, root first.
    fn stack(&mut self, frames: &[Arc<Frame>]) -> Vec<u32> {
        let indices = frames.iter().rev().map(|frame| {
            if let Some(&index) = self.known.get(&Arc::as_ptr(frame)) {
                return index;
            }
            let name = format!("{}{}", frame.function, mark(frame));
            let file = frame.file.as_deref().or(frame.module.as_deref());
            let line = frame.line.filter(|_| frame.file.is_some()).unwrap_or(0);
            let interpreted = frame.language.is_interpreted();
            let index = self.frame(&name, file.unwrap_or(""), line, interpreted);
            self.known.insert(Arc::as_ptr(frame), index);
            index
        });
        indices.collect()
    }
}
