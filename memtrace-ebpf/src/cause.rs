//! What a write to Python's memory was, seen in that memory before the write is done.
//!
//! Reading later would be wrong: by then the object may have been freed, and another one be there.

use memtrace_common::interpreter::{FREE_THREADED, Interpreter, REFCOUNT_32};
use memtrace_common::record::{Cause, Evidence};

use crate::maps::{SCRATCH, Scratch, TYPES_SEEN};
use crate::memory::{self, PAGE_SIZE, is_pointer};

/// Words of [`Scratch::window`]: four before the address, and four from it on.
pub const WINDOW: usize = 8;
/// Words of a type that are looked at: up to its flags.
pub const TYPE_WORDS: usize = 24;

/// Types that are remembered on each CPU; a power of two.
pub const TYPES: usize = 16;

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

/// What a write was.
#[derive(Clone, Copy)]
pub struct Judged {
    /// [`Cause`], as far as memory tells.
    pub cause: Cause,
    /// What made it so.
    pub evidence: Evidence,
    /// Address of the object's type; 0 where there is none.
    pub object_type: u64,
    /// Bytes from the object's or block's start.
    pub offset: i32,
}

impl Judged {
    /// Nothing was looked at.
    #[inline(always)]
    pub fn unseen(cause: Cause) -> Self {
        Self {
            cause,
            evidence: Evidence::None,
            object_type: 0,
            offset: 0,
        }
    }

    #[inline(always)]
    fn of(cause: Cause, evidence: Evidence, object_type: u64, offset: u64) -> Self {
        Self {
            cause,
            evidence,
            object_type,
            offset: offset as i32,
        }
    }
}

/// Looks at the memory around `address`, which the running thread is about to write.
///
/// A call of its own and not inlined: the verifier then follows it once.
#[inline(never)]
pub fn judge(python: &Interpreter, address: u64) -> Judged {
    let unreadable = Judged::of(Cause::Unknown, Evidence::Unreadable, 0, 0);
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return unreadable;
    };
    // SAFETY: the lookup gave this CPU's value, which only this program uses now.
    let scratch = unsafe { &mut *scratch };
    if !read_window(scratch, address & !7) {
        return unreadable;
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
    by_object_before(scratch, python, address).unwrap_or(Judged::of(
        Cause::Unknown,
        Evidence::Elsewhere,
        0,
        0,
    ))
}

/// Reads the words around `at`. Those of the page before are not needed often enough to risk that
/// they are not there, since a read that fails is slow; those behind are, where a header lies
/// across.
#[inline(always)]
fn read_window(scratch: &mut Scratch, at: u64) -> bool {
    let in_page = at & (PAGE_SIZE - 1);
    memory::clear(&mut scratch.window);
    let window = &raw mut scratch.window;
    // SAFETY: each read is of a constant size within the window.
    unsafe {
        let window = window.cast::<u64>();
        if (32..=PAGE_SIZE - 32).contains(&in_page) {
            return memory::read(window, 64, at - 32);
        }
        if in_page < 32 {
            return memory::read(window.add(4), 32, at);
        }
        // The address's own page is there; the next one may not be.
        (0..4).all(|n| {
            let ok = memory::read(window.add(4 + n), 8, at + 8 * n as u64);
            ok || n > 0
        })
    }
}

/// The flags of the type at `address`; [`NO_TYPE`] when it is none.
///
/// What was found to be a type is one for as long as an object refers to it, so the last ones are
/// remembered.
#[inline(never)]
fn type_flags(python: &Interpreter, address: u64) -> u64 {
    if !is_pointer(address) {
        return NO_TYPE;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return NO_TYPE;
    };
    // SAFETY: the lookup gave this CPU's value, which only this program uses now.
    let scratch = unsafe { &mut *scratch };
    // User addresses have 47 bits.
    let key = address | scratch.python.interpreter() << 47;
    let place = (address >> 4 ^ address >> 9) as usize & (TYPES - 1);
    let (known, flags) = scratch.types[place];
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
    scratch.types[place] = (key, flags);
    if TYPES_SEEN.get_ptr(key).is_none() {
        let _ = TYPES_SEEN.insert(key, 1, 0);
        scratch.wake = 1;
    }
    flags
}

/// In place of a type's flags: it is none. No type has this flag.
const NO_TYPE: u64 = 1 << 63;

/// Class and flags of the type at `address`.
#[inline(always)]
fn read_type(scratch: &mut Scratch, python: &Interpreter, address: u64) -> Option<(u64, u64)> {
    let buffer = scratch.type_words.as_mut_ptr();
    // SAFETY: the buffer has that many words.
    if !unsafe { memory::read(buffer, TYPE_WORDS as u64 * 8, address) } {
        return None;
    }
    let class = memory::at(&scratch.type_words, u64::from(python.object_type))?;
    let flags = memory::at(&scratch.type_words, u64::from(python.type_flags))?;
    Some((class, flags))
}

/// Whether a word can be a living object's reference count.
#[inline(always)]
fn is_count(python: &Interpreter, word: u64) -> bool {
    if python.flags & REFCOUNT_32 == 0 {
        return word != 0 && word >> 40 == 0;
    }
    let count = word as u32;
    // Objects that never die are not counted, so not written. From 3.14 on the upper quarter has
    // flags.
    let has_flags = python.version >= 0x030e;
    count != 0 && count >> 31 == 0 && (word >> 32) as u16 == 0 && (has_flags || word >> 48 == 0)
}

