//! Native frames: from each function to its caller, by unwind tables or by frame pointers.
//!
//! A walk depends on nothing but the registers, the set of mappings, and the words that it reads of
//! the stack. So a fault with the same registers and set as the one before on this CPU, and the same
//! words at those places, has the same frames: they are compared, and not walked over again.

use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use core::hint::black_box;
use memtrace_common::config::{UNWIND_AUTO, UNWIND_FP, UNWIND_OFF};
use memtrace_common::record::MAX_FRAMES;
use memtrace_common::unwind::{
    CFA_END, CFA_FP, CFA_GAP, CFA_KIND, CFA_PLT, CFA_RULE, CFA_SIGNAL, CFA_SP, FP_LOST, FP_SAME,
    MAX_MAPPINGS, MAX_ROWS, Mapping, NO_ROWS_NONE, NO_ROWS_YET, OTHER_SAME, RULE_BASE_FP,
    RULE_BASE_OTHER, RULE_DEREF, RULE_FP_FROM_FP, RULE_FP_LOST, RULE_FP_SAVED, RULE_OTHER_SAME,
    RULE_OTHER_SAVED, SetHandle, StackEnd,
};

use crate::globals;
use crate::maps::{CHUNK, KNOWN, MAPPINGS, PIECE, ROWS, RULES, SCRATCH, Scratch};
use crate::memory::{self, PAGE_SIZE, mix};
use crate::task::Registers;

/// A frame that is larger than this is none.
const MAX_FRAME: u64 = 64 << 20;

/// The frame of a function that keeps a frame pointer, as a row has it.
const FRAME_POINTER_ROW: u64 = ((CFA_FP | 16) as u64) << 32 | (-16_i16 as u16 as u64) << 48;

/// Rows that are remembered, a power of two. Most return addresses are seen again and again, and
/// searching the tables takes a cache miss or two for each.
pub const KNOWN_ROWS: usize = 1024;

/// Words of the stack that are remembered of a walk: two of each frame.
pub const CHECKS: usize = 256;

/// Steps of the search for a row and for a mapping.
const ROW_STEPS: u32 = MAX_ROWS.ilog2() + 1;
const MAPPING_STEPS: u32 = MAX_MAPPINGS.ilog2() + 1;

/// Offsets from the stack pointer, at the trampoline that a signal handler returns to, to the
/// interrupted code's frame pointer, stack pointer and instruction: the kernel's `ucontext`.
const SIGNAL_FP: u64 = 120;
const SIGNAL_SP: u64 = 160;
const SIGNAL_IP: u64 = 168;

/// Where the walk is. In per-CPU room, since the verifier then knows nothing of the values, and
/// need not follow each of the steps.
#[repr(C)]
pub struct Walk {
    /// The frame that was found last: its address, stack pointer, frame pointer and other register.
    pc: u64,
    sp: u64,
    fp: u64,
    other: u64,
    /// 1 when a frame was found by the other register.
    by_other: u64,
    /// 1 when the address is one to which a call returns, 0 when it is an instruction itself.
    is_return: u64,
    /// The process's set of mappings.
    set: u64,
    /// The mapping that an address was found in last.
    mapping: Mapping,
    /// The address that [`Scratch::piece`] was read from, and how many bytes it holds.
    piece: u64,
    size: u64,
    /// Frames so far, and the hash over them.
    len: u64,
    hash: u64,
    /// A [`StackEnd`], coded.
    pub end: u64,
    /// Words that have been read of the stack; and while they are compared, how many have been.
    checks: u64,
    compared: u64,
    /// Where a search is.
    low: u64,
    high: u64,
}

/// What the walk that was completed last began with, and what came out.
#[repr(C)]
pub struct Seen {
    ip: u64,
    sp: u64,
    fp: u64,
    set: u64,
    len: u64,
    hash: u64,
    end: u64,
    /// Where the outermost frame begins: one past the highest address that was read, as a rule.
    top: u64,
    /// Words to compare; 0 when nothing is remembered.
    checks: u64,
}

