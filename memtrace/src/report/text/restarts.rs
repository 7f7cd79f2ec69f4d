//! What to do where a trace began late: how the servers that are recognised fork a worker, which is
//! then traced from its first fault.
//!
//! All of them were watched doing what is said of them. Where a server can replace one worker,
//! that is said, since a reload of all costs more: Puma and PHP-FPM then load the application anew, in
//! which case nothing is shared with what the trace began with, and gunicorn and Unicorn keep one that
//! was preloaded.

use crate::profile::{Process, Profile};

/// A server with a master that forks workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Gunicorn,
    Unicorn,
    Puma,
    Uwsgi,
    Celery,
    PhpFpm,
    Postgres,
    Apache,
}

impl Server {
    /// By the name of a program, a script, or a title that the server gives itself.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "gunicorn" => Self::Gunicorn,
            "unicorn" | "unicorn_rails" => Self::Unicorn,
            "puma" => Self::Puma,
            "uwsgi" | "uWSGI" => Self::Uwsgi,
            "celery" | "celeryd" => Self::Celery,
            "postgres" | "postmaster" => Self::Postgres,
            "apache2" | "httpd" => Self::Apache,
            _ if is_php_fpm(name) => Self::PhpFpm,
            _ => return None,
        })
    }

    /// The server whose master a process is, if it has workers: by its title or program, by the
    /// script or module that it runs, or by what the kernel calls it.
    fn of(master: &Process) -> Option<Self> {
        let arguments = &master.cmdline;
        let title = arguments.first().map_or("", String::as_str);
        let script = arguments.iter().skip(1).find(|it| !it.starts_with('-'));
        let is_python = base(title).starts_with("python");
        let script = script.filter(|_| is_python || base(title).starts_with("ruby"));
        let names = [Some(base(title)), Some(first_word(title))];
        let names = names.into_iter().chain([script.map(|script| base(script))]);
        let names = names.chain([Some(first_word(&master.comm))]);
        names.flatten().find_map(Self::named)
    }

    /// How a worker is forked: `master` is the server's, `worker` one of those that it has.
    fn fork_one(self, master: u32, worker: u32) -> String {
        // Of these it is the oldest worker, or the youngest, that goes.
        let one_more = |name: &str| {
            format!(
                "`kill -TTIN {master}` makes {name} fork one more worker, which is traced (`kill -TTOU \
                 {master}` makes it one fewer again)"
            )
        };
        match self {
            Self::Gunicorn => one_more("gunicorn"),
            Self::Unicorn => one_more("Unicorn"),
            Self::Puma => one_more("Puma"),
            Self::Uwsgi => format!(
                "`kill -HUP {worker}` ends one worker after its request, and uWSGI's master forks \
                 another, which is traced"
            ),
            Self::Celery => format!(
                "`kill -TERM {worker}` ends one process of celery's pool, with the task that it has, \
                 and celery forks another, which is traced"
            ),
            Self::PhpFpm => format!(
                "`kill -QUIT {worker}` ends one worker after its request, and PHP-FPM's master forks \
                 another, which is traced"
            ),
            Self::Postgres => {
                "connect anew: PostgreSQL forks a process for each connection, which is traced"
                    .to_owned()
            }
            Self::Apache => format!(
                "`kill -USR1 {master}` makes Apache replace its workers as they become idle, by ones \
                 that are traced"
            ),
        }
    }
}

/// How workers can be had that are traced from their first fault, where others had been forked
/// before the trace began and still live, and the server is recognised and still there, and has forked
/// none since.
pub(super) fn sentence(profile: &Profile) -> Option<String> {
    let found = |process: &&Process| process.stands_for.is_none() && process.forked_at_s.is_none();
    let found: Vec<&Process> = profile.processes.iter().filter(found).collect();
    let lives = |process: &&&Process| process.exited_at_s.is_none();
    let mut masters = found.iter().filter(lives).filter_map(|master| {
        let is_own = |worker: &&&Process| worker.ppid == master.pid;
        let first = found.iter().filter(lives).find(is_own)?;
        let has_forked = profile.processes.iter().any(|worker| {
            worker.ppid == master.pid && worker.forked_at_s.is_some() && worker.before.is_empty()
        });
        (!has_forked).then_some(())?;
        Some((Server::of(master)?, master.pid, first.pid))
    });
    let (server, master, worker) = masters.next()?;
    Some(format!(
        "To see them from their first fault: {}.",
        server.fork_one(master, worker)
    ))
}

/// `php-fpm`, `php-fpm8.2`.
fn is_php_fpm(name: &str) -> bool {
    let version = name.strip_prefix("php-fpm");
    version.is_some_and(|version| {
        version
            .bytes()
            .all(|byte| byte == b'.' || byte.is_ascii_digit())
    })
}

