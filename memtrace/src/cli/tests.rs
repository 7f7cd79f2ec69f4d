use std::path::Path;

use super::reports::stdout;
use super::*;
use crate::options::{
    By, Color, DiffFormat, DiffOptions, DiffOutput, FileReport, Format, Frames, ReportOptions,
    TextOptions,
};

fn parsed(args: &[&str]) -> Options {
    match parse_from([&["memtrace"], args].concat()).unwrap() {
        Task::Trace(options) => *options,
        other => panic!("{other:?}"),
    }
}

/// The message, without the usage and the hints below it. Exit status 2 is asserted on the way.
fn refused(args: &[&str]) -> String {
    let error = parse_from([&["memtrace"], args].concat()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    text.split("\n\n").next().unwrap().trim_end().to_owned()
}

fn words(command: &[&str]) -> Vec<OsString> {
    command.iter().map(Into::into).collect()
}

#[test]
fn clap_finds_no_fault_with_the_definition() {
    Cli::command().debug_assert();
}

#[test]
fn pids_come_from_commas_white_space_and_repetition_each_once() {
    let options = parsed(&["-p", "3,1", "--pid", "2\n3\n", "-p1"]);
    assert_eq!(
        options.trace.target,
        Target::Attach {
            pids: vec![3, 1, 2],
            load: None
        }
    );
    assert!(options.trace.follow);
}

#[test]
fn a_command_is_the_load_with_a_pid_and_the_target_without() {
    let options = parsed(&["-p", "1", "--", "wrk", "-d", "10"]);
    assert_eq!(
        options.trace.target,
        Target::Attach {
            pids: vec![1],
            load: Some(words(&["wrk", "-d", "10"]))
        }
    );
    let options = parsed(&["--no-follow", "--", "wrk", "--pid", "7"]);
    assert_eq!(
        options.trace.target,
        Target::Launch {
            command: words(&["wrk", "--pid", "7"])
        }
    );
    assert!(!options.trace.follow);
}

#[test]
fn processes_are_chosen_by_name_and_control_group() {
    let options = parsed(&[
        "--name",
        "gunicorn",
        "--name=-x",
        "--all",
        "-p7",
        "--",
        "wrk",
    ]);
    let load = Some(words(&["wrk"]));
    assert_eq!(
        options.trace.target,
        Target::Attach {
            pids: vec![7],
            load
        }
    );
    let names = words(&["gunicorn", "-x"]);
    let expected = Choice {
        names,
        cgroup: None,
        all: true,
    };
    assert_eq!(options.choice, expected);
    let options = parsed(&["--cgroup", "/system.slice"]);
    let nothing = Target::Attach {
        pids: Vec::new(),
        load: None,
    };
    assert_eq!(options.trace.target, nothing);
    assert_eq!(options.choice.cgroup, Some("/system.slice".into()));
    assert_eq!(parsed(&["-p1"]).choice, Choice::default());
}

#[test]
fn defaults_are_those_of_the_help() {
    let options = parsed(&["-p", "1"]);
    assert_eq!(options.trace.duration, None);
    assert_eq!(options.output.files, []);
    assert_eq!(options.output.stdout, Format::TEXT);
    assert_eq!(
        options.output.text,
        TextOptions {
            by: By::Site,
            top: 20
        }
    );
    assert_eq!(options.trace.backend, Backend::Auto);
    assert_eq!(options.trace.unwind, Unwind::Auto);
    assert_eq!(options.verbosity, 0);
}

#[test]
fn every_option_arrives() {
    let options = parsed(&[
        "-p1",
        "-d",
        "1m 30s",
        "-f",
        "json",
        "--by",
        "file",
        "--top",
        "3",
        "--unwind",
        "off",
        "--backend",
        "tracepoint",
        "-vv",
        "-o",
        "a.JSON",
        "-o",
        "-",
        "-o",
        "b.txt",
        "-o",
        "b.txt",
    ]);
    assert_eq!(options.trace.duration, Some(Duration::from_secs(90)));
    assert_eq!(options.output.stdout, Format::JSON);
    assert_eq!(
        options.output.text,
        TextOptions {
            by: By::File,
            top: 3
        }
    );
    assert_eq!(options.trace.unwind, Unwind::Off);
    assert_eq!(options.trace.backend, Backend::Tracepoint);
    assert_eq!(options.verbosity, 2);
    assert_eq!(
        options.output.files,
        [
            FileReport {
                path: "a.JSON".into(),
                format: Format::JSON
            },
            FileReport {
                path: "b.txt".into(),
                format: Format::TEXT
            },
        ]
    );
    assert_eq!(
        parsed(&["-p1", "--unwind", "fp"]).trace.unwind,
        Unwind::FramePointers
    );
    assert_eq!(
        parsed(&["-p1", "--unwind", "dwarf"]).trace.unwind,
        Unwind::Dwarf
    );
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    insta::assert_snapshot!(refused(&[]), @"error: there is nothing to trace; name a running process with --pid PID or --name NAME, or a program to start after --: memtrace -- COMMAND");
    insta::assert_snapshot!(refused(&["--", ""]), @"error: the COMMAND after -- is empty; name a program to run");
    insta::assert_snapshot!(refused(&["--name", ""]), @"error: the NAME after --name is empty; give that of a program, such as gunicorn");
    insta::assert_snapshot!(refused(&["--cgroup", ""]), @"error: the PATH after --cgroup is empty; give that of a control group, such as gunicorn.service");
    assert!(refused(&["-p1", "--all"]).contains("--name <NAME>"));
    insta::assert_snapshot!(refused(&["-p", "x"]), @"error: invalid value 'x' for '--pid <PID>': 'x' is not a process id, a number such as 4242");
    insta::assert_snapshot!(refused(&["-p", "0"]), @"error: invalid value '0' for '--pid <PID>': 0 is no process that can be traced; it stands for the idle CPU");
    insta::assert_snapshot!(refused(&["-p", "-1"]), @"error: invalid value '-1' for '--pid <PID>': '-1' is not a process id, a number such as 4242");
    insta::assert_snapshot!(refused(&["-p", "4294967295"]), @"error: invalid value '4294967295' for '--pid <PID>': '4294967295' is not a process id, a number such as 4242");
    insta::assert_snapshot!(refused(&["-p", "\x1b[31m"]), @r"error: invalid value '' for '--pid <PID>': '\u{1b}[31m' is not a process id, a number such as 4242");
    insta::assert_snapshot!(refused(&["-p", ""]), @"error: invalid value '' for '--pid <PID>': no process id in it; did the command that should print it find nothing?");
    insta::assert_snapshot!(refused(&["-p1", "-d", "0"]), @"error: invalid value '0' for '--duration <TIME>': a trace of no time sees nothing; give more than 0");
    insta::assert_snapshot!(refused(&["-p1", "-d", "0s"]), @"error: invalid value '0s' for '--duration <TIME>': a trace of no time sees nothing; give more than 0");
    insta::assert_snapshot!(refused(&["-p1", "-d", "30"]), @"error: invalid value '30' for '--duration <TIME>': it has no unit; for seconds write 30s");
    insta::assert_snapshot!(refused(&["-p1", "-d", "soon"]), @r#"error: invalid value 'soon' for '--duration <TIME>': it is not a time such as 500ms, 30s, 5m or "1m 30s""#);
    insta::assert_snapshot!(refused(&["-p1", "-d", "2y"]), @"error: invalid value '2y' for '--duration <TIME>': a trace lasts a year at most");
    insta::assert_snapshot!(refused(&["-p1", "-o", "out"]), @"error: cannot write a report to 'out': its name has no extension, which says the report's format; supported are .firefox.json (stacks, and causes over time), .folded (a stack a line, and its pages), .hlog (latencies and ages by cause), .html (one page for a browser, with a flame graph), .json (schema memtrace/1), .json.gz (the same, compressed by gzip), .pb.gz (pprof, compressed by gzip), .prom (totals, in the text format), .speedscope.json (stacks by bytes and by pages), .svg (a flame graph by cause) and .txt");
    insta::assert_snapshot!(refused(&["-p1", "-o", "flame.png"]), @"error: cannot write a report to 'flame.png': '.png' is not a report format of this version; supported are .firefox.json (stacks, and causes over time), .folded (a stack a line, and its pages), .hlog (latencies and ages by cause), .html (one page for a browser, with a flame graph), .json (schema memtrace/1), .json.gz (the same, compressed by gzip), .pb.gz (pprof, compressed by gzip), .prom (totals, in the text format), .speedscope.json (stacks by bytes and by pages), .svg (a flame graph by cause) and .txt");
    insta::assert_snapshot!(refused(&["-p1", "--top", "0"]), @"error: invalid value '0' for '--top <N>': a table has at least one row; give 1 or more");
    insta::assert_snapshot!(refused(&["-p1", "--top", "-1"]), @"error: invalid value '-1' for '--top <N>': it is not a number of rows, such as 50");
    insta::assert_snapshot!(refused(&["-p1", "--top", "many"]), @"error: invalid value 'many' for '--top <N>': it is not a number of rows, such as 50");
    insta::assert_snapshot!(refused(&["-p1", "-d", "-5s"]), @"error: invalid value '-5s' for '--duration <TIME>': a trace cannot end before it begins; for that time write 5s");
    insta::assert_snapshot!(refused(&["-d", "-p1"]), @"error: invalid value '-p1' for '--duration <TIME>': it is another option; give a time such as 30s before that");
    insta::assert_snapshot!(refused(&["-p1", "--backend", "fentry"]), @"error: this version of memtrace has no fentry backend; use --backend tracepoint, or auto, which takes the best there is");
    insta::assert_snapshot!(refused(&["-p1", "--by", "weight"]), @"
    error: invalid value 'weight' for '--by <BY>'
      [possible values: site, app, function, stack, type, process, file, cause]
    ");
    insta::assert_snapshot!(refused(&["ls"]), @"error: unexpected argument 'ls' found");
}

#[test]
fn a_terminal_is_not_given_what_it_cannot_show() {
    let mut binary = Format::TEXT;
    (binary.name, binary.extension, binary.is_binary) = ("raw", "raw", true);
    insta::assert_snapshot!(stdout(binary, true).unwrap_err(), @"a raw report is not text, so a terminal cannot show it; redirect standard output to a file, or name one: -o FILE.raw");
    assert_eq!(stdout(binary, false), Ok(binary));
    insta::assert_snapshot!(stdout(Format::JSON_GZ, true).unwrap_err(), @"a json.gz report is not text, so a terminal cannot show it; redirect standard output to a file, or name one: -o FILE.json.gz");
    for &format in Format::ALL.iter().filter(|format| !format.is_binary) {
        assert_eq!(stdout(format, true), Ok(format));
    }
}

#[test]
fn help_names_every_value_and_what_it_means() {
    let error = parse_from(["memtrace", "--help"]).unwrap_err();
    let help = error.to_string();
    for format in Format::ALL {
        assert!(
            help.contains(&format.with_dot()),
            "no {} in the help",
            format.name
        );
    }
    for part in [
        "-o, --output <FILE>",
        "- svg:        For a picture: a flame graph by cause",
        "--frames <FRAMES>",
        "- json:       For programs: schema memtrace/1",
        "--by <BY>",
        "- file:     The source file, or the program or library",
        "--unwind <MODE>",
        "- fp:    Follow frame pointers only",
        "--python <MODE>",
        "- tracepoint: Tracepoints and software events",
        "Log progress; -vv also logs the BPF side",
    ] {
        assert!(help.contains(part), "no {part:?} in the help");
    }
}

#[test]
fn help_teaches_by_example() {
    let error = parse_from(["memtrace", "--help"]).unwrap_err();
    assert_eq!(error.exit_code(), 0);
    let help = error.to_string();
    for part in [
        "Examples:",
        "sudo memtrace --name",
        "-o profile.json -- wrk",
        "Exit status:",
    ] {
        assert!(help.contains(part), "no {part:?} in the help");
    }
    // What this version refuses is not offered.
    assert!(!help.contains("fentry") && !help.contains("kprobe"));
}

fn compared(args: &[&str]) -> DiffOptions {
    match parse_from([&["memtrace", "diff"], args].concat()).unwrap() {
        Task::Diff(options) => options,
        other => panic!("{other:?}"),
    }
}

#[test]
fn diff_compares_two_reports() {
    let options = compared(&["a.json", "b.json.gz"]);
    assert_eq!(options.base, Path::new("a.json"));
    assert_eq!(options.new, Path::new("b.json.gz"));
    assert_eq!(
        options.output,
        DiffOutput {
            files: Vec::new(),
            stdout: DiffFormat::Text,
            color: Color::Auto,
            top: 20
        }
    );
    assert_eq!(options.gate, None);
    let options = compared(&[
        "--fail-over",
        "+10%:copy-on-read",
        "-f",
        "json",
        "-o",
        "d.txt",
        "-o",
        "-",
        "-o",
        "d.JSON",
        "-o",
        "d.txt",
        "--top",
        "3",
        "a",
        "--",
        "-b",
    ]);
    assert_eq!(options.new, Path::new("-b"));
    assert_eq!(
        options.output,
        DiffOutput {
            files: vec![
                ("d.txt".into(), DiffFormat::Text),
                ("d.JSON".into(), DiffFormat::Json)
            ],
            stdout: DiffFormat::Json,
            color: Color::Auto,
            top: 3
        }
    );
    assert_eq!(options.gate, Some("+10%:copy-on-read".parse().unwrap()));
}

#[test]
fn a_command_may_be_called_like_a_task() {
    for command in ["diff", "report", "help"] {
        let options = parsed(&["--", command, "a", "b"]);
        let command = words(&[command, "a", "b"]);
        assert_eq!(options.trace.target, Target::Launch { command });
    }
    let options = parsed(&["-p1", "--", "diff"]);
    assert_eq!(
        options.trace.target,
        Target::Attach {
            pids: vec![1],
            load: Some(words(&["diff"]))
        }
    );
}

#[test]
fn a_saved_report_is_shown_as_a_trace_is() {
    let shown = |args: &[&str]| -> ReportOptions {
        match parse_from([&["memtrace", "report"], args].concat()).unwrap() {
            Task::Report(options) => options,
            other => panic!("{other:?}"),
        }
    };
    let options = shown(&["a.json.gz"]);
    assert_eq!(options.file, Path::new("a.json.gz"));
    assert_eq!(options.output, parsed(&["-p1"]).output);
    assert_eq!(options.output.frames, Frames::Python);
    let options = shown(&["-f", "folded", "a.json", "--frames", "mixed", "-o", "b.svg"]);
    assert_eq!(options.output.stdout.name, "folded");
    assert_eq!(options.output.frames, Frames::Mixed);
    assert_eq!(options.output.files[0].format.name, "svg");
    insta::assert_snapshot!(refused(&["report"]), @r"
    error: the following required arguments were not provided:
      <FILE>...
    ");
    insta::assert_snapshot!(refused(&["report", "a.json", "b.json"]), @"error: 2 reports cannot be shown as one: this version of memtrace does not merge reports yet; give one FILE, or compare two with memtrace diff");
    insta::assert_snapshot!(refused(&["report", "a.json", "--frames", "all"]), @r"
    error: invalid value 'all' for '--frames <FRAMES>'
      [possible values: mixed, python, site]
    ");
    insta::assert_snapshot!(refused(&["report", "a.json", "-p1"]), @"error: unexpected argument '-p' found");
}

#[test]
fn a_limit_of_a_trace_arrives() {
    assert_eq!(parsed(&["-p1"]).gate, None);
    let options = parsed(&["-p1", "--fail-over", "10MiB/worker"]);
    assert_eq!(options.gate, Some("10MiB/worker".parse().unwrap()));
}

#[test]
fn what_is_wrong_with_a_task_is_said_with_what_to_do() {
    insta::assert_snapshot!(refused(&["4242"]), @"error: unexpected argument '4242' found");
    insta::assert_snapshot!(refused(&["-d", "3s", "4242"]), @"error: unexpected argument '4242' found");
    insta::assert_snapshot!(refused(&["dif", "a", "b"]), @"error: unexpected argument 'dif' found");
    insta::assert_snapshot!(refused(&["-p1", "diff", "a", "b"]), @"error: unexpected argument 'diff' found");
    insta::assert_snapshot!(refused(&["diff", "a"]), @"
    error: the following required arguments were not provided:
      <NEW>
    ");
    insta::assert_snapshot!(refused(&["diff", "a", "b", "c"]), @"error: unexpected argument 'c' found");
    insta::assert_snapshot!(refused(&["diff", "a", "b", "-o", "c.svg"]), @"error: cannot write a comparison to 'c.svg': its name says the format, and ends with .txt or .json (schema memtrace-diff/1)");
    insta::assert_snapshot!(refused(&["diff", "a", "b", "--fail-over", "10%"]), @"error: invalid value '10%' for '--fail-over <LIMIT>': a comparison is held against how much more was copied, so it begins with +, as +10%");
    insta::assert_snapshot!(refused(&["diff", "a", "b", "--top", "0"]), @"error: invalid value '0' for '--top <N>': a table has at least one row; give 1 or more");
    insta::assert_snapshot!(refused(&["-p1", "--fail-over", "lots"]), @"error: invalid value 'lots' for '--fail-over <LIMIT>': it is not a size such as 512KiB, 10MiB or 1.5GB");
    insta::assert_snapshot!(refused(&["-p1", "--fail-over", "-1MiB"]), @"error: invalid value '-1MiB' for '--fail-over <LIMIT>': it is not a size such as 512KiB, 10MiB or 1.5GB");
}

#[test]
fn a_process_id_alone_gets_the_option_that_it_needs() {
    for args in [&["memtrace", "4242"][..], &["memtrace", "-d", "3s", "4242"]] {
        let text = parse_from(args.iter()).unwrap_err().to_string();
        assert!(
            text.contains("to trace process 4242, use --pid 4242"),
            "{text}"
        );
    }
}

#[test]
fn help_lists_the_tasks_and_each_has_its_own() {
    let help = |args: &[&str]| {
        let error = parse_from([&["memtrace"], args].concat()).unwrap_err();
        assert_eq!(error.exit_code(), 0);
        error.to_string()
    };
    let all = help(&["--help"]);
    for part in [
        "Compare two saved reports",
        "memtrace diff [OPTIONS] BASE NEW",
        "memtrace report [OPTIONS] FILE",
        "1 over the limit",
    ] {
        assert!(all.contains(part), "no {part:?} in {all}");
    }
    assert!(help(&["-h"]).contains("Compare two saved reports"));
    for args in [&["help", "diff"][..], &["diff", "--help"], &["diff", "-h"]] {
        let help = help(args);
        for part in [
            "<BASE>",
            "--fail-over <LIMIT>",
            "Exit status: 0 done, 1 over the limit",
        ] {
            assert!(help.contains(part), "no {part:?} in {help}");
        }
    }
}

#[test]
fn command_may_run_as_somebody_else_and_its_status_be_passed_on() {
    let options = parsed(&["--user", "root", "--exit-code", "command", "--", "true"]);
    assert_eq!(
        options.trace.user.map(|user| user.name),
        Some("root".into())
    );
    assert!(options.exit_as_command);
    assert!(refused(&["--user", "no-such-user", "--", "true"]).contains("no user"));
    assert!(refused(&["--user", "root", "-p", "1"]).contains("COMMAND"));
}

#[test]
fn a_delay_is_for_what_runs_already() {
    let options = parsed(&["-p", "1", "--delay", "2s"]);
    assert_eq!(options.delay, Some(Duration::from_secs(2)));
    insta::assert_snapshot!(refused(&["--delay", "2s", "--", "true"]), @"error: --delay is for running processes; to trace COMMAND later, start it, and name it with --pid");
}

#[test]
fn how_often_memory_is_looked_at_is_a_time_or_none() {
    let every = |options: Options| options.trace.memory.map(|memory| memory.interval);
    let sample = |text| every(parsed(&["-p", "1", "--sample", text]));
    assert_eq!(every(parsed(&["-p", "1"])), Some(Duration::from_secs(1)));
    assert_eq!(sample("250ms"), Some(Duration::from_millis(250)));
    assert_eq!(sample("0"), Some(Duration::ZERO));
    assert_eq!(sample("off"), None);
    insta::assert_snapshot!(refused(&["-p", "1", "--sample", "1ms"]), @"error: --sample 1ms is shorter than 10 ms, which no reading of memory can keep up with; give a longer time, 0 for at the start and end alone, or off");
    insta::assert_snapshot!(refused(&["-p", "1", "--sample", "5"]), @"error: --sample 5: it has no unit; for seconds write 5s; 0 and off are possible, too");
    insta::assert_snapshot!(refused(&["-p", "1", "--sample", "-1s"]), @"error: --sample -1s is not a time; give one such as 1s, or 0, or off");
    insta::assert_snapshot!(refused(&["-p", "1", "--sample", "off", "--cache"]), @"error: --cache needs looks at memory; leave out --sample off");
}

#[test]
fn quiet_and_verbose_are_not_both_meant() {
    assert!(parsed(&["-p", "1", "-q"]).trace.talk == Talk::Warnings);
    assert!(refused(&["-p", "1", "-q", "-v"]).contains("cannot be used with"));
    assert!(!parsed(&["-p", "1", "--no-cmdline"]).trace.arguments);
}
