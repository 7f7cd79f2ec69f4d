use std::sync::Mutex;

use super::*;
use crate::made_up::run;
use crate::summarize::{Gathered, Moment, Progress};

/// Records what it is shown.
struct Noting {
    seen: Arc<Mutex<Vec<String>>>,
    interval: Duration,
    patience: Option<Duration>,
}

impl View for Noting {
    fn interval(&self) -> Duration {
        self.interval
    }

    fn patience(&self) -> Option<Duration> {
        self.patience
    }

    fn show(&mut self, profile: &Arc<Profile>) {
        let text = format!("{} s", profile.duration_s);
        self.seen.lock().unwrap().push(text);
    }

    fn clear(&mut self) {
        self.seen.lock().unwrap().push("cleared".to_owned());
    }
}

fn snapshot(seconds: u64) -> Snapshot {
    Snapshot {
        run: Arc::new(run()),
        gathered: Gathered::default(),
        progress: Progress {
            duration_ns: seconds * 1_000_000_000,
            ..Progress::default()
        },
        moment: Moment::Running,
    }
}

fn audience(interval: Duration) -> (Audience, Arc<Mutex<Vec<String>>>) {
    audience_of(interval, None)
}

fn audience_of(
    interval: Duration,
    patience: Option<Duration>,
) -> (Audience, Arc<Mutex<Vec<String>>>) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let view = Noting {
        seen: Arc::clone(&seen),
        interval,
        patience,
    };
    (Audience::new(vec![Box::new(view)]), seen)
}

#[test]
fn without_views_no_snapshot_is_taken() {
    let mut audience = Audience::new(Vec::new());
    assert!(!audience.is_waiting(true));
    audience.show(|| panic!("nobody watches"));
    audience.leave();
}

#[test]
fn views_are_shown_each_profile_and_cleared_at_the_end() {
    let (mut audience, seen) = audience(Duration::ZERO);
    for seconds in 1..=2 {
        while !audience.is_waiting(true) {
            std::thread::sleep(Duration::from_millis(1));
        }
        audience.show(|| snapshot(seconds));
    }
    audience.leave();
    assert_eq!(*seen.lock().unwrap(), ["1 s", "2 s", "cleared"]);
}

#[test]
fn a_view_is_not_shown_more_often_than_it_wants() {
    let (mut audience, _) = audience(Duration::from_secs(1000));
    assert!(audience.is_waiting(true), "the first one is due at once");
    audience.show(|| snapshot(1));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!audience.is_waiting(true));
    audience.leave();
}

#[test]
fn a_storm_is_shown_to_those_alone_whose_patience_ends() {
    let (patient, _) = audience(Duration::ZERO);
    let (impatient, _) = audience_of(Duration::ZERO, Some(Duration::from_millis(20)));
    assert!(patient.is_waiting(true) && impatient.is_waiting(true));
    assert!(!impatient.is_waiting(false), "not yet");
    std::thread::sleep(Duration::from_millis(30));
    assert!(impatient.is_waiting(false) && !patient.is_waiting(false));
    patient.leave();
    impatient.leave();
}
