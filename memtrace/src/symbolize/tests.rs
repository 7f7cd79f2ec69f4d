//! Symbolizing this process and files made for it, with real mappings.

use std::fs::{self, File};
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Symbolizer;
use super::engine::{Failure, Found, Query, Reply};
use super::helper::{self, Helper};
use crate::elf::Wanted;
use crate::inspection;
use crate::process::inspector::{Asked, Inspector, Lost};
use crate::process::maps::AddressSpace;
use crate::process::modules::{self, Modules};
use crate::process::opener::{MAX_COPY, Opener};
use crate::process::sandbox::Sandbox;
use crate::profile::{Frame, Unknown};

/// A symbolizer that parses in a process of its own, as memtrace does. The process is this test
/// program, running the test below.
fn isolated() -> Symbolizer {
    Symbolizer::with(helper_process())
}

fn helper_process() -> Helper {
    helper_process_by("serves_the_others")
}

/// A process of this test program that runs one of the tests below.
fn helper_process_by(test: &'static str) -> Helper {
    Helper::with(Inspector::command(&helper::INSPECTOR, move || {
        let mut command = Command::new("/proc/self/exe");
        let test = format!("symbolize::tests::{test}");
        command.args(["--ignored", "--exact", &test]);
        command
    }))
}

#[test]
#[ignore = "not a test: the process that others start to parse files"]
fn serves_the_others() {
    let stdin = fs::read_link("/proc/self/fd/0").unwrap();
    if stdin.to_string_lossy().starts_with("socket:") {
        let _ = inspection::serve(&helper::INSPECTOR);
    }
}

fn own_space() -> AddressSpace {
    AddressSpace::read(std::process::id(), &mut Modules::new()).unwrap()
}

fn names(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(|frame| frame.function.as_ref()).collect()
}

/// Says that a test did not run, past the capture that hides what passing tests print.
pub(super) fn skipped(why: &str) {
    crate::skipped::skipped(why);
}

/// Whether a program is installed; reports when it is not.
fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        skipped(&format!("{program} is not installed"));
    }
    found
}

/// Compiles `source` to a shared object in `dir`.
fn compile(dir: &Path, compiler: &str, source: &str, options: &[&str]) -> PathBuf {
    let extension = match compiler {
        "g++" => "cpp",
        _ if source.starts_with('\t') => "s",
        _ => "c",
    };
    let input = dir.join(format!("made.{extension}"));
    let output = dir.join("made.so");
    fs::write(&input, source).unwrap();
    let done = Command::new(compiler)
        .args(["-shared", "-fPIC"])
        .args(options)
        .arg("-o")
        .args([&output, &input])
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    output
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    assert!(
        Command::new(program)
            .args(arguments)
            .arg(path)
            .status()
            .unwrap()
            .success()
    );
}

/// Maps a whole file executable, for as long as this process lives; returns where it begins.
fn map(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    let length = (file.metadata().unwrap().len() as usize).max(4096);
    // SAFETY: a new mapping at an address of the kernel's choice, which nothing here dereferences.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_EXEC,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED);
    start as u64
}

/// File offset of a symbol. Linkers place a shared object's code at addresses equal to its offsets.
fn offset_of(path: &Path, symbol: &str) -> u64 {
    let output = Command::new("nm").arg(path).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    let line = listing
        .lines()
        .find(|line| line.ends_with(&format!(" {symbol}")))
        .unwrap();
    u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
}

#[inline(never)]
fn chain_leaf(addresses: &mut [*mut libc::c_void; 16]) -> usize {
    // SAFETY: the array has room for as many addresses as are asked for.
    let count = unsafe { libc::backtrace(addresses.as_mut_ptr(), 16) };
    black_box(count as usize)
}

const INLINED_LINE: u32 = line!() + 5;

#[inline(always)]
#[expect(clippy::inline_always, reason = "that it is inlined is what is tested")]
fn chain_inlined(addresses: &mut [*mut libc::c_void; 16]) -> usize {
    chain_leaf(addresses) + black_box(0)
}

