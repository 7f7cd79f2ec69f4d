use std::sync::Arc;
use std::time::Duration;

use ratatui_core::backend::TestBackend;
use ratatui_core::terminal::Terminal;

use super::*;
use crate::live::keys::Key;
use crate::profile::sample::{sample, sample_with_losses};
use crate::profile::{Memory, MemorySizes, Profile};

/// The sample, of which the processes that live share some of their memory.
fn shared() -> Profile {
    let mut profile = sample();
    for (process, nth) in profile.processes.iter_mut().zip(1_u64..) {
        process.memory = Some(Memory {
            end: MemorySizes {
                shared: Some((70 - 10 * nth) << 20),
                private: Some((nth * 12) << 20),
                ..MemorySizes::default()
            },
            ..Memory::default()
        });
    }
    profile
}

fn state(profile: Profile, now: Instant) -> State {
    let mut state = State::new(By::Site);
    let mut earlier = profile.clone();
    earlier.duration_s -= 2.0;
    earlier.totals.copied_bytes = 0;
    earlier.call_sites.clear();
    state.update(Arc::new(earlier), now);
    state.update(Arc::new(profile), now);
    state
}

fn drawn(state: &mut State, (width, height): (u16, u16), now: Instant) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let frame = terminal.draw(|frame| {
        let area = frame.area();
        draw(state, area, frame.buffer_mut(), now);
    });
    frame.unwrap();
    let text = terminal.backend().to_string();
    // A line of a snapshot must not end with blanks.
    let lines = text.lines().map(|line| line.trim_matches('"').trim_end());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn everything_fits_80_columns_and_24_lines() {
    let now = Instant::now();
    let mut state = state(shared(), now);
    insta::assert_snapshot!(drawn(&mut state, (80, 24), now), @r"
     memtrace  0:10  pid 4242 gunicorn   4 of 6 processes             [space] pause
     27.2 MiB copied   13.6 MiB/s  █   75% only read   lost 0
     refcount 61% ██████▌ gc 16% ██▍ kernel 9% █▊ data 7% █▋ object 3% █▎ unknown 3%
     ── shared ───────────────────────────────────────── █ shared ░ private, MiB ──
        4242 gunicorn          ████████████████████████░░░░░         60.0 / 12.0
          2× g…rn: worke       ██████████████████░░░░░░░░░░░░        45.0 / 30.0
        4247 report.py     0 s ████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░     10.0 / 72.0
      … 2 exited copied 2.8 MiB
     ── call sites, by share ────────────────────────── [g]roup [s]ort [/]filter ──
       SHARE      COPIED   MIB/S  CAUSE      CALL SITE
    ▸  53.2%    14.5 MiB     7.2  refcount   Catalog.render  catalog.py:212
       13.9%     3.8 MiB     1.9  gc         context  context.py:31
        8.8%     2.4 MiB     1.2  kernel     recv  socket.py:706
        6.1%     1.7 MiB     0.8  refcount   Catalog.render  catalog.py:219
        5.7%     1.6 MiB     0.8  data       std::_Hashtable<std…_insert_unique_node
        3.0%   840.0 KiB     0.4  object     Session.touch  sessions.py:47
        2.6%   720.0 KiB     0.4  unknown    libssl.so.3+0x4a1f0
        2.0%   560.0 KiB     0.3  gc         idle  gunicorn.conf.py:12
        1.9%   520.0 KiB     0.3  refcount   std::_Sp_counted_ba…2>::_M_add_ref_copy
        1.7%   480.0 KiB     0.2  allocator  _PyObject_Free
        0.9%   256.0 KiB     0.1  data       _dl_relocate_object
        0.1%    36.0 KiB     0.0  refcount   evil\u{1b}[2J\u{202…unction  \u{7}.py:1

     ↑↓ move  ⏎ stack  r rate/total  w write report  ? help  q finish and report
    ");
}

#[test]
fn a_small_screen_has_all_parts() {
    let now = Instant::now();
    let mut state = state(shared(), now);
    insta::assert_snapshot!(drawn(&mut state, (60, 12), now), @"
     memtrace  0:10  pid 4242 gunicorn   4 of 6 processes
     27.2 MiB copied   13.6 MiB/s    75% only read   lost 0
     refcount 61% ██▎ gc 16% █▍ kernel 9% █▏ data 7% █▏ object 3
     ── shared ───────────────────── █ shared ░ private, MiB ──
        4242 gunicorn          ███████████░░     60.0 / 12.0
      … 2 more, 2 exited copied 2.8 MiB
     ── call sites, by share ────── [g]roup [s]ort [/]filter ──
       SHARE      COPIED   MIB/S  CAUSE      CALL SITE
    ▸  53.2%    14.5 MiB     7.2  refcount   Catalog.r…og.py:212
       13.9%     3.8 MiB     1.9  gc         context  …ext.py:31
        8.8%     2.4 MiB     1.2  kernel     recv  socket.py:706
     ⏎ stack  w write report  ? help  q finish and report
    ");
}

#[test]
fn a_large_screen_has_a_row_s_stack_below_the_table() {
    let now = Instant::now();
    let mut state = state(shared(), now);
    state.press(Key::Enter, now);
    insta::assert_snapshot!(drawn(&mut state, (200, 50), now), @r"
     memtrace  0:10  pid 4242 gunicorn   4 of 6 processes                                                                                                                                     [space] pause
     27.2 MiB copied   13.6 MiB/s  █   75% only read   lost 0
     refcount 61% ██████████████████████████████████████████████████████████████████████▉ gc 16% ███████████████████▏ kernel 9% ███████████ data 7% ████████▋ object 3% ████▌ unknown 3% ████ allocator 2% █
     ── shared ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────── █ shared ░ private, MiB ──
        4242 gunicorn                          ████████████████████████████████████████████████████████████████████████████████████████████████████░░░░░░░░░░░░░░░░░░░░                      60.0 / 12.0
        4243 gunicorn: worke                   ████████████████████████████████████████████████████████████████████████████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░                  50.0 / 24.0
        4244 gunicorn: worke                   ███████████████████████████████████████████████████████████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░               40.0 / 36.0
        4247 report.py                     0 s █████████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░     10.0 / 72.0
      … 2 exited copied 2.8 MiB
     ── call sites, by share ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────── [g]roup [s]ort [/]filter ──
       SHARE      COPIED   MIB/S  CAUSE      CALL SITE
    ▸  53.2%    14.5 MiB     7.2  refcount   Catalog.render  catalog.py:212
       13.9%     3.8 MiB     1.9  gc         context  context.py:31
        8.8%     2.4 MiB     1.2  kernel     recv  socket.py:706
        6.1%     1.7 MiB     0.8  refcount   Catalog.render  catalog.py:219
        5.7%     1.6 MiB     0.8  data       std::_Hashtable<std::string, std::pair<std::string const, shop::pricing::Rule>,…ator<std::pair<std::string const, shop::pricing::Rule>>>::_M_insert_unique_node
        3.0%   840.0 KiB     0.4  object     Session.touch  sessions.py:47
        2.6%   720.0 KiB     0.4  unknown    libssl.so.3+0x4a1f0
        2.0%   560.0 KiB     0.3  gc         idle  gunicorn.conf.py:12
        1.9%   520.0 KiB     0.3  refcount   std::_Sp_counted_base<(__gnu_cxx::_Lock_policy)2>::_M_add_ref_copy
        1.7%   480.0 KiB     0.2  allocator  _PyObject_Free
        0.9%   256.0 KiB     0.1  data       _dl_relocate_object
        0.1%    36.0 KiB     0.0  refcount   evil\u{1b}[2J\u{202e}eman\nfunction  \u{7}.py:1

     ── Catalog.render  catalog.py:212 ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
             /srv/shop/app/catalog.py:212
             cause refcount; types str 67.5%, dict 21.3%, shop.models.Product 8.1%, tuple 3.1%; origin
             fork; in 4243, 4244, 4245
             latency min 1.10 µs  p50 2.09 µs  p90 2.91 µs  p99 3.10 µs  max  277 µs
             age     min 20.0 ms  p50  2.53 s  p90  5.22 s  p99  5.94 s  max  6.02 s
             stack:
                  unicode_hash               ./Objects/unicodeobject.c:11230
                  _PyEval_EvalFrameDefault   Python/ceval.c:4980
               py Catalog.render             /srv/shop/app/catalog.py:212
               py checkout                   /srv/shop/app/views.py:91
               py Flask.dispatch_request     /srv/shop/lib/flask/app.py:1484
                  _PyFunction_Vectorcall     Objects/call.c:393
                  _PyObject_Call             Objects/call.c:290
                  slot_tp_call               Objects/typeobject.c:7494
                  _PyObject_MakeTpCall       Objects/call.c:214
                  _PyEval_EvalFrameDefault   Python/ceval.c:4774
               py SyncWorker.handle_request  /srv/shop/lib/gunicorn/workers/sync.py:177
               py SyncWorker.run             /srv/shop/lib/gunicorn/workers/sync.py:130
                  _PyEval_Vector             Python/ceval.c:6435
                  Py_RunMain                 Modules/main.c:680
                  _start                     ../sysdeps/x86_64/start.S:115



     ↑↓ other row  PgUp PgDn scroll  ⏎ back  w write report  q finish and report
    ");
}

#[test]
fn on_a_tiny_screen_there_are_the_first_lines_alone() {
    let now = Instant::now();
    let mut state = state(sample_with_losses(), now);
    insta::assert_snapshot!(drawn(&mut state, (59, 11), now), @"
    memtrace  0:10  pid 4242 gunicorn   4 of 6 processes
    32.0 MiB copied   16.0 MiB/s    64% only read   lost 1,204
    refcount 52% █████▋ unknown 17% ██▌ gc 14% ██▎ kernel 7% █
    ");
    for size in [(1, 1), (2, 3), (10, 2), (60, 1), (300, 2)] {
        drawn(&mut state, size, now);
    }
}

#[test]
fn below_30_lines_a_row_takes_the_whole_screen() {
    let now = Instant::now();
    let mut state = state(shared(), now);
    state.press(Key::Enter, now);
    insta::assert_snapshot!(drawn(&mut state, (80, 24), now), @"
    ── Catalog.render  catalog.py:212 ────────────────────────────────────────────
            /srv/shop/app/catalog.py:212
            cause refcount; types str 67.5%, dict 21.3%, shop.models.Product 8.1%,
            tuple 3.1%; origin fork; in 4243, 4244, 4245
            latency min 1.10 µs  p50 2.09 µs  p90 2.91 µs  p99 3.10 µs  max  277 µs
            age     min 20.0 ms  p50  2.53 s  p90  5.22 s  p99  5.94 s  max  6.02 s
            stack:
                 unicode_hash               ./Objects/unicodeobject.c:11230
                 _PyEval_EvalFrameDefault   Python/ceval.c:4980
              py Catalog.render             /srv/shop/app/catalog.py:212
              py checkout                   /srv/shop/app/views.py:91
              py Flask.dispatch_request     /srv/shop/lib/flask/app.py:1484
                 _PyFunction_Vectorcall     Objects/call.c:393
                 _PyObject_Call             Objects/call.c:290
                 slot_tp_call               Objects/typeobject.c:7494
                 _PyObject_MakeTpCall       Objects/call.c:214
                 _PyEval_EvalFrameDefault   Python/ceval.c:4774
              py SyncWorker.handle_request  …/shop/lib/gunicorn/workers/sync.py:177
              py SyncWorker.run          /srv/shop/lib/gunicorn/workers/sync.py:130
                 _PyEval_Vector             Python/ceval.c:6435
                 Py_RunMain                 Modules/main.c:680
                 _start                     ../sysdeps/x86_64/start.S:115

    ↑↓ other row  PgUp PgDn scroll  ⏎ back  w write report  q finish and report
    ");
    // Farther than there are lines is the last page.
    state.pane = Pane::Row(1_000);
    let last = drawn(&mut state, (80, 24), now);
    assert_eq!(last.lines().count(), 24);
}

#[test]
fn help_fits_80_columns_and_24_lines() {
    let now = Instant::now();
    let mut state = state(shared(), now);
    state.press(Key::Char('?'), now);
    insta::assert_snapshot!(drawn(&mut state, (80, 24), now), @"
    memtrace --live: keys

     ↑ ↓ PgUp PgDn  move; Home and End: the first and the last row
     Enter          all about the row: causes, types, latency, age, the stack
     Esc            back; without anything to go back from: drop the filter

     g              rows: call site, function, object type, process, file, cause
     s  S           sort by the next column; the other way round
     /              only rows with this in their names
     r              shares of all that was copied, or of the last 3 seconds

     Space          freeze the picture, or go on; tracing goes on in any case
     z              count from now on in the view; the report has all
     w              write memtrace-PID-TIME.html and .json.gz; tracing goes on

     q  Ctrl-C      finish, and print the report
     Q              leave at once, without a report; so does Ctrl-C again
     Ctrl-Z         stop; until fg nothing is read, and much may be lost
     Ctrl-L         draw everything again

     refcount, gc   only read: a count or the collector's mark was written
     cause+         most of it has this cause, and some has others

    any key: back
    ");
}

#[test]
fn a_frozen_picture_says_for_how_long_and_what_was_copied_since() {
    let now = Instant::now();
    let mut state = state(shared(), now);
    state.press(Key::Char(' '), now);
    let before = drawn(&mut state, (80, 24), now);
    let mut more = shared();
    more.totals.copied_bytes += 3 << 20;
    more.call_sites[0].bytes += 3 << 20;
    let later = now + Duration::from_secs(5);
    state.update(Arc::new(more), later);
    let after = drawn(&mut state, (80, 24), later);
    let title = after.lines().next().unwrap();
    assert!(title.ends_with("paused 0:05, 3.0 MiB since"), "{title}");
    assert!(before.lines().skip(1).eq(after.lines().skip(1)), "{after}");
    state.press(Key::Char(' '), later);
    let on = drawn(&mut state, (80, 24), later);
    assert!(
        on.lines().next().unwrap().ends_with("[space] pause"),
        "{on}"
    );
}

#[test]
fn before_anything_is_known_it_says_so_at_every_size() {
    let now = Instant::now();
    for size in [(80, 24), (60, 12), (200, 50), (20, 3)] {
        let text = drawn(&mut State::new(By::Site), size, now);
        assert!(text.starts_with(" memtrace  waiting"), "{text}");
    }
}

#[test]
fn foreign_names_neither_act_on_the_terminal_nor_widen_a_line() {
    let now = Instant::now();
    let mut profile = shared();
    profile.processes[0].comm = "\u{1b}[2Jmaster\u{202e}".to_owned();
    for (site, nth) in profile.call_sites.iter_mut().zip(0..) {
        site.site.function = format!("\u{1b}]0;{nth}\u{7}{}", "日本語".repeat(60)).into();
    }
    let mut state = state(profile, now);
    for key in [Key::Redraw, Key::Enter] {
        state.press(key, now);
        for size in [(80, 24), (60, 12), (200, 50)] {
            let text = drawn(&mut state, size, now);
            assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text}");
        }
    }
}
