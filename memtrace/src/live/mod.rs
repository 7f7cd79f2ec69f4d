//! `--live`: the trace on a terminal, while it runs.
//!
//! [`Live`] is a view as every other: it is handed profiles that were made of snapshots, on the thread
//! of the views, and never makes the session wait. It passes each on to a thread of its own, which has
//! the terminal and does nothing but read keys ([`keys`]) and draw ([`draw`]) what the [`State`] says.
//! A terminal that takes nothing holds up that thread alone.
//!
//! Nothing is looked at and nothing named for the view that is not for the report anyway.

mod backend;
mod canvas;
mod draw;
mod figures;
mod files;
mod head;
mod help;
mod keys;
mod sharing;
mod state;
mod terminal;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ratatui_core::terminal::Terminal as Ratatui;
use rustix::event::{EventfdFlags, eventfd};

use self::backend::Escapes;
use self::files::Writer;
use self::state::{Asked, State};
use self::terminal::Screen;
pub use self::terminal::{Terminal, restore};
use crate::notices;
use crate::profile::Profile;
use crate::report::{Color, Output};
use crate::signals;
use crate::views::View;

/// How often a profile is wanted, at most.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long a calm moment is waited for, where records come without end: then a snapshot is taken all
/// the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the picture is drawn, at most.
const FRAME: Duration = Duration::from_millis(100);

/// How often it is looked for what nobody tells: another size of the terminal, a second more on the
/// clock, the job's return to the foreground.
const TICK: Duration = Duration::from_millis(250);

/// The view on the terminal.
pub struct Live {
    shared: Arc<Shared>,
    /// `None` once it has left.
    thread: Option<JoinHandle<()>>,
}

/// What both threads see.
struct Shared {
    /// The newest profile that has not been taken up.
    profile: Mutex<Option<Arc<Profile>>>,
    /// What became of reports that were asked for.
    said: Mutex<Vec<String>>,
    is_over: AtomicBool,
    /// Wakes the view's thread.
    wake: OwnedFd,
}

impl Live {
    /// Takes the screen, and shows on it what there is to show from now on.
    ///
    /// # Errors
    /// When the terminal cannot be set, or no thread can be started.
    pub fn start(mut terminal: Terminal, output: &Output) -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("cannot make an eventfd")?;
        let shared = Arc::new(Shared {
            profile: Mutex::default(),
            said: Mutex::default(),
            is_over: AtomicBool::new(false),
            wake,
        });
        let writer = Writer::new(output.clone());
        let state = State::new(output.text.by);
        let has_colour = match output.color {
            Color::Auto => std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            Color::Always => true,
            Color::Never => false,
        };
        // What is said from here on is said when the screen is as it was before.
        notices::hold();
        let entered = terminal.enter();
        if let Err(error) = entered {
            restore();
            notices::release();
            return Err(error).context("cannot draw on the terminal");
        }
        let its = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("live".to_owned())
            .spawn(move || {
                let drawn = Performance::new(terminal, has_colour, state, writer, its);
                if let Ok(mut performance) = drawn {
                    performance.go_on();
                    restore();
                }
            });
        match thread {
            Ok(thread) => Ok(Self {
                shared,
                thread: Some(thread),
            }),
            Err(error) => {
                restore();
                notices::release();
                Err(error).context("cannot start the thread that shows the trace")
            }
        }
    }
}

impl View for Live {
    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn patience(&self) -> Option<Duration> {
        Some(PATIENCE)
    }

    fn show(&mut self, profile: &Arc<Profile>) {
        *self.shared.profile() = Some(Arc::clone(profile));
        self.shared.wake();
    }

    fn clear(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // Where it has failed, the panic has been said.
            let _ = thread.join();
        }
        restore();
        notices::release();
    }
}

