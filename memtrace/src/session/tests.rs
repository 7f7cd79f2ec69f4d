use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use memtrace_common::process::Health;
use memtrace_common::record::Origin;

use super::drain::Ended;
use super::source::Drained;
use super::*;
use crate::collect::Event;
use crate::made_up::Fate::{self, Arrives};
use crate::made_up::{MadeUp, run};
use crate::profile::sums;

/// The made-up BPF side, which the test goes on to use while the session reads.
#[derive(Clone)]
struct Shared(Rc<RefCell<MadeUp>>, Rc<Cell<Option<Ended>>>);

impl Source for Shared {
    fn drain(&mut self, limit: usize, take: impl FnMut(Event)) -> Drained {
        let records = self.0.borrow_mut().drain(limit, take);
        Drained {
            records,
            all_until: (records < limit).then(Instant::now),
        }
    }

    fn look(&mut self) {}

    async fn ready(&mut self) -> io::Result<()> {
        // Nobody wakes the session: it looks by itself.
        std::future::pending().await
    }

    fn health(&self) -> Health {
        self.0.borrow().health
    }

    fn undecodable(&self) -> u64 {
        0
    }

    fn stop(&mut self, why: Why) {
        let at_ns = clock::monotonic_ns();
        self.1.set(Some(Ended { why, at_ns }));
    }

    fn ended(&self) -> Option<Ended> {
        self.1.get().filter(|_| self.0.borrow().ring.is_empty())
    }
}

/// Runs `test` with a session, and with the BPF side that it reads from.
fn with_session<F: Future<Output = ()>>(test: impl FnOnce(Session<Shared>, Shared) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let kernel = Shared(Rc::new(RefCell::new(MadeUp::new())), Rc::default());
        let intake = kernel.0.borrow().intake();
        let ending = Ending::new().unwrap();
        let session = Session::new(kernel.clone(), intake, ending, run());
        test(session, kernel).await;
    });
}

#[test]
fn a_trace_ends_with_its_last_process() {
    with_session(|mut session, kernel| async move {
        let slot = kernel.0.borrow_mut().fork(None, Arrives);
        assert_eq!(session.next().await.unwrap(), Step::Tick);
        kernel.0.borrow_mut().exit(slot, Arrives);
        let step = session.next().await.unwrap();
        assert_eq!(step, Step::Ended(Why::NoProcess));
        let profile = session.finish(Why::NoProcess).await.unwrap().profile();
        assert_eq!(profile.processes.len(), 1);
        assert!(profile.processes[0].exited_at_s.is_some());
    });
}

#[test]
fn a_snapshot_can_be_taken_while_records_are_on_their_way() {
    with_session(|mut session, kernel| async move {
        let slot = {
            let mut kernel = kernel.0.borrow_mut();
            let slot = kernel.fork(None, Arrives);
            kernel.copy(slot, Origin::Fork, 2, [Arrives; 2]);
            slot
        };
        session.next().await.unwrap();
        session.intake.name_all_stacks();
        kernel
            .0
            .borrow_mut()
            .copy(slot, Origin::File, 3, [Arrives; 2]);
        let snapshot = session.snapshot();
        // Made on another thread, as for a view.
        let profile = std::thread::spawn(move || snapshot.profile())
            .join()
            .unwrap();
        sums::check(&profile).unwrap();
        assert_eq!(profile.totals.copied_pages, 2);
        assert_eq!(profile.totals.pending, 1);
        assert_eq!(profile.totals.lost.faults, 0);

        let profile = session.finish(Why::Interrupted).await.unwrap().profile();
        sums::check(&profile).unwrap();
        assert_eq!(
            (profile.totals.copied_pages, profile.totals.pending),
            (2, 0)
        );
    });
}

#[test]
fn processes_whose_announcement_was_lost_are_found_at_the_end() {
    with_session(|session, kernel| async move {
        {
            let mut kernel = kernel.0.borrow_mut();
            let first = kernel.fork(None, Arrives);
            let second = kernel.fork(Some(first), Fate::Lost);
            kernel.exit(second, Fate::Lost);
        }
        let profile = session.finish(Why::Duration).await.unwrap().profile();
        assert_eq!(profile.processes.len(), 2);
        assert!(profile.processes[1].exited_at_s.is_some());
        assert!(
            profile
                .warnings
                .iter()
                .any(|warning| warning.contains("2 notices"))
        );
    });
}

#[test]
fn a_busy_session_is_not_calm() {
    with_session(|mut session, kernel| async move {
        let slot = kernel.0.borrow_mut().fork(None, Arrives);
        session.next().await.unwrap();
        assert!(session.is_calm());
        for _ in 0..=CALM {
            kernel
                .0
                .borrow_mut()
                .copy(slot, Origin::Fork, 2, [Arrives; 2]);
        }
        session.next().await.unwrap();
        assert!(!session.is_calm());
    });
}

#[test]
fn a_command_that_was_held_back_begins_when_it_is_let_go() {
    with_session(|mut session, kernel| async move {
        for _ in 0..2 {
            kernel.0.borrow_mut().fork(None, Arrives);
        }
        session.drain();
        let processes = &mut session.intake.targets.processes;
        let before = processes.get(0).times.started_ns;
        let pid = processes.get(1).pid;
        processes.begins_now(pid, before + 7_000_000_000);
        processes.begins_now(pid + 1, before + 9_000_000_000);
        assert_eq!(processes.get(0).times.started_ns, before);
        let started_ns = processes.get(1).times.started_ns;
        assert_eq!(started_ns, before + 7_000_000_000);
    });
}

#[test]
fn a_trace_ends_however_many_records_are_left() {
    with_session(|session, kernel| async move {
        {
            let mut kernel = kernel.0.borrow_mut();
            let slot = kernel.fork(None, Arrives);
            for _ in 0..3 * BATCH {
                kernel.copy(slot, Origin::Fork, 2, [Arrives; 2]);
            }
        }
        let end = tokio::time::timeout(Duration::from_secs(20), session.finish(Why::Duration));
        let profile = end.await.expect("it ends").unwrap().profile();
        assert_eq!(profile.totals.copied_pages, 3 * BATCH as u64);
        assert_eq!(profile.totals.lost.faults, 0);
    });
}
