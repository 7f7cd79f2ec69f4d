use super::super::keys::Key;
use super::press::VIEWS;
use super::*;
use crate::profile::sample::sample;

fn state() -> State {
    let mut state = State::new(By::Site);
    state.update(Arc::new(sample()), Instant::now());
    state
}

fn press(state: &mut State, keys: &str) -> Asked {
    let mut asked = Asked::Nothing;
    for key in keys.chars() {
        asked = state.press(Key::Char(key), Instant::now());
    }
    asked
}

fn selected(state: &State) -> &Row {
    &state.rows[state.selected().unwrap()]
}

#[test]
fn the_selection_stays_with_its_row_however_rows_are_sorted() {
    let mut state = state();
    state.press(Key::Down, Instant::now());
    let row = selected(&state).clone();
    assert_ne!(row.id, state.rows[0].id);
    press(&mut state, "ssss");
    assert_eq!(selected(&state), &row);
    press(&mut state, "S");
    assert_eq!(selected(&state), &row);
    // Also when another row has overtaken it.
    let mut more = sample();
    more.call_sites.last_mut().unwrap().bytes += 1 << 30;
    state.update(Arc::new(more), Instant::now());
    assert_eq!(selected(&state).id, row.id);
}

#[test]
fn a_view_after_the_other_has_all_that_was_copied() {
    let mut state = state();
    let whole = sample().totals.copied_bytes;
    for view in VIEWS {
        assert_eq!(state.order.by, view);
        let sum: u64 = state.rows.iter().map(|row| row.copied).sum();
        assert_eq!(sum, whole, "{view:?}");
        press(&mut state, "g");
    }
    assert_eq!(state.order.by, By::Site);
    // One that is not in the row leads back into it.
    let mut state = State::new(By::App);
    press(&mut state, "g");
    assert_eq!(state.order.by, By::Site);
}

#[test]
fn rows_are_sorted_by_each_column_and_the_other_way_round() {
    let mut state = state();
    assert!(
        state
            .rows
            .is_sorted_by_key(|row| std::cmp::Reverse(row.copied))
    );
    press(&mut state, "S");
    assert!(state.rows.is_sorted_by_key(|row| row.copied));
    press(&mut state, "Ssss");
    assert!(state.rows.is_sorted_by_key(|row| row.cause.name()));
    press(&mut state, "s");
    assert!(state.rows.is_sorted_by_key(|row| row.name.clone()));
}

#[test]
fn a_filter_is_typed_kept_and_dropped() {
    let mut state = state();
    let all = state.rows.len();
    press(&mut state, "/CATALOGX");
    assert!(state.rows.is_empty() && state.is_typing);
    state.press(Key::Backspace, Instant::now());
    assert!(!state.rows.is_empty() && state.rows.len() < all);
    // What would be a key otherwise is a part of it.
    assert!(matches!(press(&mut state, "q"), Asked::Nothing));
    state.press(Key::Backspace, Instant::now());
    state.press(Key::Enter, Instant::now());
    assert!(!state.is_typing && state.rows.len() < all);
    state.press(Key::Escape, Instant::now());
    assert_eq!(state.rows.len(), all);
}

#[test]
fn what_is_zeroed_is_the_view_alone() {
    let mut state = state();
    press(&mut state, "z");
    assert_eq!(state.figures().copied, 0);
    assert!(state.rows.is_empty());
    let mut more = sample();
    more.totals.copied_bytes += 4096;
    more.call_sites[0].bytes += 4096;
    more.duration_s += 1.0;
    state.update(Arc::new(more), Instant::now());
    assert_eq!(state.figures().copied, 4096);
    assert_eq!(state.rows.len(), 1);
    let Asked::Write(profile) = press(&mut state, "w") else {
        panic!("nothing is written");
    };
    assert_eq!(
        profile.totals.copied_bytes,
        sample().totals.copied_bytes + 4096
    );
}

#[test]
fn rates_are_of_the_last_seconds() {
    let mut state = State::new(By::Site);
    let at = |seconds: f64, more: u64| {
        let mut profile = sample();
        profile.duration_s = seconds;
        profile.totals.copied_bytes += more;
        profile.call_sites[0].bytes += more;
        Arc::new(profile)
    };
    for second in 0..10_u32 {
        state.update(at(f64::from(second), 0), Instant::now());
    }
    assert!(state.rows.iter().all(|row| row.rate < 1.0));
    state.update(at(10.0, 3_000), Instant::now());
    // The last seconds are as many as there are.
    let rate = state.rows.iter().map(|row| row.rate).fold(0.0, f64::max);
    assert!((900.0..=1_000.0).contains(&rate), "{rate}");
    assert_eq!(state.curve(3), [0.0, 0.0, 3_000.0]);
    press(&mut state, "r");
    let share = state.part(&state.rows[0]) / state.whole();
    assert!(share > 0.99, "{share}");
    assert!(state.history.len() < 8, "{}", state.history.len());
}

#[test]
fn keys_that_end_it_are_told() {
    let mut state = state();
    assert!(matches!(press(&mut state, "q"), Asked::Finish));
    assert!(matches!(press(&mut state, "Q"), Asked::Leave));
    assert!(matches!(press(&mut state, "?q"), Asked::Finish));
    let mut nothing = State::new(By::Site);
    assert!(matches!(press(&mut nothing, "w"), Asked::Nothing));
    for key in [Key::Up, Key::Down, Key::Enter, Key::PageDown, Key::End] {
        nothing.press(key, Instant::now());
    }
    press(&mut nothing, "gsSrz /x");
}

#[test]
fn a_page_of_rows_always_has_the_selected_one() {
    let mut state = state();
    let rows = state.rows.len();
    for page in [1, 2, 3, rows, rows + 5] {
        for key in [
            Key::Home,
            Key::PageDown,
            Key::Down,
            Key::End,
            Key::Up,
            Key::PageUp,
        ] {
            state.press(key, Instant::now());
            state.scroll(page);
            let at = state.selected().unwrap();
            assert!(
                (state.first..state.first + page).contains(&at),
                "{page} {key:?}"
            );
        }
    }
}
