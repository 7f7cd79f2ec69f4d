//! What a write to the memory of a CPython was: see [`cause`](crate::cause).
//!
//! An object is recognised by its second word, which points to a type, and a type by its own type.

use memtrace_common::interpreter::python::{FREE_THREADED, Layout, REFCOUNT_32};
use memtrace_common::record::{Cause, Evidence};

use super::python::{layout, walked};
use crate::arch::POINTER_BITS;
use crate::cause::{Judged, read_around, read_before};
use crate::maps::TYPES_SEEN;
use crate::memory::{self, is_pointer};
use crate::scratch::{Scratch, TYPES, scratch};

/// Words of a type that are looked at: up to its flags.
const TYPE_WORDS: u64 = 24;

/// `tp_flags`: the collector tracks objects of this type.
const HAVE_GC: u64 = 1 << 14;
/// `tp_flags`: a class of classes.
const TYPE_SUBCLASS: u64 = 1 << 31;

/// Bytes of the header that the collector has before an object.
const GC_HEAD: u64 = 16;
/// Bytes of a pool's header.
const POOL_HEADER: u64 = 48;
/// Sizes of blocks: multiples of this, up to 32 of them.
const BLOCK_STEP: u64 = 16;

/// Looks at the memory around `address`, which the running thread is about to write, and says in
/// this CPU's room what the write is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn python_judge(interpreter: u64, address: u64) -> u64 {
    let (Some(scratch), Some(python)) = (scratch(), layout(interpreter)) else {
        return 0;
    };
    scratch.judged = judge(scratch, python, address);
    0
}

#[inline(always)]
fn judge(scratch: &mut Scratch, python: &Layout, address: u64) -> Judged {
    if !read_around(scratch, address & !7) {
        return Judged::unknown(Evidence::Unreadable);
    }
    let header = if python.flags & FREE_THREADED == 0 {
        by_header(scratch, python, address)
    } else {
        by_free_threaded_header(scratch, python, address)
    };
    if let Some(judged) = header {
        return judged;
    }
    if python.pool_size != 0
        && let Some(judged) = by_pool(scratch, python, address)
    {
        return judged;
    }
    by_object_before(scratch, python, address).unwrap_or(Judged::unknown(Evidence::Elsewhere))
}

/// The flags of the type at `address`; [`NO_TYPE`] when there is not a type.
///
/// What was found to be a type is one for as long as an object refers to it, so the last ones are
/// remembered.
#[inline(always)]
fn type_flags(_: &Layout, address: u64) -> u64 {
    if is_pointer(address) {
        python_type_flags(address)
    } else {
        NO_TYPE
    }
}

/// [`type_flags`] of what may be a pointer.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn python_type_flags(address: u64) -> u64 {
    let Some((scratch, python)) = walked() else {
        return NO_TYPE;
    };
    let key = address | scratch.script.interpreter << POINTER_BITS;
    let place = (address >> 4 ^ address >> 9) as usize & (TYPES - 1);
    let (known, flags) = scratch.python.types[place];
    if known == key {
        return flags;
    }
    let Some((class, flags)) = read_type(scratch, python, address) else {
        return NO_TYPE;
    };
    if class != python.type_type {
        // A class of classes is one whose own class is `type`.
        let class_of_classes = is_pointer(class)
            && read_type(scratch, python, class)
                .is_some_and(|(of, flags)| of == python.type_type && flags & TYPE_SUBCLASS != 0);
        if !class_of_classes {
            return NO_TYPE;
        }
    }
    let flags = flags & !NO_TYPE;
    scratch.python.types[place] = (key, flags);
    if TYPES_SEEN.get_ptr(key).is_none() {
        let _ = TYPES_SEEN.insert(key, 1, 0);
        scratch.wakeups.due = 1;
    }
    flags
}

/// In place of a type's flags, where there is not a type. A type never has this flag.
const NO_TYPE: u64 = 1 << 63;

/// Class and flags of the type at `address`.
#[inline(always)]
fn read_type(scratch: &mut Scratch, python: &Layout, address: u64) -> Option<(u64, u64)> {
    let class = &mut scratch.python.class;
    // SAFETY: the buffer has more than that many words.
    if !unsafe { memory::read(class.as_mut_ptr(), TYPE_WORDS * 8, address) } {
        return None;
    }
    let of = memory::word_at(class, python.object_type);
    let flags = memory::word_at(class, python.type_flags);
    Some((of, flags))
}

/// Whether a word can be a living object's reference count.
#[inline(always)]
fn is_count(python: &Layout, word: u64) -> bool {
    if python.flags & REFCOUNT_32 == 0 {
        return word != 0 && word >> 40 == 0;
    }
    let count = word as u32;
    // Immortal objects are not counted, so their counts are not written. From 3.14 on the upper
    // quarter has flags.
    let has_flags = python.version >= 0x030e;
    count != 0 && count >> 31 == 0 && (word >> 32) as u16 == 0 && (has_flags || word >> 48 == 0)
}

/// Whether the address is an object's reference count or the collector's header before one.
#[inline(always)]
fn by_header(scratch: &Scratch, python: &Layout, address: u64) -> Option<Judged> {
    let [.., here, second, third, fourth] = scratch.around;
    if address.is_multiple_of(8) && type_flags(python, second) != NO_TYPE {
        if is_count(python, here) {
            return Some(Judged::seen(Cause::Refcount, Evidence::Refcount, second, 0));
        }
        if here == 0 {
            return Some(Judged::seen(Cause::Allocator, Evidence::Freed, second, 0));
        }
    }
    // The header's second word, and its first.
    if is_count(python, second) && has_gc(python, third) {
        return Some(Judged::seen(Cause::Gc, Evidence::GcHeader, third, 8));
    }
    if is_count(python, third) && has_gc(python, fourth) {
        return Some(Judged::seen(Cause::Gc, Evidence::GcHeader, fourth, 0));
    }
    None
}