const OUTER_LINE: u32 = line!() + 4;

#[inline(never)]
fn chain_outer(addresses: &mut [*mut libc::c_void; 16]) -> usize {
    chain_inlined(addresses) + black_box(0)
}

/// The stack from [`chain_leaf`] upwards, its leaf address being exact.
fn chain() -> Vec<u64> {
    let mut addresses = [std::ptr::null_mut(); 16];
    let count = chain_outer(&mut addresses);
    let mut chain: Vec<_> = addresses[..count]
        .iter()
        .map(|&address| address as u64)
        .collect();
    chain[0] -= 1;
    chain
}

fn check_chain(symbolizer: &mut Symbolizer) {
    let addresses = chain();
    let frames = symbolizer.symbolize(&own_space(), &addresses);
    let expected = ["chain_leaf", "chain_inlined", "chain_outer", "chain"];
    for (frame, expected) in frames.iter().zip(expected) {
        assert!(
            frame.function.ends_with(&format!("tests::{expected}")),
            "{:?}",
            names(&frames)
        );
        assert!(
            frame
                .file
                .as_ref()
                .unwrap()
                .ends_with("src/symbolize/tests.rs")
        );
        assert_eq!(frame.unknown, None);
    }
    let inlined: Vec<_> = frames.iter().take(4).map(|frame| frame.inlined).collect();
    assert_eq!(inlined, [false, true, false, false]);
    assert_eq!(frames[1].line, Some(INLINED_LINE));
    assert_eq!(frames[2].line, Some(OUTER_LINE));
    // Inlined functions are at the address of the one that they are inlined into.
    assert_eq!(frames[1].address, addresses[1]);
    assert_eq!(frames[2].address, addresses[1]);
    let exe = std::env::current_exe().unwrap();
    assert_eq!(frames[0].module.as_deref(), exe.to_str());
}

#[test]
fn a_known_chain_is_named_with_inlined_functions() {
    check_chain(&mut Symbolizer::in_process());
}

#[test]
fn a_known_chain_is_named_by_the_helper_process() {
    check_chain(&mut isolated());
}

#[test]
fn stacks_prepared_together_are_named_alike() {
    let (space, addresses) = (own_space(), chain());
    let expected = Symbolizer::in_process().symbolize(&space, &addresses);
    let mut symbolizer = isolated();
    let stacks: Vec<_> = (0..addresses.len())
        .map(|from| &addresses[from..])
        .collect();
    symbolizer.prepare(stacks.iter().map(|&stack| (&space, stack)));
    assert_eq!(symbolizer.symbolize(&space, &addresses), expected);
}

#[test]
fn only_callers_are_looked_up_one_byte_before() {
    let start = chain_leaf as *const () as u64;
    let frames = Symbolizer::in_process().symbolize(&own_space(), &[start, start]);
    assert!(frames[0].function.ends_with("chain_leaf"));
    assert!(
        !frames.last().unwrap().function.ends_with("chain_leaf"),
        "{:?}",
        names(&frames)
    );
    assert_eq!(frames.last().unwrap().address, start);
}

#[test]
fn unmapped_and_anonymous_addresses_say_so() {
    // SAFETY: a new mapping at an address of the kernel's choice, which nothing dereferences.
    let code = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    let addresses = [code as u64, 0x10, 0, map(Path::new("/dev/zero")) + 1];
    let frames = Symbolizer::in_process().symbolize(&own_space(), &addresses);
    assert_eq!(
        names(&frames),
        ["[unknown]", "[unknown]", "[unknown]", "zero+0x1"]
    );
    let why: Vec<_> = frames.iter().map(|frame| frame.unknown.unwrap()).collect();
    let expected = [
        Unknown::Anonymous,
        Unknown::NoMapping,
        Unknown::NoMapping,
        Unknown::NoFile,
    ];
    assert_eq!(why, expected);
}