/// What follows the last slash.
fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The first word of a title: `gunicorn` of `gunicorn: master [shop:app]`, `celeryd` of
/// `[celeryd: celery@host:MainProcess]`.
fn first_word(title: &str) -> &str {
    let word = title.split_whitespace().next().unwrap_or_default();
    let word = word.strip_suffix(':').unwrap_or(word);
    base(word.strip_prefix('[').unwrap_or(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::sample;

    /// The sample, of which all that is left had been forked before.
    fn late() -> Profile {
        let mut profile = sample();
        profile
            .processes
            .retain(|process| process.forked_at_s.is_none());
        profile
    }

    /// What is said of a master that is called so and has a worker.
    fn said(comm: &str, cmdline: &[&str]) -> String {
        let mut profile = late();
        profile.processes[0].comm = comm.to_owned();
        profile.processes[0].cmdline = cmdline.iter().map(|&it| it.to_owned()).collect();
        sentence(&profile).unwrap_or_default()
    }

    fn server(comm: &str, cmdline: &[&str]) -> Option<Server> {
        let mut profile = late();
        profile.processes[0].comm = comm.to_owned();
        profile.processes[0].cmdline = cmdline.iter().map(|&it| it.to_owned()).collect();
        Server::of(&profile.processes[0])
    }

    #[test]
    fn servers_are_recognised_by_what_they_show() {
        use Server::{Apache, Celery, Gunicorn, PhpFpm, Postgres, Puma, Unicorn, Uwsgi};
        let python = "/usr/bin/python3";
        let cases: [(&str, &[&str], Server); 15] = [
            (
                "gunicorn",
                &[python, "/venv/bin/gunicorn", "--preload", "a:b"],
                Gunicorn,
            ),
            ("python3", &[python, "-m", "gunicorn", "a:b"], Gunicorn),
            ("gunicorn: maste", &["gunicorn: master [app:app]"], Gunicorn),
            ("gunicorn", &[], Gunicorn),
            ("uwsgi", &["/venv/bin/uwsgi", "--master"], Uwsgi),
            ("uwsgi", &["uWSGI master"], Uwsgi),
            (
                "[celeryd: celer",
                &["[celeryd: celery@vm:MainProcess] -active-"],
                Celery,
            ),
            (
                "celery",
                &[python, "/venv/bin/celery", "-A", "tasks", "worker"],
                Celery,
            ),
            ("puma", &["puma 5.6.5 (tcp://127.0.0.1:9292) [shop]"], Puma),
            (
                "unicorn",
                &["unicorn master -c unicorn.rb config.ru"],
                Unicorn,
            ),
            (
                "php-fpm8.2",
                &["php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)"],
                PhpFpm,
            ),
            (
                "php-fpm8.2",
                &["/usr/sbin/php-fpm8.2", "--nodaemonize"],
                PhpFpm,
            ),
            (
                "postgres",
                &["/usr/lib/postgresql/15/bin/postgres", "-D", "/x"],
                Postgres,
            ),
            ("apache2", &["/usr/sbin/apache2", "-k", "start"], Apache),
            ("httpd", &["/usr/sbin/httpd", "-DFOREGROUND"], Apache),
        ];
        for (comm, cmdline, expected) in cases {
            assert_eq!(server(comm, cmdline), Some(expected), "{comm} {cmdline:?}");
        }
        assert_eq!(server("python3", &[python, "app.py", "gunicorn"]), None);
        assert_eq!(server("vim", &["vim", "gunicorn"]), None);
        assert_eq!(server("php-fpmx", &["php-fpm-x"]), None);
        assert_eq!(server("", &[]), None);
    }

    #[test]
    fn each_server_has_its_own_way() {
        insta::assert_snapshot!(said("gunicorn", &[]), @"To see them from their first fault: `kill -TTIN 4242` makes gunicorn fork one more worker, which is traced (`kill -TTOU 4242` makes it one fewer again).");
        insta::assert_snapshot!(said("uwsgi", &[]), @"To see them from their first fault: `kill -HUP 4243` ends one worker after its request, and uWSGI's master forks another, which is traced.");
        insta::assert_snapshot!(said("celery", &[]), @"To see them from their first fault: `kill -TERM 4243` ends one process of celery's pool, with the task that it has, and celery forks another, which is traced.");
        insta::assert_snapshot!(said("php-fpm", &[]), @"To see them from their first fault: `kill -QUIT 4243` ends one worker after its request, and PHP-FPM's master forks another, which is traced.");
        insta::assert_snapshot!(said("postgres", &[]), @"To see them from their first fault: connect anew: PostgreSQL forks a process for each connection, which is traced.");
        insta::assert_snapshot!(said("apache2", &[]), @"To see them from their first fault: `kill -USR1 4242` makes Apache replace its workers as they become idle, by ones that are traced.");
        assert!(said("puma", &[]).contains("makes Puma fork"));
        assert!(said("unicorn", &[]).contains("makes Unicorn fork"));
    }

    #[test]
    fn nothing_is_said_where_it_is_not_of_use() {
        assert_eq!(said("server", &["server"]), "");
        // Its master has ended.
        let mut profile = late();
        profile.processes[0].exited_at_s = Some(3.0);
        assert_eq!(sentence(&profile), None);
        // Its workers were forked during the trace.
        let mut profile = late();
        for worker in &mut profile.processes[1..] {
            worker.forked_at_s = Some(1.0);
        }
        assert_eq!(sentence(&profile), None);
        // One of them was.
        let mut profile = late();
        profile.processes[1].forked_at_s = Some(1.0);
        assert_eq!(sentence(&profile), None);
        // A worker is no master.
        let mut profile = late();
        profile.processes.remove(0);
        assert_eq!(sentence(&profile), None);
    }
}
