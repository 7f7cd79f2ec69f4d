//! The unwind tables of single files, for tools that show or test them.

use std::fs::File;

use super::builder;
use super::rows;
use super::sections::Input;
pub use super::table::{Refused, RowSource, UnwindTable};

/// Builds the table of `file`, which is what a trace would build of it where there is no separate
/// debug file, within the same budget.
///
/// # Errors
/// When there is none, in words.
pub fn table_of(file: &File) -> Result<UnwindTable, Refused> {
    let budget = builder::budget();
    rows::build(&Input::read(file, None, &budget)?, &budget)
}
