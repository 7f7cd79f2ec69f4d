//! What the view shows, and what keys make of it. Nothing here knows a terminal.

mod press;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::press::Asked;
#[cfg(test)]
pub(super) use self::press::VIEWS;
use super::figures::{Figures, Row, rows};
use crate::profile::Profile;
use crate::report::By;

/// How far back rates look, in seconds.
const LATELY: f64 = 3.0;

/// Moments that are kept for the curve of what was copied.
const MOMENTS: usize = 256;

/// How long a note stands.
const NOTE: Duration = Duration::from_secs(6);

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The column of shares: of all that was copied, or of what is copied lately.
    Share,
    /// What was copied.
    Copied,
    /// What is copied lately.
    Rate,
    /// The cause, by its name.
    Cause,
    /// The name.
    Name,
}

/// What shares are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Of all that was copied.
    Total,
    /// Of what was copied in the last seconds.
    Rate,
}

/// What lies over or below the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    /// Nothing.
    None,
    /// All about the selected row, from this line on.
    Row(usize),
    /// The keys.
    Help,
}

/// A moment of the trace.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The trace so far.
    pub profile: Arc<Profile>,
    /// Its figures.
    pub figures: Arc<Figures>,
    /// What rates are since.
    pub recent: Option<Arc<Figures>>,
    /// When it arrived.
    pub at: Instant,
}

/// Which rows there are, and in which order.
#[derive(Clone, Debug)]
pub struct Order {
    /// What a row is.
    pub by: By,
    /// What they are sorted by.
    pub sort: Sort,
    /// Whether the other way round.
    pub reversed: bool,
    /// What shares are of.
    pub basis: Basis,
    /// Rows have this in their names, in whichever case.
    pub filter: String,
}

/// What the view shows.
pub struct State {
    /// The newest moment.
    latest: Option<Moment>,
    /// The moment at which the picture was frozen, and when that was.
    frozen: Option<(Moment, Instant)>,
    /// Figures of the last seconds, the oldest first.
    history: VecDeque<Arc<Figures>>,
    /// Seconds, and bytes that had been copied.
    curve: VecDeque<(f64, u64)>,
    /// What the figures are since; `None` for since the trace began.
    zero: Option<Arc<Figures>>,
    /// Which rows there are.
    pub order: Order,
    /// Whether a filter is being typed.
    pub is_typing: bool,
    /// What lies over the table.
    pub pane: Pane,
    /// The rows, sorted and filtered.
    pub rows: Vec<Row>,
    /// The selected row.
    selected: Option<u64>,
    /// The first row that is drawn.
    pub first: usize,
    /// The most rows that are drawn, and the lines of the pane: known since it was drawn.
    pub page: usize,
    /// Something to be said, and since when.
    note: Option<(String, Instant)>,
}

impl State {
    /// Begins with a view and no rows.
    #[must_use]
    pub fn new(by: By) -> Self {
        // A stack is a key away from its call site.
        let by = if by == By::Stack { By::Site } else { by };
        Self {
            latest: None,
            frozen: None,
            history: VecDeque::new(),
            curve: VecDeque::new(),
            zero: None,
            order: Order {
                by,
                sort: Sort::Share,
                reversed: false,
                basis: Basis::Total,
                filter: String::new(),
            },
            is_typing: false,
            pane: Pane::None,
            rows: Vec::new(),
            selected: None,
            first: 0,
            page: 1,
            note: None,
        }
    }

    /// Takes up a new profile; returns whether more was copied than before. If not, the picture need not
    /// be drawn at once.
    pub fn update(&mut self, profile: Arc<Profile>, now: Instant) -> bool {
        let before = self.latest.as_ref().map(|moment| moment.figures.copied);
        let figures = Arc::new(Figures::of(&profile));
        let since = figures.at_s - LATELY;
        // The last one that is old enough stays.
        while self.history.get(1).is_some_and(|next| next.at_s <= since) {
            self.history.pop_front();
        }
        let recent = self.history.front().cloned();
        self.history.push_back(Arc::clone(&figures));
        if self.curve.len() == MOMENTS {
            self.curve.pop_front();
        }
        self.curve.push_back((figures.at_s, figures.copied));
        let is_more = before != Some(figures.copied);
        self.latest = Some(Moment {
            profile,
            figures,
            recent,
            at: now,
        });
        if self.frozen.is_none() {
            self.sort();
        }
        is_more
    }

    /// The moment that is shown.
    #[must_use]
    pub fn shown(&self) -> Option<&Moment> {
        let frozen = self.frozen.as_ref().map(|(moment, _)| moment);
        frozen.or(self.latest.as_ref())
    }