/// A word of the stack that a walk depends on.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Check {
    address: u64,
    value: u64,
}

/// A row, and what it was found for.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KnownRow {
    pc: u64,
    /// The set of mappings; 0 when nothing is remembered.
    set: u64,
    row: u64,
}

/// Walks from `registers` to the outermost caller, in a process with the mappings of `set`. Returns
/// the stack's hash, and how many frames there are.
#[inline(always)]
pub fn walk(scratch: &mut Scratch, registers: Registers, set: u64) -> (u64, u64) {
    let Registers { ip, fp, sp, other } = registers;
    let walk = &mut scratch.walk;
    // No piece yet: nothing is in it.
    memory::set(&mut walk.piece, 0);
    memory::set(&mut walk.size, 0);
    let seen = &scratch.seen;
    let is_same = seen.ip == ip && seen.sp == sp && seen.fp == fp && seen.set == set;
    if globals::HAS_LOOP.load() != 0 && seen.checks != 0 && is_same {
        walk.compared = 0;
        repeat(compare);
        let (walk, seen) = (&mut scratch.walk, &scratch.seen);
        if walk.compared >= seen.checks {
            walk.end = seen.end;
            return (seen.hash, seen.len);
        }
    }
    let walk = &mut scratch.walk;
    memory::set(&mut scratch.seen.checks, 0);
    scratch.frames[0] = ip;
    walk.pc = ip;
    walk.sp = sp;
    walk.fp = fp;
    walk.other = other;
    memory::set(&mut walk.by_other, 0);
    memory::set(&mut walk.is_return, 0);
    walk.set = set;
    // No mapping yet.
    memory::set(&mut walk.mapping.start, 0);
    memory::set(&mut walk.mapping.end, 0);
    memory::set(&mut walk.len, 1);
    walk.hash = mix(0, ip);
    memory::set(&mut walk.checks, 0);
    if globals::UNWIND.load() == UNWIND_OFF {
        walk.end = StackEnd::Off as u64;
    } else {
        walk.end = StackEnd::Depth as u64;
        repeat(step);
    }
    let walk = &scratch.walk;
    let hash = mix(walk.hash, walk.len | walk.end << 8);
    // Where it depends on one more register, which changes often and matters seldom, it is not
    // remembered.
    if walk.checks < CHECKS as u64 && walk.by_other == 0 {
        let seen = &mut scratch.seen;
        seen.ip = ip;
        seen.sp = sp;
        seen.fp = fp;
        seen.set = set;
        seen.len = walk.len;
        seen.hash = hash;
        seen.end = walk.end;
        seen.top = walk.sp;
        seen.checks = walk.checks;
    }
    (hash, walk.len)
}

/// Calls `step` until it returns something else than 0.
#[inline(always)]
fn repeat(step: unsafe extern "C" fn(u32, *mut c_void) -> i64) {
    const MOST: u32 = CHECKS as u32;
    if globals::HAS_LOOP.load() == 0 {
        // As many as are taken; the verifier follows each.
        for i in 0..MAX_FRAMES as u32 {
            // SAFETY: the functions of this module make nothing of their second argument.
            if unsafe { step(i, core::ptr::null_mut()) } != 0 {
                break;
            }
        }
        return;
    }
    // SAFETY: the helper calls the function with the pointer given.
    unsafe { bpf_loop(MOST, step as *mut c_void, core::ptr::null_mut(), 0) };
}

/// Compares a few words of the stack with what they were: 0 to go on.
unsafe extern "C" fn compare(_: u32, _: *mut c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the lookup gave this CPU's value, which only this program uses now.
    let scratch = unsafe { &mut *scratch };
    for _ in 0..8 {
        let at = scratch.walk.compared;
        if at >= scratch.seen.checks {
            return 1;
        }
        let Check { address, value } = scratch.checks[at as usize & (CHECKS - 1)];
        let most = scratch.seen.top.wrapping_sub(address);
        if stack_word(scratch, address, most) != Some(value) {
            return 1;
        }
        scratch.walk.compared = at + 1;
    }
    0
}

