use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use memtrace_common::unwind::{CFA_GAP, CFA_RULE, CFA_SP, Row, Rule};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn table(rows: u32) -> UnwindTable {
    let row = |pc: u32| Row {
        pc: 16 * pc,
        cfa: match pc {
            0 => CFA_RULE,
            last if last == rows - 1 => CFA_GAP,
            pc => (pc as u16 % 100) << 3 | CFA_SP,
        },
        fp: -16,
    };
    UnwindTable {
        base: 0x1000,
        rows: (0..rows).map(row).collect(),
        rules: vec![Rule {
            cfa_offset: 70_000,
            fp_offset: -16,
            flags: 5,
            other_offset: -56,
        }],
        ..UnwindTable::default()
    }
}

fn cache(bound: u64) -> (TempDir, Cache) {
    let home = tempfile::tempdir().unwrap();
    let cache = Cache::at(&home.path().join("memtrace/unwind"), bound).unwrap();
    (home, cache)
}

fn file_of(home: &TempDir, identity: &TableIdentity) -> PathBuf {
    let name = format::file_name(identity);
    home.path().join("memtrace/unwind").join(name)
}

#[test]
fn a_table_that_was_kept_is_there() {
    let (home, cache) = cache(BOUND);
    let (first, second) = ([1; 32], [2; 32]);
    assert_eq!(cache.get(&first), None);
    cache.put(&first, &table(100)).unwrap();
    cache.put(&first, &table(200)).unwrap();
    cache.put(&second, &UnwindTable::default()).unwrap();
    assert_eq!(cache.get(&first), Some(table(200)));
    assert_eq!(cache.get(&second), Some(UnwindTable::default()));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file_of(&home, &first)), 0o600);
    assert_eq!(mode(&home.path().join("memtrace/unwind")), 0o700);
    let left = fs::read_dir(home.path().join("memtrace/unwind")).unwrap();
    assert_eq!(left.count(), 2, "nothing unfinished is left");
}

#[test]
fn a_table_under_another_name_is_not_believed() {
    let (home, cache) = cache(BOUND);
    cache.put(&[1; 32], &table(9)).unwrap();
    fs::rename(file_of(&home, &[1; 32]), file_of(&home, &[2; 32])).unwrap();
    assert_eq!(cache.get(&[2; 32]), None);
}

proptest! {
    #[test]
    fn what_is_damaged_is_not_believed(at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
        let whole = format::encode(&[7; 32], &table(50));
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        prop_assert_eq!(format::decode(&bytes, &[7; 32]), None);
        prop_assert_eq!(format::decode(&whole, &[7; 32]), Some(table(50)));
    }

    /// With a good checksum: what is decoded is sound, and nothing panics.
    #[test]
    fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let whole = format::encode(&[7; 32], &table(10));
        bytes.truncate(whole.len() - 4);
        let mut content = whole[..whole.len() - 4].to_vec();
        let start = content.len() - bytes.len();
        content[start..].copy_from_slice(&bytes);
        let checksum = crc32fast::hash(&content);
        content.extend(checksum.to_le_bytes());
        if let Some(table) = format::decode(&content, &[7; 32]) {
            prop_assert!(table.rows.is_sorted_by(|a, b| a.pc < b.pc));
        }
    }
}

#[test]
fn a_damaged_file_is_removed() {
    let (home, cache) = cache(BOUND);
    cache.put(&[1; 32], &table(100)).unwrap();
    let path = file_of(&home, &[1; 32]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[80] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(cache.get(&[1; 32]), None);
    assert!(!path.exists());
}

#[test]
fn links_are_not_followed() {
    let (home, cache) = cache(BOUND);
    cache.put(&[1; 32], &table(100)).unwrap();
    let path = file_of(&home, &[1; 32]);
    let elsewhere = home.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert_eq!(cache.get(&[1; 32]), None);
    fs::remove_file(&path).unwrap();
    fs::hard_link(&elsewhere, &path).unwrap();
    assert_eq!(cache.get(&[1; 32]), None, "somebody else has it too");

    let real = home.path().join("memtrace");
    let link = home.path().join("link");
    symlink(&real, &link).unwrap();
    assert!(Cache::at(&link.join("unwind"), BOUND).is_err());
}

#[test]
fn directories_of_others_are_not_used() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("memtrace/unwind");
    fs::create_dir_all(&path).unwrap();
    let open = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    open(0o770);
    assert!(Cache::at(&path, BOUND).is_err());
    open(0o700);
    assert!(Cache::at(&path, BOUND).is_ok());
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(Cache::at(&path, BOUND).is_err(), "others could replace it");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    if own_id() != 0 {
        crate::skipped::skipped("giving a directory away needs root");
        return;
    }
    chown(home.path(), Some(1), None).unwrap();
    assert!(Cache::at(&path, BOUND).is_err());
    chown(home.path(), Some(0), None).unwrap();
    chown(&path, Some(1), None).unwrap();
    assert!(Cache::at(&path, BOUND).is_err());
}

#[test]
fn the_bound_holds_and_what_is_used_stays() {
    let one = format::encode(&[0; 32], &table(100)).len() as u64;
    let (home, cache) = cache(one * 10);
    for number in 0..10 {
        cache.put(&[number; 32], &table(100)).unwrap();
        let file = File::options()
            .write(true)
            .open(file_of(&home, &[number; 32]))
            .unwrap();
        let age = Duration::from_secs(3600 * (100 - u64::from(number)));
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    // The oldest one has just been used, so it is not the oldest any more.
    assert!(cache.get(&[0; 32]).is_some());
    cache.put(&[10; 32], &table(100)).unwrap();
    let kept: Vec<u8> = (0..=10)
        .filter(|&n| file_of(&home, &[n; 32]).exists())
        .collect();
    assert_eq!(kept, [0, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn what_nobody_is_still_writing_is_removed() {
    let (home, cache) = cache(BOUND);
    let left = home.path().join("memtrace/unwind/left.tmp");
    let file = File::create(&left).unwrap();
    cache.put(&[1; 32], &table(9)).unwrap();
    assert!(left.exists(), "somebody may still be writing it");
    file.set_modified(SystemTime::now() - 2 * ABANDONED)
        .unwrap();
    cache.put(&[1; 32], &table(9)).unwrap();
    assert!(!left.exists());
}

#[test]
fn several_writers_at_once_do_not_disturb_each_other() {
    let (_home, cache) = cache(BOUND);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let cache = &cache;
            scope.spawn(move || {
                for number in 0..50 {
                    let identity = [number % 5; 32];
                    cache
                        .put(&identity, &table(100 + u32::from(number % 5)))
                        .unwrap();
                    let read = cache.get(&[(number + thread) % 5; 32]);
                    let expected = table(100 + u32::from((number + thread) % 5));
                    assert!(read.is_none_or(|read| read == expected));
                }
            });
        }
    });
}