#[test]
fn a_vdso_function_is_named() {
    // SAFETY: both strings are constant, the library is only looked for, never loaded, and the
    // address is not called.
    let address = unsafe {
        let vdso = libc::dlopen(
            c"linux-vdso.so.1".as_ptr(),
            libc::RTLD_LAZY | libc::RTLD_NOLOAD,
        );
        if vdso.is_null() {
            skipped("this kernel gives no vDSO");
            return;
        }
        libc::dlsym(vdso, c"__vdso_clock_gettime".as_ptr()) as u64
    };
    if address == 0 {
        skipped("this architecture's vDSO names its functions otherwise");
        return;
    }
    let frames = isolated().symbolize(&own_space(), &[address]);
    assert!(
        frames[0].function.ends_with("clock_gettime"),
        "{:?}",
        names(&frames)
    );
    assert_eq!(frames[0].module.as_deref(), Some("[vdso]"));
}

#[test]
fn cpp_functions_are_demangled_with_file_and_line() {
    if !have("g++") {
        return;
    }
    let source = "namespace shop { template <class T> struct Cart {\n\
        __attribute__((noinline)) static T add(T a, const char *) { return a + 1; } };\n\
        template struct Cart<long>; }\n";
    let dir = tempfile::tempdir().unwrap();
    let path = compile(dir.path(), "g++", source, &["-g"]);
    let address = map(&path) + offset_of(&path, "_ZN4shop4CartIlE3addElPKc");
    let frames = isolated().symbolize(&own_space(), &[address]);
    assert_eq!(names(&frames), ["shop::Cart<long>::add(long, char const*)"]);
    assert!(frames[0].file.as_ref().unwrap().ends_with("made.cpp"));
    assert_eq!(frames[0].line, Some(2));
}

const PLAIN: &str = "static int calls;\n\
    __attribute__((visibility(\"hidden\"))) int victim(int a) { return a + calls++; }\n";

