use std::time::Duration;

use super::snapshot::made::Made;
use super::*;
use crate::cli::parse_from;
use crate::options::Task;

/// What a trace is asked for by these arguments.
fn asked(arguments: &[&str]) -> Options {
    match parse_from(arguments).unwrap() {
        Task::Trace(options) => *options,
        other => panic!("{other:?}"),
    }
}

/// What is chosen on a made machine by these arguments.
fn chosen_by(made: &Made, arguments: &[&str]) -> Result<Chosen, String> {
    let options = asked(&[&["memtrace"], arguments].concat());
    let named = options.trace.target.pids().to_vec();
    chosen(&made.snapshot(), &options, &named).map_err(|problems| problems.to_string())
}

fn pids(made: &Made, arguments: &[&str]) -> Vec<u32> {
    let chosen = chosen_by(made, arguments).unwrap();
    assert_eq!(chosen.remarks, [""; 0]);
    chosen.pids
}

fn refused(made: &Made, arguments: &[&str]) -> String {
    chosen_by(made, arguments).unwrap_err()
}

/// Two servers, one of which is a title, with workers; and a container with two processes.
fn machine() -> Made {
    let made = Made::new();
    made.process(
        600,
        1,
        "gunicorn",
        &["/usr/bin/python3", "/venv/bin/gunicorn", "shop:app"],
    );
    made.process(
        601,
        600,
        "gunicorn",
        &["/usr/bin/python3", "/venv/bin/gunicorn", "shop:app"],
    );
    made.process(602, 601, "sh", &["sh", "-c", "sleep 1"]);
    made.process(
        700,
        1,
        "gunicorn: maste",
        &["gunicorn: master [\x1b[31mblog]"],
    );
    made.process(701, 700, "gunicorn: worke", &["gunicorn: worker [blog]"]);
    made.process(702, 700, "gunicorn: worke", &["gunicorn: worker [blog]"]);
    made.process(800, 1, "worker.py", &["/usr/bin/python3", "worker.py"]);
    made.process(810, 1, "postgres", &["postgres"]);
    made.process(811, 810, "postgres", &["postgres: walwriter"]);
    for pid in [700, 701, 800] {
        made.file(pid, "cgroup", b"0::/system.slice/blog.service\n");
    }
    made.file(701, "status", b"NSpid:\t701\t7\n");
    made.file(700, "status", b"NSpid:\t700\t1\n");
    made.file(800, "status", b"NSpid:\t800\t1\n");
    made
}

#[test]
fn a_name_stands_for_the_root_of_a_tree() {
    let made = machine();
    assert_eq!(pids(&made, &["--name", "postgres"]), [810]);
    assert_eq!(pids(&made, &["--name", "worker.py"]), [800]);
    assert_eq!(pids(&made, &["--name", "sh"]), [602]);
    assert_eq!(
        pids(
            &made,
            &["-p", "77,810", "--name", "postgres", "--name", "sh"]
        ),
        [77, 810, 602]
    );
}