/// One step of [`walk`]: 0 to go on.
unsafe extern "C" fn step(_: u32, _: *mut c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the lookup gave this CPU's value, which only this program uses now.
    let scratch = unsafe { &mut *scratch };
    match try_step(scratch) {
        Ok(()) => 0,
        Err(end) => {
            scratch.walk.end = end as u64;
            1
        }
    }
}

/// Finds the caller of the last frame.
#[inline(always)]
fn try_step(scratch: &mut Scratch) -> Result<(), StackEnd> {
    let Walk {
        pc,
        sp,
        fp,
        other,
        is_return,
        ..
    } = scratch.walk;
    // A call may be its function's last instruction.
    let probe = pc - is_return;
    let row = find(scratch, probe)?;
    let by_frame_pointer = row == FRAME_POINTER_ROW;
    let kind = (row >> 32) as u16 & CFA_KIND;
    let argument = u64::from((row >> 32) as u16 & !CFA_KIND);
    let fp_rule = (row >> 48) as i16 & !OTHER_SAME;
    let mut caller_other = if (row >> 48) as i16 & OTHER_SAME == 0 {
        0
    } else {
        other
    };
    let mut other_at = 0;
    // Where the caller's frame pointer is in memory, or 0; and the caller's when it is not there.
    let mut fp_at = 0;
    let mut caller_fp = if fp_rule == FP_LOST { 0 } else { fp };
    let cfa;
    if kind == CFA_SP {
        cfa = sp.wrapping_add(argument);
    } else if kind == CFA_FP {
        cfa = fp.wrapping_add(argument);
    } else if kind == CFA_END {
        return Err(StackEnd::Outermost);
    } else if kind == CFA_GAP {
        return Err(StackEnd::Gap);
    } else if kind == CFA_PLT {
        let pushed = probe & 15 >= argument >> 3;
        cfa = sp.wrapping_add(if pushed { 16 } else { 8 });
    } else if kind == CFA_SIGNAL {
        return interrupted(scratch, sp);
    } else if kind == CFA_RULE {
        (cfa, fp_at, caller_fp, other_at, caller_other) = by_rule(scratch, argument >> 3)?;
    } else {
        return Err(StackEnd::Unsupported);
    }
    if kind != CFA_RULE && fp_rule != FP_SAME && fp_rule != FP_LOST {
        fp_at = cfa.wrapping_add_signed(i64::from(fp_rule));
    }
    // The caller's frame is further up. Code without frame pointers has anything in that register.
    if cfa & 7 != 0 || cfa.wrapping_sub(sp).wrapping_sub(8) >= MAX_FRAME {
        return Err(if by_frame_pointer {
            StackEnd::FramePointers
        } else {
            StackEnd::Damaged
        });
    }
    let unreadable = if by_frame_pointer {
        StackEnd::FramePointers
    } else {
        StackEnd::Unreadable
    };
    if fp_at != 0 {
        caller_fp = checked_word(scratch, fp_at).ok_or(unreadable)?;
    }
    if other_at != 0 {
        caller_other = checked_word(scratch, other_at).ok_or(unreadable)?;
    }
    let return_address = checked_word(scratch, cfa - 8).ok_or(unreadable)?;
    if return_address == 0 {
        return Err(if by_frame_pointer {
            StackEnd::FramePointers
        } else {
            StackEnd::Outermost
        });
    }
    scratch.walk.is_return = 1;
    scratch.walk.other = caller_other;
    push(scratch, return_address, cfa, caller_fp)
}