/// Whether the address is an object's reference count or the collector's header before one.
#[inline(always)]
fn by_header(scratch: &Scratch, python: &Interpreter, address: u64) -> Option<Judged> {
    let [.., here, second, third, fourth] = scratch.window;
    if address.is_multiple_of(8) && type_flags(python, second) != NO_TYPE {
        if is_count(python, here) {
            return Some(Judged::of(Cause::Refcount, Evidence::Refcount, second, 0));
        }
        if here == 0 {
            return Some(Judged::of(Cause::Allocator, Evidence::Freed, second, 0));
        }
    }
    // The header's second word, and its first.
    if is_count(python, second) && has_gc(python, third) {
        return Some(Judged::of(Cause::Gc, Evidence::GcHeader, third, 8));
    }
    if is_count(python, third) && has_gc(python, fourth) {
        return Some(Judged::of(Cause::Gc, Evidence::GcHeader, fourth, 0));
    }
    None
}

#[inline(always)]
fn has_gc(python: &Interpreter, class: u64) -> bool {
    let flags = type_flags(python, class);
    flags != NO_TYPE && flags & HAVE_GC != 0
}

/// The same for the free-threaded build, where all of it is in the object's own header.
#[inline(always)]
fn by_free_threaded_header(
    scratch: &Scratch,
    python: &Interpreter,
    address: u64,
) -> Option<Judged> {
    let [.., second, third, fourth] = scratch.window;
    let in_word = address & 7;
    let refcount = |class| Judged::of(Cause::Refcount, Evidence::Refcount, class, 0);
    // `ob_ref_shared` is right before the type.
    if in_word == 0 && type_flags(python, second) != NO_TYPE {
        return Some(refcount(second));
    }
    // One word further before it: flags, `ob_gc_bits` at 3, and `ob_ref_local` at 4.
    if type_flags(python, third) != NO_TYPE {
        return Some(if in_word >= 4 {
            refcount(third)
        } else {
            Judged::of(Cause::Gc, Evidence::GcHeader, third, 8 + in_word)
        });
    }
    // The first word: which thread owns the count.
    (in_word == 0 && type_flags(python, fourth) != NO_TYPE).then(|| refcount(fourth))
}

/// Where in one of the interpreter's pools the address is, if it is in one.
#[inline(always)]
fn by_pool(scratch: &mut Scratch, python: &Interpreter, address: u64) -> Option<Judged> {
    let size = u64::from(python.pool_size);
    let pool = address & !(size - 1);
    // SAFETY: the window has 64 bytes.
    if !unsafe { memory::read(scratch.pool.as_mut_ptr(), POOL_HEADER, pool) } {
        return None;
    }
    let [used, _, _, _, indices, offsets, ..] = scratch.pool;
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
        return Some(Judged::of(
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

/// Whether a pool's block has an object.
#[inline(always)]
fn by_block(
    scratch: &mut Scratch,
    python: &Interpreter,
    block: u64,
    size: u64,
    in_block: u64,
) -> Judged {
    // SAFETY: the window has 64 bytes; a block has at least 16, and what is behind is of the same
    // pool.
    let read = unsafe { memory::read(scratch.pool.as_mut_ptr(), 32, block) };
    let [first, second, third, fourth, ..] = scratch.pool;
    if read {
        if type_flags(python, second) != NO_TYPE {
            if is_count(python, first) {
                return Judged::of(Cause::Object, Evidence::Field, second, in_block);
            }
            if first == 0 {
                return Judged::of(Cause::Allocator, Evidence::Freed, second, in_block);
            }
        }
        if size >= 2 * GC_HEAD && has_gc(python, fourth) {
            let in_object = in_block.wrapping_sub(GC_HEAD);
            if is_count(python, third) {
                return Judged::of(Cause::Object, Evidence::Field, fourth, in_object);
            }
            if third == 0 {
                return Judged::of(Cause::Allocator, Evidence::Freed, fourth, in_object);
            }
        }
    }
    Judged::of(Cause::Unknown, Evidence::Block, 0, in_block)
}

/// Outside of pools: whether an object begins just before the address.
#[inline(always)]
fn by_object_before(scratch: &mut Scratch, python: &Interpreter, address: u64) -> Option<Judged> {
    if address & (PAGE_SIZE - 1) < 32 {
        // Left out so far; if it is not there, it stays zero.
        let window = scratch.window.as_mut_ptr();
        // SAFETY: the window has room for 64 bytes.
        if !unsafe { memory::read(window, 32, (address & !7) - 32) } {
            return None;
        }
    }
    let [w0, w1, w2, w3, ..] = scratch.window;
    let in_word = address & 7;
    if python.flags & FREE_THREADED != 0 {
        // The header has four words; half of the second is the owner's count, the third that of
        // other threads.
        let field = |second: u64, class, offset: u64| {
            (second >> 32 != 0 && type_flags(python, class) != NO_TYPE)
                .then(|| Judged::of(Cause::Object, Evidence::Field, class, offset + in_word))
        };
        return field(w1, w3, 32).or_else(|| field(w0, w2, 40));
    }
    let field = |count, class, offset: u64| {
        (is_count(python, count) && type_flags(python, class) != NO_TYPE)
            .then(|| Judged::of(Cause::Object, Evidence::Field, class, offset + in_word))
    };
    field(w2, w3, 16)
        .or_else(|| field(w1, w2, 24))
        .or_else(|| field(w0, w1, 32))
}
