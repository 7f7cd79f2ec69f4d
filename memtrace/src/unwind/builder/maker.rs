//! What the process that builds tables does: it reads files, says what a table of theirs would be
//! called, and builds it if that is wanted.

use std::fs::File;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::elf::Budget;
use crate::process::inspector::{Answerer, Kind, Question};
use crate::unwind::format;
use crate::unwind::rows;
use crate::unwind::sections::Input;
use crate::unwind::table::{Refused, TableIdentity};

/// The process.
pub const INSPECTOR: Kind = Kind {
    argument: "__tables",
    what: "builds unwind tables",
    without: "stacks of new files end early",
    data: 768 << 20,
    descriptors: 0,
    // A budget of three seconds of work may take three times as long on a busy machine.
    patience: Duration::from_secs(12),
    most: format::MAX_SIZE as u32 + (64 << 10),
};

/// Bytes of files that were read and wait for their tables to be built. What is more is read again.
const MAX_KEPT: u64 = 64 << 20;

/// What may be spent on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Time that is worked on it.
    pub time: Duration,
    /// Bytes that are read, or made of what was read.
    pub bytes: u64,
}

impl Allowance {
    fn budget(self) -> Budget {
        Budget::new(self.time, self.bytes)
    }
}

/// What the table of a file is called. The second file, if there is one, is its debug file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Look(pub Allowance);

/// The answer to [`Look`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Looked {
    /// Bytes that were spent.
    pub spent: u64,
    /// The file's build id.
    pub build_id: Option<Vec<u8>>,
    /// The table's name and the bytes that it would be built from; or why there is none, in words.
    pub found: Result<(TableIdentity, u64), String>,
}

/// The table of a file, which was looked at before.
#[derive(Debug, Serialize, Deserialize)]
pub struct Build {
    /// What its table is called.
    pub identity: TableIdentity,
    /// What may be spent if it has to be read again.
    pub allowance: Allowance,
}

/// A table that was built.
#[derive(Debug, Serialize, Deserialize)]
pub struct Made {
    /// The table, as it is kept on disk.
    pub bytes: Vec<u8>,
    /// Whether there was no time to look at all of the code.
    pub is_partial: bool,
}

impl Question for Look {
    const NAME: &'static str = "look";
    type Answer = Looked;
}

impl Question for Build {
    const NAME: &'static str = "build";
    type Answer = Result<Made, String>;
}

/// What answers [`Look`] and [`Build`].
#[must_use]
pub fn answerers() -> [Answerer; 2] {
    use std::cell::RefCell;
    use std::rc::Rc;

    let maker = Rc::new(RefCell::new(Maker::default()));
    let again = Rc::clone(&maker);
    [
        Answerer::new(move |look: &Look, files| maker.borrow_mut().look(look, files)),
        Answerer::new(move |build: &Build, files| again.borrow_mut().build(build, files)),
    ]
}

/// Reads files, and keeps some of what was read.
#[derive(Default)]
struct Maker {
    /// In the order in which they were read.
    kept: Vec<(TableIdentity, Input, Budget)>,
}

impl Maker {
    fn look(&mut self, look: &Look, files: &[&File]) -> Looked {
        let budget = look.0.budget();
        let mut build_id = None;
        let found = read(files, &budget).and_then(|input| {
            build_id = input.build_id().map(<[u8]>::to_vec);
            let identity = input.identity(&budget)?;
            Ok((identity, input))
        });
        let spent = budget.spent();
        let found = found.map(|(identity, input)| {
            let size = input.size();
            self.keep(identity, input, budget.pause());
            (identity, size)
        });
        Looked {
            spent,
            build_id,
            found: found.map_err(|Refused(why)| why),
        }
    }

    fn keep(&mut self, identity: TableIdentity, input: Input, budget: Budget) {
        self.kept.push((identity, input, budget));
        let mut size: u64 = self.kept.iter().map(|(_, input, _)| input.size()).sum();
        while size > MAX_KEPT && !self.kept.is_empty() {
            let (_, oldest, _) = self.kept.remove(0);
            size -= oldest.size();
        }
    }

    fn build(&mut self, build: &Build, files: &[&File]) -> Result<Made, String> {
        let Build {
            identity,
            allowance,
        } = build;
        let place = self.kept.iter().position(|(known, ..)| known == identity);
        let made = if let Some(place) = place {
            let (_, input, budget) = self.kept.remove(place);
            made(identity, &input, &budget.resume())
        } else {
            let budget = allowance.budget();
            read(files, &budget).and_then(|input| {
                if input.identity(&budget)? != *identity {
                    return Err(Refused("it has changed meanwhile".to_owned()));
                }
                made(identity, &input, &budget)
            })
        };
        made.map_err(|Refused(why)| why)
    }
}

fn read(files: &[&File], budget: &Budget) -> Result<Input, Refused> {
    Input::read(files[0], files.get(1).copied(), budget)
}

fn made(identity: &TableIdentity, input: &Input, budget: &Budget) -> Result<Made, Refused> {
    let table = rows::build(input, budget)?;
    Ok(Made {
        bytes: format::encode(identity, &table),
        is_partial: table.is_partial,
    })
}