#[inline(always)]
fn has_gc(python: &Layout, class: u64) -> bool {
    let flags = type_flags(python, class);
    flags != NO_TYPE && flags & HAVE_GC != 0
}

/// Does what [`by_header`] does for the free-threaded build, where all of it is in the object's own
/// header.
#[inline(always)]
fn by_free_threaded_header(scratch: &Scratch, python: &Layout, address: u64) -> Option<Judged> {
    let [.., second, third, fourth] = scratch.around;
    let in_word = address & 7;
    let refcount = |class| Judged::seen(Cause::Refcount, Evidence::Refcount, class, 0);
    // `ob_ref_shared` is right before the type.
    if in_word == 0 && type_flags(python, second) != NO_TYPE {
        return Some(refcount(second));
    }
    // One word further before it: flags, `ob_gc_bits` at 3, and `ob_ref_local` at 4.
    if type_flags(python, third) != NO_TYPE {
        return Some(if in_word >= 4 {
            refcount(third)
        } else {
            Judged::seen(Cause::Gc, Evidence::GcHeader, third, 8 + in_word)
        });
    }
    // The first word: which thread owns the count.
    (in_word == 0 && type_flags(python, fourth) != NO_TYPE).then(|| refcount(fourth))
}

/// Where in one of the interpreter's pools the address is, if it is in one.
#[inline(always)]
fn by_pool(scratch: &mut Scratch, python: &Layout, address: u64) -> Option<Judged> {
    let size = u64::from(python.pool_size);
    let pool = address & !(size - 1);
    // SAFETY: there is room for 64 bytes.
    if !unsafe { memory::read(scratch.python.pool.as_mut_ptr(), POOL_HEADER, pool) } {
        return None;
    }
    let [used, _, _, _, indices, offsets, ..] = scratch.python.pool;
    let class = indices >> 32;
    let (next, last) = (offsets & 0xffff_ffff, offsets >> 32);
    let block_size = (class + 1) * BLOCK_STEP;
    let is_pool = class < 32
        && last == size.wrapping_sub(block_size)
        && next <= size
        && u64::from(used as u32) <= size / BLOCK_STEP;
    if !is_pool {
        return None;
    }
    let from_pool = address - pool;
    if from_pool < POOL_HEADER {
        return Some(Judged::seen(
            Cause::Allocator,
            Evidence::PoolHeader,
            0,
            from_pool,
        ));
    }
    let in_block = (from_pool - POOL_HEADER) % block_size;
    Some(by_block(
        scratch,
        python,
        address - in_block,
        block_size,
        in_block,
    ))
}

/// Whether there is an object in a pool's block.
#[inline(always)]
fn by_block(
    scratch: &mut Scratch,
    python: &Layout,
    block: u64,
    size: u64,
    in_block: u64,
) -> Judged {
    // SAFETY: there is room for 64 bytes; a block has at least 16, and what is behind is of the
    // same pool.
    let read = unsafe { memory::read(scratch.python.pool.as_mut_ptr(), 32, block) };
    let [first, second, third, fourth, ..] = scratch.python.pool;
    if read {
        if type_flags(python, second) != NO_TYPE {
            if is_count(python, first) {
                return Judged::seen(Cause::Object, Evidence::Field, second, in_block);
            }
            if first == 0 {
                return Judged::seen(Cause::Allocator, Evidence::Freed, second, in_block);
            }
        }
        if size >= 2 * GC_HEAD && has_gc(python, fourth) {
            let in_object = in_block.wrapping_sub(GC_HEAD);
            if is_count(python, third) {
                return Judged::seen(Cause::Object, Evidence::Field, fourth, in_object);
            }
            if third == 0 {
                return Judged::seen(Cause::Allocator, Evidence::Freed, fourth, in_object);
            }
        }
    }
    Judged::seen(Cause::Unknown, Evidence::Block, 0, in_block)
}

/// Outside of pools: whether an object begins just before the address.
#[inline(always)]
fn by_object_before(scratch: &mut Scratch, python: &Layout, address: u64) -> Option<Judged> {
    if !read_before(scratch, address & !7) {
        return None;
    }
    let [w0, w1, w2, w3, ..] = scratch.around;
    let in_word = address & 7;
    if python.flags & FREE_THREADED != 0 {
        // The header has four words; half of the second is the owner's count, the third that of
        // other threads.
        let field = |second: u64, class, offset: u64| {
            (second >> 32 != 0 && type_flags(python, class) != NO_TYPE)
                .then(|| Judged::seen(Cause::Object, Evidence::Field, class, offset + in_word))
        };
        return field(w1, w3, 32).or_else(|| field(w0, w2, 40));
    }
    let field = |count, class, offset: u64| {
        (is_count(python, count) && type_flags(python, class) != NO_TYPE)
            .then(|| Judged::seen(Cause::Object, Evidence::Field, class, offset + in_word))
    };
    field(w2, w3, 16)
        .or_else(|| field(w1, w2, 24))
        .or_else(|| field(w0, w1, 32))
}
