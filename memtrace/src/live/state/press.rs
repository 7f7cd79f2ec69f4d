//! What keys make of the state.

use std::sync::Arc;
use std::time::Instant;

use super::super::keys::Key;
use super::{Basis, Pane, Sort, State};
use crate::profile::Profile;
use crate::report::By;

/// Views that `g` goes through.
pub(in crate::live) const VIEWS: [By; 6] = [
    By::Site,
    By::Function,
    By::Type,
    By::Process,
    By::File,
    By::Cause,
];

/// What a key asks for that the state cannot do itself.
#[derive(Clone, Debug)]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// To end the trace and report.
    Finish,
    /// To leave at once.
    Leave,
    /// To write a report of this.
    Write(Arc<Profile>),
    /// To draw all of it anew.
    Redraw,
}

impl Sort {
    /// The next one.
    fn next(self) -> Self {
        match self {
            Self::Share => Self::Copied,
            Self::Copied => Self::Rate,
            Self::Rate => Self::Cause,
            Self::Cause => Self::Name,
            Self::Name => Self::Share,
        }
    }
}

impl State {
    /// Does what a key asks for; returns what is left to do.
    pub fn press(&mut self, key: Key, now: Instant) -> Asked {
        if self.is_typing {
            self.typed(key);
            self.sort();
            return Asked::Nothing;
        }
        match (key, self.pane) {
            (Key::Redraw, _) => return Asked::Redraw,
            (Key::Char('q'), _) => return Asked::Finish,
            (Key::Char('Q'), _) => return Asked::Leave,
            (_, Pane::Help) | (Key::Enter | Key::Escape, Pane::Row(_)) => self.pane = Pane::None,
            (Key::Char('?'), _) => self.pane = Pane::Help,
            (Key::Enter, _) => {
                if let Some(at) = self.selected() {
                    self.selected = Some(self.rows[at].id);
                    self.pane = Pane::Row(0);
                }
            }
            (Key::PageDown, Pane::Row(line)) => self.pane = Pane::Row(line + self.page),
            (Key::PageUp, Pane::Row(line)) => {
                self.pane = Pane::Row(line.saturating_sub(self.page));
            }
            (Key::Up | Key::Char('k'), _) => self.select(|at, _| at.saturating_sub(1)),
            (Key::Down | Key::Char('j'), _) => self.select(|at, _| at + 1),
            (Key::PageUp, _) => self.select(usize::saturating_sub),
            (Key::PageDown, _) => self.select(|at, page| at + page),
            (Key::Home, _) => self.select(|_, _| 0),
            (Key::End, _) => self.select(|_, _| usize::MAX),
            (Key::Escape, _) => self.order.filter.clear(),
            (Key::Char(' '), _) => self.pause(now),
            (Key::Char('w'), _) => {
                // All that there is: the picture alone is frozen.
                let latest = self.latest.as_ref();
                return latest.map_or(Asked::Nothing, |moment| {
                    Asked::Write(Arc::clone(&moment.profile))
                });
            }
            (Key::Char(letter), _) => self.arrange(letter, now),
            (Key::Backspace, _) => {}
        }
        self.sort();
        Asked::Nothing
    }

    /// Keys that change which rows there are.
    fn arrange(&mut self, letter: char, now: Instant) {
        match letter {
            'g' => {
                let at = VIEWS.iter().position(|&view| view == self.order.by);
                self.order.by = VIEWS[at.map_or(0, |at| at + 1) % VIEWS.len()];
                self.selected = None;
                self.first = 0;
                self.pane = Pane::None;
            }
            's' => self.order.sort = self.order.sort.next(),
            'S' => self.order.reversed ^= true,
            'r' => {
                self.order.basis = match self.order.basis {
                    Basis::Total => Basis::Rate,
                    Basis::Rate => Basis::Total,
                };
            }
            '/' => self.is_typing = true,
            'z' => {
                self.zero = self
                    .latest
                    .as_ref()
                    .map(|moment| Arc::clone(&moment.figures));
                self.frozen = None;
                self.say("counting from now on; the report has all".to_owned(), now);
            }
            _ => {}
        }
    }

    fn typed(&mut self, key: Key) {
        match key {
            Key::Char(c) => self.order.filter.push(c),
            Key::Backspace => {
                self.order.filter.pop();
            }
            Key::Escape => {
                self.order.filter.clear();
                self.is_typing = false;
            }
            Key::Enter => self.is_typing = false,
            _ => {}
        }
    }

    fn pause(&mut self, now: Instant) {
        self.frozen = match self.frozen.take() {
            Some(_) => None,
            None => self.latest.clone().map(|moment| (moment, now)),
        };
    }

    /// Moves the selection to where `to` says, of where it is and how many rows a page has.
    fn select(&mut self, to: impl Fn(usize, usize) -> usize) {
        let Some(at) = self.selected() else { return };
        let at = to(at, self.page).min(self.rows.len() - 1);
        self.selected = Some(self.rows[at].id);
        if let Pane::Row(_) = self.pane {
            self.pane = Pane::Row(0);
        }
    }
}