/// By a rule that does not fit in a row: CFA; where the caller's frame pointer is in memory, or 0, and
/// else it itself; the same of the other register.
#[inline(always)]
fn by_rule(scratch: &mut Scratch, index: u64) -> Result<(u64, u64, u64, u64, u64), StackEnd> {
    let Walk { sp, fp, other, .. } = scratch.walk;
    let rule = RULES.get(index as u32).ok_or(StackEnd::Unsupported)?;
    let has = |flag| rule.flags & flag != 0;
    let base = if has(RULE_BASE_OTHER) {
        scratch.walk.by_other = 1;
        other
    } else if has(RULE_BASE_FP) {
        fp
    } else {
        sp
    };
    let place = base.wrapping_add_signed(i64::from(rule.cfa_offset));
    let cfa = if has(RULE_DEREF) {
        checked_word(scratch, place).ok_or(StackEnd::Unreadable)?
    } else {
        place
    };
    let fp_at = if has(RULE_FP_SAVED) {
        let base = if has(RULE_FP_FROM_FP) { fp } else { cfa };
        base.wrapping_add_signed(i64::from(rule.fp_offset))
    } else {
        0
    };
    let other_at = if has(RULE_OTHER_SAVED) {
        cfa.wrapping_add_signed(i64::from(rule.other_offset))
    } else {
        0
    };
    let caller_fp = if has(RULE_FP_LOST) { 0 } else { fp };
    let caller_other = if has(RULE_OTHER_SAME) { other } else { 0 };
    Ok((cfa, fp_at, caller_fp, other_at, caller_other))
}

/// The caller of a signal's trampoline is the code that the signal interrupted.
#[inline(always)]
fn interrupted(scratch: &mut Scratch, sp: u64) -> Result<(), StackEnd> {
    let fp = checked_word(scratch, sp.wrapping_add(SIGNAL_FP)).ok_or(StackEnd::Unreadable)?;
    let caller_sp =
        checked_word(scratch, sp.wrapping_add(SIGNAL_SP)).ok_or(StackEnd::Unreadable)?;
    let ip = checked_word(scratch, sp.wrapping_add(SIGNAL_IP)).ok_or(StackEnd::Unreadable)?;
    scratch.walk.is_return = 0;
    scratch.walk.other = 0;
    push(scratch, ip, caller_sp, fp)
}

/// Adds a frame.
#[inline(always)]
fn push(scratch: &mut Scratch, pc: u64, sp: u64, fp: u64) -> Result<(), StackEnd> {
    let walk = &mut scratch.walk;
    let len = walk.len as usize;
    if len >= MAX_FRAMES {
        return Err(StackEnd::Depth);
    }
    scratch.frames[len] = pc;
    walk.hash = mix(walk.hash, pc);
    walk.len = len as u64 + 1;
    walk.pc = pc;
    walk.sp = sp;
    walk.fp = fp;
    Ok(())
}

/// [`stack_word`], which is to be compared when this walk is to be repeated.
#[inline(always)]
fn checked_word(scratch: &mut Scratch, address: u64) -> Option<u64> {
    let value = stack_word(scratch, address, PIECE)?;
    let walk = &mut scratch.walk;
    let at = walk.checks;
    scratch.checks[at as usize & (CHECKS - 1)] = Check { address, value };
    walk.checks = at + 1;
    Some(value)
}

/// The word of the stack at `address`; if it has to be read, with up to `most` bytes from there on.
///
/// The target's memory is read in pieces: a read costs about 28 ns, one of [`PIECE`] bytes less
/// than twice that, and holds several frames.
#[inline(always)]
fn stack_word(scratch: &mut Scratch, address: u64, most: u64) -> Option<u64> {
    let walk = &mut scratch.walk;
    let mut at = address.wrapping_sub(walk.piece);
    if address < walk.piece || at + 8 > walk.size {
        // Up to the end of the page: what is behind may not be there, and a read that fails is
        // slow. Unaligned words are read by themselves: they may lie across.
        let in_page = PAGE_SIZE - (address & (PAGE_SIZE - 1));
        let size = if address & 7 != 0 {
            8
        } else if in_page < most {
            in_page
        } else {
            most
        };
        let size = size.clamp(8, CHUNK);
        // SAFETY: the buffer has `CHUNK` bytes.
        if !unsafe { memory::read(scratch.piece.as_mut_ptr(), size, address) } {
            walk.size = 0;
            return None;
        }
        walk.piece = address;
        walk.size = size;
        at = 0;
    }
    // Never true. The verifier wants to see it of the very register that is used, which the
    // compiler must not replace by another.
    let at = black_box(at);
    if at > CHUNK - 8 {
        return None;
    }
    // SAFETY: within the buffer, by the check above.
    Some(unsafe { *scratch.piece.as_ptr().byte_add(at as usize) })
}

