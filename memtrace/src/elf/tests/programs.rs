//! What is found in files that a compiler made for the test.

use foldhash::HashSet;

use super::*;

/// Compiles C to a program in `directory` with these options; `None`, and said, where that cannot be.
fn compiled_program(directory: &Path, source: &str, options: &[&str]) -> Option<File> {
    let input = directory.join("made.c");
    let output = directory.join("made");
    std::fs::write(&input, source).unwrap();
    let built = Command::new("cc")
        .args(options)
        .arg("-o")
        .args([&output, &input])
        .status();
    if built.is_ok_and(|status| status.success()) {
        return Some(File::open(output).unwrap());
    }
    crate::skipped::skipped(&format!(
        "there is no C compiler `cc` that links a program with {options:?} (apt-get install gcc)"
    ));
    None
}

#[test]
fn a_text_is_read_by_its_symbol() {
    let directory = tempfile::tempdir().unwrap();
    let source = "const char version[] = \"1.2\"; const char open[] = {'a', 'b'}; int number = 7;";
    let Some(file) = compiled(directory.path(), source, &[]) else {
        return;
    };
    let symbols = Symbols::read(&file).unwrap();
    assert_eq!(symbols.text(&file, "version", 80).unwrap(), b"1.2");
    assert_eq!(symbols.text(&file, "version", 4).unwrap(), b"1.2");
    assert_eq!(symbols.text(&file, "version", 3), None, "it has no end");
    assert_eq!(symbols.text(&file, "missing", 80), None);
}

#[test]
fn symbols_of_static_programs_are_in_their_table() {
    let source = "int used(void); int one(void) { return 1; } int main(void) { return one(); }";
    let names: HashSet<&str> = ["one", "main", "used", "printf_not"].into_iter().collect();
    for options in [&["-static"][..], &["-static-pie"]] {
        let directory = tempfile::tempdir().unwrap();
        let Some(file) = compiled_program(directory.path(), source, options) else {
            return;
        };
        let symbols = Symbols::read(&file).unwrap();
        assert!(symbols.is_static_program(), "{options:?}");
        let found = symbols.in_table(&file, &names);
        assert_eq!(found, ["main", "one"].into_iter().collect(), "{options:?}");
        // What may not be read is not there.
        let budget = Budget::new(Duration::from_mins(1), 4096);
        assert!(symbols.in_table(&budget.of(&file), &names).is_empty());
        let stripped = [options, &["-s"]].concat();
        let file = compiled_program(directory.path(), source, &stripped).unwrap();
        let symbols = Symbols::read(&file).unwrap();
        assert!(symbols.is_static_program());
        assert!(symbols.in_table(&file, &names).is_empty());
    }
}

#[test]
fn what_a_dynamic_linker_loads_is_not_a_static_program() {
    let (libc, _) = libc();
    for file in [own_program(), File::open(libc).unwrap()] {
        assert!(!Symbols::read(&file).unwrap().is_static_program());
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn functions_are_found_by_the_texts_that_they_name() {
    let directory = tempfile::tempdir().unwrap();
    let source = "extern void say(const char *);
                  void first(void) { say(\"gc-minor\"); say(\"another\"); }
                  void second(void) { say(\"a longer gc-minor\"); }
                  void third(void) { say(\"gc-done\"); say(\"gc-minor\"); }";
    let options = ["-O1", "-s", "-fno-merge-constants"];
    let Some(file) = compiled(directory.path(), source, &options) else {
        return;
    };
    let symbols = Symbols::read(&file).unwrap();
    let place = |name: &str| symbols.code(&file, name).unwrap().0;
    let named = |texts: &[&str]| {
        let found = functions_that_name(&file, texts).unwrap();
        found.into_iter().collect::<HashSet<u64>>()
    };
    let places = |names: &[&str]| names.iter().map(|name| place(name)).collect();
    assert_eq!(named(&["gc-minor"]), places(&["first", "third"]));
    assert_eq!(named(&["gc-done", "missing"]), places(&["third"]));
    assert!(named(&["minor"]).is_empty());
    let budget = Budget::new(Duration::from_mins(1), 1024);
    let found = functions_that_name(&budget.of(&file), &["gc-minor"]);
    assert!(found.is_none_or(|found| found.is_empty()));
}