impl Shared {
    fn profile(&self) -> MutexGuard<'_, Option<Arc<Profile>>> {
        self.profile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something said on the screen.
    fn say(&self, text: String) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push(text);
        drop(said);
        self.wake();
    }

    fn wake(&self) {
        // It fails when it would overflow: then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// What the view's thread has.
struct Performance {
    ratatui: Ratatui<Escapes>,
    state: State,
    writer: Writer,
    shared: Arc<Shared>,
    /// When the picture was last drawn.
    drawn: Option<Instant>,
    /// The second of the clock, and the size of the screen, that it was drawn for.
    drawn_for: (u64, (u16, u16)),
}

impl Performance {
    fn new(
        terminal: Terminal,
        has_colour: bool,
        state: State,
        writer: Writer,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        Ok(Self {
            ratatui: Ratatui::new(Escapes::new(terminal, has_colour))?,
            state,
            writer,
            shared,
            drawn: None,
            drawn_for: (0, (0, 0)),
        })
    }

    /// Shows the trace until it is over, or the terminal is gone.
    fn go_on(&mut self) {
        let begun = Instant::now();
        let mut is_due = true;
        while !self.shared.is_over.load(Ordering::SeqCst) {
            let now = Instant::now();
            match Terminal::screen() {
                Screen::Ours => {}
                Screen::Interrupted => is_due |= self.take_again(),
                // Nobody sees it. The trace goes on until something else ends it.
                Screen::Lost | Screen::Left => return,
            }
            is_due |= self.take_up(now);
            let size = self.ratatui.backend().terminal.size().unwrap_or_default();
            let wanted = ((now - begun).as_secs(), size);
            is_due |= wanted != self.drawn_for;
            let rest = self.drawn.map_or(Duration::ZERO, |drawn| {
                FRAME.saturating_sub(now.saturating_duration_since(drawn))
            });
            let mut longest = TICK;
            if is_due && Terminal::screen() == Screen::Ours {
                if rest.is_zero() {
                    is_due = self.draw(now).is_err();
                    self.drawn = Some(now);
                    self.drawn_for = wanted;
                } else {
                    longest = rest;
                }
            }
            let terminal = &self.ratatui.backend().terminal;
            terminal.wait(self.shared.wake.as_raw_fd(), longest);
            let mut woken = [0; 8];
            // Nobody has, most of the time.
            let _ = rustix::io::read(&self.shared.wake, &mut woken);
            is_due |= self.press_keys();
        }
    }

    /// Takes the screen back after the process was stopped, once it is in the foreground again.
    fn take_again(&mut self) -> bool {
        let terminal = &mut self.ratatui.backend_mut().terminal;
        terminal.is_in_foreground() && terminal.enter().is_ok() && self.ratatui.clear().is_ok()
    }

    /// Takes up what others have for the view; returns whether it must be drawn before the clock's next
    /// second.
    fn take_up(&mut self, now: Instant) -> bool {
        let profile = self.shared.profile().take();
        let said = {
            let mut said = self
                .shared
                .said
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *said)
        };
        let warned = notices::latest();
        let is_said = !said.is_empty() || warned.is_some();
        let is_more = profile.is_some_and(|profile| self.state.update(profile, now));
        for text in said.into_iter().chain(warned) {
            self.state.say(text, now);
        }
        is_said || is_more
    }

    /// Draws the picture; what was not taken is drawn anew the next time.
    fn draw(&mut self, now: Instant) -> io::Result<()> {
        let state = &mut self.state;
        let drawn = self.ratatui.draw(|frame| {
            let area = frame.area();
            draw::draw(state, area, frame.buffer_mut(), now);
        });
        let drawn = drawn.map(drop);
        if drawn.is_err() {
            self.ratatui.clear()?;
        }
        drawn
    }

    /// Does what the keys ask for that were pressed; returns whether there were any.
    fn press_keys(&mut self) -> bool {
        if Terminal::screen() != Screen::Ours {
            return false;
        }
        let bytes = self.ratatui.backend_mut().terminal.read();
        for key in keys::keys(&bytes) {
            match self.state.press(key, Instant::now()) {
                Asked::Nothing => {}
                Asked::Finish => {
                    self.state.say("finishing".to_owned(), Instant::now());
                    // Asked twice, it would leave without a report.
                    if signals::check().is_ok() {
                        signals::ask_to_end();
                    }
                }
                Asked::Leave => signals::leave_at_once(),
                Asked::Write(profile) => {
                    let shared = Arc::clone(&self.shared);
                    let text = self.writer.write(profile, move |said| shared.say(said));
                    self.state.say(text, Instant::now());
                }
                Asked::Redraw => {
                    let _ = self.ratatui.clear();
                }
            }
        }
        !bytes.is_empty()
    }
}