/// The row for the code at `probe`.
#[inline(always)]
fn find(scratch: &mut Scratch, probe: u64) -> Result<u64, StackEnd> {
    if globals::UNWIND.load() == UNWIND_FP {
        return Ok(FRAME_POINTER_ROW);
    }
    let set = scratch.walk.set;
    let place = (probe ^ set).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let place = place as usize & (KNOWN_ROWS - 1);
    let known = KNOWN.get_ptr_mut(0).ok_or(StackEnd::Unsupported)?;
    // SAFETY: the lookup gave this CPU's value, which only this program uses now.
    let known = unsafe { &mut (*known)[place] };
    if known.pc == probe && known.set == set {
        return Ok(known.row);
    }
    let row = search(scratch, probe)?;
    *known = KnownRow {
        pc: probe,
        set,
        row,
    };
    Ok(row)
}

/// [`find`], in the tables.
#[inline(always)]
fn search(scratch: &mut Scratch, probe: u64) -> Result<u64, StackEnd> {
    let walk = &mut scratch.walk;
    if probe < walk.mapping.start || probe >= walk.mapping.end {
        find_mapping(walk, probe).ok_or(StackEnd::NoMapping)?;
    }
    let Mapping {
        bias, first, rows, ..
    } = walk.mapping;
    if rows == 0 {
        return if first == NO_ROWS_NONE && globals::UNWIND.load() == UNWIND_AUTO {
            Ok(FRAME_POINTER_ROW)
        } else if first == NO_ROWS_NONE {
            Err(StackEnd::NoTable)
        } else if first == NO_ROWS_YET {
            Err(StackEnd::NoRowsYet)
        } else {
            Err(StackEnd::NoRoom)
        };
    }
    let offset = probe.wrapping_sub(bias);
    walk.low = u64::from(first);
    walk.high = u64::from(first) + u64::from(rows);
    for _ in 0..ROW_STEPS {
        let (low, high) = (walk.low, walk.high);
        if low >= high {
            break;
        }
        let middle = low.midpoint(high);
        let row = ROWS.get(middle as u32).ok_or(StackEnd::Gap)?;
        if *row & 0xffff_ffff <= offset {
            walk.low = middle + 1;
        } else {
            walk.high = middle;
        }
    }
    // The one before the first that begins behind the address.
    let low = walk.low;
    if low <= u64::from(first) {
        return Err(StackEnd::Gap);
    }
    ROWS.get(low as u32 - 1).copied().ok_or(StackEnd::Gap)
}

/// Makes the mapping of `probe` the walk's.
#[inline(always)]
fn find_mapping(walk: &mut Walk, probe: u64) -> Option<()> {
    let set = SetHandle(walk.set);
    let first = u64::from(set.first());
    walk.low = first;
    walk.high = first + u64::from(set.len());
    for _ in 0..MAPPING_STEPS {
        let (low, high) = (walk.low, walk.high);
        if low >= high {
            break;
        }
        let middle = low.midpoint(high);
        let mapping = MAPPINGS.get(middle as u32)?;
        if mapping.start <= probe {
            walk.low = middle + 1;
        } else {
            walk.high = middle;
        }
    }
    let low = walk.low;
    if low <= first {
        return None;
    }
    let mapping = MAPPINGS.get(low as u32 - 1)?;
    if probe >= mapping.end {
        return None;
    }
    walk.mapping = *mapping;
    Some(())
}