#[test]
fn a_stripped_file_gives_module_and_offset() {
    if !have("gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = compile(dir.path(), "gcc", PLAIN, &[]);
    let offset = offset_of(&path, "victim");
    run("strip", &[], &path);
    let address = map(&path) + offset;
    let frames = isolated().symbolize(&own_space(), &[address, address + 4]);
    let expected = [
        format!("made.so+{offset:#x}"),
        format!("made.so+{:#x}", offset + 4),
    ];
    assert_eq!(names(&frames), expected);
    assert!(
        frames
            .iter()
            .all(|frame| frame.unknown == Some(Unknown::NoSymbol))
    );
    assert!(frames[0].module.as_ref().unwrap().ends_with("/made.so"));
}

/// Exported functions with and without a size, and static ones after each, whose symbols `strip`
/// removes. Compilers describe their functions in `.eh_frame`; `known` does so by hand.
const SIZES: &str = "\t.text
\t.globl sized, unsized, known
\t.type sized, @function
\t.type unsized, @function
\t.type known, @function
\t.type inner, @function
\t.type hidden, @function
sized:
\tnop
\tnop
\tret
\t.size sized, .-sized
hidden:
\tnop
\tnop
\tret
\t.size hidden, .-hidden
unsized:
\tnop
inner:
\tnop
\tret
\t.cfi_startproc
known:
\tnop
\tret
\t.cfi_endproc
\tnop
\tnop
\t.section .after, \"ax\", @progbits
after:
\tnop
\tret
\t.section .note.GNU-stack,\"\",@progbits
";

#[test]
fn a_symbol_names_what_it_covers_and_nothing_beyond() {
    if !have("gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = compile(dir.path(), "gcc", SIZES, &["-nostdlib"]);
    let at = |name| offset_of(&path, name);
    let (sized, hidden, inner) = (at("sized"), at("hidden"), at("inner"));
    let (without, known, after) = (at("unsized"), at("known"), at("after"));
    let places = [
        sized + 2,
        hidden + 1,
        without,
        inner + 1,
        known + 1,
        known + 2,
        after + 1,
    ];
    let named = |stripped: bool| {
        let start = map(&path);
        let stacks = places.map(|place| start + place);
        let frames = stacks.map(|address| {
            let mut frames = isolated().symbolize(&own_space(), &[address]);
            frames.remove(0)
        });
        for frame in &frames {
            let expected = frame.function.contains("+0x").then_some(Unknown::NoSymbol);
            assert_eq!(frame.unknown, expected, "{stripped} {frame:?}");
        }
        frames.map(|frame| frame.function.to_string())
    };
    let unknown = |place: u64| format!("made.so+{place:#x}");
    assert_eq!(
        named(false),
        [
            "sized",
            "hidden",
            "unsized",
            "inner",
            "known",
            &unknown(known + 2),
            "after"
        ]
    );
    run("strip", &[], &path);
    assert_eq!(
        named(true),
        [
            "sized",
            &unknown(hidden + 1),
            // Its own address is its, whatever follows.
            "unsized",
            &unknown(inner + 1),
            "known",
            &unknown(known + 2),
            &unknown(after + 1),
        ]
    );
}

#[test]
fn of_several_names_the_plainest_is_shown_with_and_without_debug_information() {
    if !have("g++") {
        return;
    }
    let source = "extern \"C\" {\n\
        void __lib_free(void *p) { asm volatile(\"\" : : \"r\"(p) : \"memory\"); }\n\
        __attribute__((alias(\"__lib_free\"))) void cfree(void *);\n\
        __attribute__((alias(\"__lib_free\"))) void free(void *);\n\
        __attribute__((alias(\"__lib_free\"))) void _ZdlPv(void *);\n}\n";
    for options in [&["-g"][..], &[]] {
        let dir = tempfile::tempdir().unwrap();
        let path = compile(dir.path(), "g++", source, options);
        let address = map(&path) + offset_of(&path, "__lib_free");
        let frames = isolated().symbolize(&own_space(), &[address]);
        assert_eq!(names(&frames), ["free"], "{options:?}");
        assert_eq!(frames[0].line, options.first().map(|_| 2), "{options:?}");
    }
}

#[test]
fn a_separate_debug_file_is_found_by_build_id() {
    if !have("gcc") || !have("objcopy") {
        return;
    }
    for compress in [
        "--decompress-debug-sections",
        "--compress-debug-sections=zlib",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = compile(
            dir.path(),
            "gcc",
            PLAIN,
            &["-g", "-Wl,--build-id=0xabcdef0123456789"],
        );
        let offset = offset_of(&path, "victim");
        let debug = dir.path().join(".build-id/ab/cdef0123456789.debug");
        fs::create_dir_all(debug.parent().unwrap()).unwrap();
        fs::copy(&path, &debug).unwrap();
        run("objcopy", &["--only-keep-debug", compress], &debug);
        run("strip", &[], &path);
        let address = map(&path) + offset;
        let inspector = Inspector::here(&modules::INSPECTOR, vec![modules::answerer()]);
        let mut modules = Modules::with(Opener::here(), inspector, Wanted::default(), dir.path());
        let space = AddressSpace::read(std::process::id(), &mut modules).unwrap();
        let frames = isolated().symbolize(&space, &[address]);
        assert_eq!(names(&frames), ["victim"], "{compress}");
        assert_eq!(frames[0].line, Some(2), "{compress}");
    }
}

#[test]
fn a_file_that_only_its_owner_may_read_is_copied_for_the_helper() {
    if !have("gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = compile(dir.path(), "gcc", PLAIN, &["-g"]);
    let address = map(&path) + offset_of(&path, "victim");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut symbolizer = isolated();
    for offset in [0, 4] {
        let frames = symbolizer.symbolize(&own_space(), &[address + offset]);
        assert_eq!((names(&frames), frames[0].line), (vec!["victim"], Some(2)));
    }
}

#[test]
fn of_a_file_that_is_too_large_to_be_copied_symbols_are_read() {
    if !have("gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = compile(dir.path(), "gcc", PLAIN, &["-g"]);
    let address = map(&path) + offset_of(&path, "victim");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(MAX_COPY + 1).unwrap();
    let frames = isolated().symbolize(&own_space(), &[address]);
    let is_root = rustix::process::geteuid().is_root();
    let line = if is_root { None } else { Some(2) };
    assert_eq!((names(&frames), frames[0].line), (vec!["victim"], line));
}

#[test]
fn a_helper_is_asked_about_more_files_than_it_has_at_once() {
    if !have("gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = compile(dir.path(), "gcc", PLAIN, &["-g"]);
    let offset = offset_of(&path, "victim");
    let mut helper = helper_process();
    let files: Vec<_> = (0..150).map(|_| File::open(&path).unwrap()).collect();
    for (key, file) in (0..).zip(&files).chain((0..).zip(&files[..3])) {
        for debug_info in [false, true] {
            let query = Query {
                debug_info,
                addresses: vec![offset],
            };
            let reply = helper.ask(&query, Asked { key, file }).unwrap().unwrap();
            let Found::Functions(functions) = &reply[0] else {
                panic!("{reply:?}")
            };
            assert_eq!(functions[0].function, "victim");
        }
    }
}

#[test]
fn a_deleted_file_is_still_named() {
    if !have("gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = compile(dir.path(), "gcc", PLAIN, &["-g"]);
    let address = map(&path) + offset_of(&path, "victim");
    fs::remove_file(&path).unwrap();
    let frames = isolated().symbolize(&own_space(), &[address]);
    if frames[0].unknown == Some(Unknown::NoFile) {
        skipped("only root may open the file of a mapping");
        return;
    }
    assert_eq!(names(&frames), ["victim"]);
    assert_eq!(frames[0].module.as_deref(), path.to_str());
}

#[test]
fn an_exited_process_is_still_named() {
    // SAFETY: the string is constant, and the address is not called.
    let qsort = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"qsort".as_ptr()) } as u64;
    let own = own_space();
    let ours = own.find(qsort).unwrap();
    let offset = qsort - ours.start + ours.offset;

    let mut child = Command::new("sleep").arg("100").spawn().unwrap();
    let mut modules = Modules::new();
    let began = Instant::now();
    let (space, address) = loop {
        // Waits until the new program has loaded its libraries.
        assert!(began.elapsed().as_secs() < 20);
        let space = AddressSpace::read(child.id(), &mut modules).unwrap();
        let theirs = space.mappings().iter().find(|mapping| {
            mapping.executable
                && mapping.name() == ours.name()
                && (mapping.offset..mapping.offset + (mapping.end - mapping.start))
                    .contains(&offset)
        });
        if let Some(theirs) = theirs {
            let address = theirs.start + (offset - theirs.offset);
            break (space, address);
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let frames = isolated().symbolize(&space, &[address]);
    assert!(frames[0].function.contains("qsort"), "{:?}", names(&frames));
}

#[test]
fn files_that_are_no_elf_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("garbage.so");
    let mut garbage = b"\x7fELF\x02\x01\x01".to_vec();
    garbage.resize(8192, 0xa5);
    fs::write(&path, &garbage).unwrap();
    let elf = map(&path);
    let text = dir.path().join("text.so");
    fs::write(&text, "#!/bin/sh\n").unwrap();
    let text = map(&text);
    let frames = isolated().symbolize(&own_space(), &[elf + 4, text + 4]);
    assert_eq!(names(&frames), ["garbage.so+0x4", "text.so+0x4"]);
    assert!(
        frames
            .iter()
            .all(|frame| frame.unknown == Some(Unknown::BadElf))
    );
}

#[test]
fn a_process_that_has_gone_names_nothing() {
    let frames = Symbolizer::in_process().symbolize(&AddressSpace::gone(), &[0x1234, 0]);
    assert_eq!(names(&frames), ["[unknown]", "[unknown]"]);
    assert!(
        frames
            .iter()
            .all(|frame| frame.unknown == Some(Unknown::ProcessGone))
    );
    assert_eq!(frames[0].address, 0x1234);
}

#[test]
fn the_empty_stack_has_no_frames() {
    assert!(
        Symbolizer::in_process()
            .symbolize(&own_space(), &[])
            .is_empty()
    );
}

/// DWARF of one function, `victim`, and a line table of it.
fn crafted(file_index: u32, children: &str, extra: &str) -> String {
    format!(
        "\t.text
\t.globl victim
\t.type victim, @function
victim:
\tnop
\tret
\t.size victim, .-victim
\t.section .note.GNU-stack,\"\",@progbits
\t.section .debug_abbrev,\"\",@progbits
\t.byte 1, 0x11, 1, 0x11, 1, 0x12, 7, 0x10, 0x17, 0, 0
\t.byte 2, 0x2e, 1, 0x03, 8, 0x11, 1, 0x12, 7, 0, 0
\t.byte 3, 0x1d, 1, 0, 0
\t.byte 4, 0x2e, 0, 0x55, 0x17, 0, 0
\t.byte 0
\t.section .debug_info,\"\",@progbits
\t.long 2f-1f
1:\t.short 4
\t.long 0
\t.byte 8
\t.byte 1
\t.quad victim
\t.quad 2
\t.long 0
\t.byte 2
\t.asciz \"victim\"
\t.quad victim
\t.quad 2
{children}
\t.byte 0, 0
2:
\t.section .debug_line,\"\",@progbits
\t.long 4f-3f
3:\t.short 4
\t.long 6f-5f
5:\t.byte 1, 1, 1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1
\t.byte 0
\t.asciz \"made.c\"
\t.byte 0, 0, 0, 0
6:\t.byte 0, 9, 2
\t.quad victim
\t.byte 4, {file_index}
\t.byte 1
\t.byte 2, 2
\t.byte 0, 1, 1
4:
{extra}
"
    )
}

/// What a helper says about `victim` by its DWARF, what a stack shows of it, and the seconds that
/// both took.
fn survive(source: &str) -> (Result<Reply, Lost>, Vec<Frame>, f64) {
    let dir = tempfile::tempdir().unwrap();
    let path = compile(dir.path(), "gcc", source, &["-nostdlib"]);
    let offset = offset_of(&path, "victim");
    let address = map(&path) + offset;
    let space = own_space();
    let began = Instant::now();
    let query = Query {
        debug_info: true,
        addresses: vec![offset],
    };
    let file = &File::open(path).unwrap();
    let reply = helper_process().ask(&query, Asked { key: 0, file });
    let frames = isolated().symbolize(&space, &[address]);
    (reply, frames, began.elapsed().as_secs_f64())
}

#[test]
fn crafted_debug_information_ends_only_the_helper() {
    if !have("gcc") {
        return;
    }
    let (_, frames, _) = survive(&crafted(1, "", ""));
    assert_eq!(
        (names(&frames), frames[0].line),
        (vec!["victim"], Some(1)),
        "the crafted base"
    );

    let nested = "\t.rept 4000000\n\t.byte 3\n\t.endr\n\t.rept 4000000\n\t.byte 0\n\t.endr";
    let many = "\t.rept 30000\n\t.byte 4\n\t.long 0\n\t.endr";
    let ranges = "\t.section .debug_ranges,\"\",@progbits\n\t.rept 30000\n\t.quad 1, 2\n\t.endr\n\t.quad 0, 0";
    let panicked = "the parser panicked".to_owned();
    let panicked = || Ok(Err(Failure::Unreadable(panicked.clone())));
    for (what, source, expected) in [
        (
            "a line of a file that there is not",
            crafted(99, "", ""),
            panicked(),
        ),
        (
            "inlined calls four million deep",
            crafted(1, nested, ""),
            Err(Lost),
        ),
        (
            "30,000 functions of 30,000 ranges each",
            crafted(1, many, ranges),
            Err(Lost),
        ),
    ] {
        let (reply, frames, seconds) = survive(&source);
        assert_eq!(reply, expected, "{what}");
        // Names come from the symbol table, which is sound.
        assert_eq!(names(&frames), ["victim"], "{what}");
        assert_eq!(frames[0].line, None, "{what}");
        assert!(seconds < 25.0, "{what} took {seconds} s");
    }
}

#[test]
fn a_file_truncated_meanwhile_ends_only_the_helper() {
    if !have("gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = compile(dir.path(), "gcc", PLAIN, &["-g"]);
    let address = map(&path) + offset_of(&path, "victim");
    let space = own_space();
    let mut symbolizer = isolated();
    assert_eq!(names(&symbolizer.symbolize(&space, &[address])), ["victim"]);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let frames = symbolizer.symbolize(&space, &[address + 5]);
    assert_eq!(
        frames[0].unknown,
        Some(Unknown::BadElf),
        "{:?}",
        names(&frames)
    );
    // Other stacks are named as before.
    check_chain(&mut symbolizer);
}

#[test]
fn a_helper_that_cannot_start_costs_names_only() {
    let nowhere = Inspector::command(&helper::INSPECTOR, || Command::new("/nonexistent"));
    let mut symbolizer = Symbolizer::with(Helper::with(nowhere));
    let frames = symbolizer.symbolize(&own_space(), &chain());
    assert!(frames.iter().all(|frame| frame.unknown.is_some()));
    assert!(frames[0].function.contains("+0x"), "{:?}", names(&frames));
}

#[test]
#[ignore = "not a test: the process that the measurement below compares with"]
fn serves_the_others_without_a_sandbox() {
    let stdin = fs::read_link("/proc/self/fd/0").unwrap();
    if stdin.to_string_lossy().starts_with("socket:") {
        let _ = inspection::serve_in(&helper::INSPECTOR, |limits| {
            crate::process::child::limit(rustix::process::Resource::Data, limits.data).unwrap();
            Sandbox {
                descriptors: Path::new("/proc/self/fd"),
                missing: Vec::new(),
            }
        });
    }
}

#[test]
#[ignore = "a measurement: names 10,000 addresses of the file that BENCH_FILE names, or of this program"]
fn measure_ten_thousand_names_with_and_without_the_sandbox() {
    let file = std::env::var_os("BENCH_FILE").unwrap_or("/proc/self/exe".into());
    let path = fs::canonicalize(file).unwrap();
    let start = map(&path);
    let headers = crate::elf::Headers::read(&File::open(&path).unwrap()).unwrap();
    let mut segments = headers.programs_of(crate::elf::PT_LOAD);
    let code = segments.find(|each| each.executable).unwrap();
    let step = code.file_size / 10_000;
    let addresses: Vec<_> = (0..10_000)
        .map(|number| start + code.offset + number * step)
        .collect();
    let space = own_space();
    for round in 0..5 {
        for server in ["serves_the_others", "serves_the_others_without_a_sandbox"] {
            let mut symbolizer = Symbolizer::with(helper_process_by(server));
            let began = Instant::now();
            symbolizer.symbolize(&space, &addresses[..1]);
            let (first, used_first) = (began.elapsed(), used_by_children());
            symbolizer.prepare([(&space, &addresses[..])]);
            let all = began.elapsed().saturating_sub(first);
            let used = used_by_children().saturating_sub(used_first);
            eprintln!(
                "{round} {server}: first {first:.2?} (of a processor {used_first:.2?}), 10,000 in \
                 {all:.2?} ({used:.2?})"
            );
        }
    }
}

/// For how long the children of this process that are left have worked: the helper. Its clock is
/// not disturbed by what else the machine does.
fn used_by_children() -> Duration {
    let list = |folder: &str| {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    let children = list("/proc/self/task").into_iter().flat_map(|task| {
        let children = fs::read_to_string(format!("/proc/self/task/{task}/children"));
        let children = children.unwrap_or_default();
        children.split(' ').map(str::to_owned).collect::<Vec<_>>()
    });
    let threads = children.filter(|pid| !pid.is_empty()).flat_map(|pid| {
        let folder = format!("/proc/{pid}/task");
        let threads = list(&folder).into_iter();
        threads.map(move |thread| format!("{folder}/{thread}/schedstat"))
    });
    let used = threads.filter_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(used.sum())
}