#[test]
fn several_trees_are_listed_and_not_traced() {
    let made = machine();
    insta::assert_snapshot!(refused(&made, &["--name", "gunicorn"]), @r"
    2 trees of processes are called gunicorn
      found:  these; needed: one
        600  started 2 h 46 min ago, 2 descendants: /usr/bin/python3 /venv/bin/gunicorn shop:app
        700  started 2 h 46 min ago, 2 descendants: gunicorn: master [\u{1b}[31mblog]
      effect: which one is meant is not known, so nothing is traced
      remedy: name one of them with --pid, or trace all of them with --all
    ");
    assert_eq!(pids(&made, &["--name", "gunicorn", "--all"]), [600, 700]);
    for pid in 1000..1030 {
        made.process(pid, 1, "many", &["many"]);
    }
    let text = refused(&made, &["--name", "many"]);
    assert!(
        text.contains("1019  started") && !text.contains("1020"),
        "{text}"
    );
    assert!(
        text.contains("and 10 more") && !text.contains("and 1 more"),
        "{text}"
    );
}

#[test]
fn a_name_that_nothing_has_is_refused_with_the_nearest() {
    let made = machine();
    insta::assert_snapshot!(refused(&made, &["--name", "gunicron"]), @"
    no process is called gunicron
      found:  none of 9, by the name of the process, of its program, or of the script or module that it runs; the nearest: gunicorn; needed: a running process
      effect: there is nothing to trace
      remedy: look it up with ps, and name it as it is called there, or with --pid
    ");
    insta::assert_snapshot!(refused(&made, &["--name", "bash"]), @"
    no process is called bash
      found:  none of 9, by the name of the process, of its program, or of the script or module that it runs; process 400 is, but it is memtrace's own, or has started it; needed: a running process
      effect: there is nothing to trace
      remedy: look it up with ps, and name it as it is called there, or with --pid
    ");
    let text = refused(&made, &["--name", "\x1b[2Jx"]);
    assert!(text.contains("is called \\u{1b}[2Jx"), "{text}");
    // All that is wrong is said at once.
    let text = refused(&made, &["--name", "no1", "--name", "no2"]);
    assert_eq!(text.matches("remedy:").count(), 2);
}

#[test]
fn a_control_group_stands_for_the_roots_in_it() {
    let made = machine();
    assert_eq!(pids(&made, &["--cgroup", "blog.service"]), [700, 800]);
    let all = ["--cgroup", "blog.service", "--no-follow"];
    assert_eq!(pids(&made, &all), [700, 701, 800]);
    insta::assert_snapshot!(refused(&made, &["--cgroup", "/system.slice/bl"]), @"
    no process is in control group /system.slice/bl
      found:  it is in no /proc/PID/cgroup of 9 processes; needed: a group with a process that memtrace does not descend from
      effect: there is nothing to trace
      remedy: look its path up in /proc/PID/cgroup, or with systemd-cgls; a container is found by its id (docker ps)
    ");
    made.file(810, "cgroup", b"0::/user.slice/blog.service\n");
    insta::assert_snapshot!(refused(&made, &["--cgroup", "blog.service"]), @"
    2 control groups are called blog.service
      found:  these; needed: one
        /system.slice/blog.service
        /user.slice/blog.service
      effect: which one is meant is not known, so nothing is traced
      remedy: give the whole path of one of them
    ");
}

#[test]
fn names_and_pids_are_looked_for_in_the_control_group() {
    let made = machine();
    let group = ["--cgroup", "blog.service"];
    let of_group = |more: &[&str]| chosen_by(&made, &[&group, more].concat());
    assert_eq!(of_group(&["--name", "gunicorn"]).unwrap().pids, [700]);
    assert_eq!(of_group(&["--pid", "701"]).unwrap().pids, [701]);
    let inside = of_group(&["--pid", "7"]).unwrap();
    assert_eq!(inside.pids, [701]);
    assert_eq!(
        inside.remarks,
        ["process 7 of that control group is process 701 here"]
    );
    insta::assert_snapshot!(of_group(&["--pid", "600"]).unwrap_err(), @"
    there is no process 600 in control group /system.slice/blog.service
      found:  3 processes, none of which has that pid, here or inside of its container; needed: one that has
      effect: there is nothing to trace; it may have ended already
      remedy: leave out --pid to trace all of the group, or --cgroup to name a process that is not in it
    ");
    insta::assert_snapshot!(of_group(&["--pid", "1"]).unwrap_err(), @r"
    2 processes of control group /system.slice/blog.service have the pid 1
      found:  these; needed: one
        700  started 2 h 46 min ago, 2 descendants: gunicorn: master [\u{1b}[31mblog]
        800  started 2 h 46 min ago, 0 descendants: /usr/bin/python3 worker.py
      effect: which one is meant is not known, so nothing is traced
      remedy: give the pid that it has here
    ");
    insta::assert_snapshot!(of_group(&["--name", "sh"]).unwrap_err(), @"
    no process of control group /system.slice/blog.service is called sh
      found:  none of 3, by the name of the process, of its program, or of the script or module that it runs; needed: a running process
      effect: there is nothing to trace
      remedy: look it up with ps, and name it as it is called there, or with --pid
    ");
}

#[test]
fn what_needs_no_choice_is_left_as_it_is() {
    for arguments in [&["memtrace", "-p", "3,4"][..], &["memtrace", "--", "true"]] {
        let options = asked(arguments);
        let made = made(&options).unwrap();
        assert_eq!(made.trace.target, options.trace.target);
    }
}

#[test]
fn times_are_said_in_two_units() {
    let said = [0, 59, 60, 3599, 3600, 86_399, 86_400, 1_000_000].map(ago_in_words);
    let expected = [
        "0 s",
        "59 s",
        "1 min",
        "59 min",
        "1 h 0 min",
        "23 h 59 min",
        "1 d 0 h",
        "11 d 13 h",
    ];
    assert_eq!(said, expected);
    assert!(Duration::from_secs(uptime(Path::new("/proc")).unwrap()) > Duration::ZERO);
}