    /// What was copied until the moment that is shown, since the view was zeroed.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let shown = self.shown();
        shown.map_or_else(Figures::default, |moment| {
            moment.figures.since(self.zero.as_deref())
        })
    }

    /// Whether the figures are not since the beginning of the trace.
    #[must_use]
    pub fn is_zeroed(&self) -> bool {
        self.zero.is_some()
    }

    /// How long the picture has been frozen, and how many bytes were copied since.
    #[must_use]
    pub fn paused(&self, now: Instant) -> Option<(Duration, u64)> {
        let (moment, since) = self.frozen.as_ref()?;
        let latest = self.latest.as_ref()?;
        let more = latest.figures.copied - moment.figures.copied.min(latest.figures.copied);
        Some((now.saturating_duration_since(*since), more))
    }

    /// Bytes that were copied in each of the last seconds, the latest at the end, at most `most`.
    #[must_use]
    pub fn curve(&self, most: usize) -> Vec<f64> {
        let Some(end) = self.shown().map(|moment| moment.figures.at_s) else {
            return Vec::new();
        };
        let copied_at = |at: f64| {
            let until = self.curve.iter().take_while(|(moment, _)| *moment <= at);
            until.last().map(|(_, copied)| *copied)
        };
        let seconds = (0..most).rev().map(|back| end - back as f64);
        let known = seconds.filter_map(|at| Some((copied_at(at - 1.0)?, copied_at(at)?)));
        known
            .map(|(before, after)| after.saturating_sub(before) as f64)
            .collect()
    }

    /// What is to be said now.
    #[must_use]
    pub fn note(&self, now: Instant) -> Option<&str> {
        let (text, since) = self.note.as_ref()?;
        (now.saturating_duration_since(*since) < NOTE).then_some(text)
    }

    /// Says something for a while.
    pub fn say(&mut self, text: String, now: Instant) {
        self.note = Some((text, now));
    }

    /// Where the selected row is; `None` without rows.
    #[must_use]
    pub fn selected(&self) -> Option<usize> {
        let found = self
            .rows
            .iter()
            .position(|row| Some(row.id) == self.selected);
        // What was selected may have gone, as by a filter.
        found.or((!self.rows.is_empty()).then_some(0))
    }

    /// The sum of all rows that shares are of, whether a filter hides them or not.
    #[must_use]
    pub fn whole(&self) -> f64 {
        let Some(moment) = self.shown() else {
            return 0.0;
        };
        match self.order.basis {
            Basis::Total => self.figures().copied as f64,
            Basis::Rate => moment.figures.rate(moment.recent.as_deref()),
        }
    }

    /// What a row's share is of [`State::whole`].
    #[must_use]
    pub fn part(&self, row: &Row) -> f64 {
        match self.order.basis {
            Basis::Total => row.copied as f64,
            Basis::Rate => row.rate,
        }
    }

    /// Makes the rows anew.
    fn sort(&mut self) {
        let Some(moment) = self.shown() else { return };
        let order = &self.order;
        let (zero, recent) = (self.zero.as_deref(), moment.recent.as_deref());
        let mut rows = rows(&moment.profile, order.by, zero, recent);
        let filter = order.filter.to_lowercase();
        rows.retain(|row| row.name.to_lowercase().contains(&filter));
        let by_copied = |a: &Row, b: &Row| b.copied.cmp(&a.copied);
        let by_rate = |a: &Row, b: &Row| b.rate.total_cmp(&a.rate).then_with(|| by_copied(a, b));
        rows.sort_by(|a, b| match (order.sort, order.basis) {
            (Sort::Copied, _) | (Sort::Share, Basis::Total) => by_copied(a, b),
            (Sort::Rate, _) | (Sort::Share, Basis::Rate) => by_rate(a, b),
            (Sort::Cause, _) => (a.cause.name().cmp(b.cause.name())).then_with(|| by_copied(a, b)),
            (Sort::Name, _) => a.name.cmp(&b.name),
        });
        if order.reversed {
            rows.reverse();
        }
        self.rows = rows;
    }

    /// Has the selected row among `page` rows that are drawn.
    pub fn scroll(&mut self, page: usize) {
        self.page = page.max(1);
        let at = self.selected().unwrap_or(0);
        let (rows, page) = (self.rows.len(), self.page);
        let first = self.first.clamp((at + 1).saturating_sub(page), at);
        // No line stays empty while there are rows above.
        self.first = first.min(rows.saturating_sub(page));
    }
}

#[cfg(test)]
mod tests;
