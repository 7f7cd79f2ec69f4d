//! Native frames: from each function to its caller, by unwind tables or by frame pointers.
//!
//! A walk depends on nothing but the registers, the set of mappings, and the words that it reads of
//! the stack. So a fault with the same registers and set as the one before on this CPU, and the
//! same words at those places, has the same frames: they are compared, and not walked over again.

use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use core::hint::black_box;
use memtrace_common::config::{UNWIND_AUTO, UNWIND_FP, UNWIND_OFF};
use memtrace_common::hash::{SPREAD, mix};
use memtrace_common::record::MAX_FRAMES;
use memtrace_common::unwind::{
    CFA_END, CFA_FP, CFA_GAP, CFA_PLT, CFA_RULE, CFA_SIGNAL, CFA_SP, FP_LOST, FP_SAME,
    MAX_MAPPINGS, MAX_ROWS, Mapping, NO_ROWS_NONE, NO_ROWS_YET, PackedRow, RULE_BASE_FP,
    RULE_BASE_OTHER, RULE_DEREF, RULE_FP_FROM_FP, RULE_FP_LOST, RULE_FP_SAVED, RULE_OTHER_SAME,
    RULE_OTHER_SAVED, SetHandle, StackEnd,
};

use crate::arch::{self, FRAME_POINTER_ROW, SIGNAL_FP, SIGNAL_IP, SIGNAL_SP};
use crate::globals;
use crate::maps::{MAPPINGS, ROWS, RULES};
use crate::memory::{self, PAGE_SIZE};
use crate::registers::Registers;
use crate::scratch::{
    CHECKS, CHUNK, Check, KNOWN, KNOWN_ROWS, KnownRow, PIECE, Scratch, Search, Walk, scratch,
};

/// What is larger than this is not a frame.
const MAX_FRAME: u64 = 64 << 20;

/// Steps of the search for a row.
const ROW_STEPS: u32 = MAX_ROWS.ilog2() + 1;
/// Steps of the search for a mapping.
const MAPPING_STEPS: u32 = MAX_MAPPINGS.ilog2() + 1;

/// Walks from `registers` to the outermost caller, in a process with the mappings of `set`. Returns
/// the stack's hash, and how many frames there are.
#[inline(always)]
pub fn walk(registers: Registers, set: u64) -> Option<(u64, u64)> {
    let walk = &mut scratch()?.walk;
    walk.frame = registers;
    memory::set(&mut walk.set, set);
    native_walk();
    let walk = &scratch()?.walk;
    Some((walk.stack_hash, walk.len))
}

/// [`walk`], from what is in this CPU's room.
///
/// Global, so that the verifier follows it once, whatever its caller did before: see
/// [`main`](crate).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn native_walk() -> u64 {
    let Some(scratch) = scratch() else {
        return 0;
    };
    let (hash, len) = try_walk(scratch);
    scratch.walk.stack_hash = hash;
    scratch.walk.len = len;
    len
}

/// Returns the stack's hash, and how many frames there are.
#[inline(always)]
fn try_walk(scratch: &mut Scratch) -> (u64, u64) {
    let registers = scratch.walk.frame;
    let set = scratch.walk.set;
    let Registers { ip, sp, fp, .. } = registers;
    let walk = &mut scratch.walk;
    // No piece has been read yet: nothing is in it.
    memory::set(&mut walk.piece, 0);
    memory::set(&mut walk.size, 0);
    let last = &scratch.last;
    let is_same = last.ip == ip && last.sp == sp && last.fp == fp && last.set == set;
    if globals::HAS_LOOP.load() != 0 && last.checks != 0 && is_same {
        walk.checks.compared = 0;
        repeat(compare);
        let (walk, last) = (&mut scratch.walk, &scratch.last);
        if walk.checks.compared >= last.checks {
            walk.end = last.end;
            return (last.hash, last.len);
        }
    }
    let walk = &mut scratch.walk;
    memory::set(&mut scratch.last.checks, 0);
    scratch.frames[0] = ip;
    memory::set(&mut walk.by_other, 0);
    memory::set(&mut walk.is_return, 0);
    // No mapping has been found yet.
    memory::set(&mut walk.mapping.start, 0);
    memory::set(&mut walk.mapping.end, 0);
    memory::set(&mut walk.len, 1);
    walk.hash = mix(0, ip);
    memory::set(&mut walk.checks.read, 0);
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
    if walk.checks.read < CHECKS as u64 && walk.by_other == 0 {
        let last = &mut scratch.last;
        last.ip = ip;
        last.sp = sp;
        last.fp = fp;
        last.set = set;
        last.len = walk.len;
        last.hash = hash;
        last.end = walk.end;
        last.top = walk.frame.sp;
        last.checks = walk.checks.read;
    }
    (hash, walk.len)
}

/// Calls `step` until it returns something other than 0.
#[inline(always)]
fn repeat(step: unsafe extern "C" fn(u32, *mut c_void) -> i64) {
    const MOST: u32 = CHECKS as u32;
    if globals::HAS_LOOP.load() == 0 {
        // As many as a stack holds; the verifier follows each.
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
    let Some(scratch) = scratch() else {
        return 1;
    };
    for _ in 0..8 {
        let at = scratch.walk.checks.compared;
        if at >= scratch.last.checks {
            return 1;
        }
        let Check { address, value } = scratch.checks[at as usize & (CHECKS - 1)];
        let most = scratch.last.top.wrapping_sub(address);
        if stack_word(scratch, address, most) != Some(value) {
            return 1;
        }
        scratch.walk.checks.compared = at + 1;
    }
    0
}

/// One step of [`walk`]: 0 to go on.
unsafe extern "C" fn step(_: u32, _: *mut c_void) -> i64 {
    let Some(scratch) = scratch() else {
        return 1;
    };
    match try_step(scratch) {
        Ok(()) => 0,
        Err(end) => {
            scratch.walk.end = end as u64;
            1
        }
    }
}

/// Where a caller's frame begins, and where its registers are.
struct Caller {
    cfa: u64,
    /// Where its frame pointer is in memory, or 0; and the frame pointer when it is not there.
    fp_at: u64,
    fp: u64,
    /// Where its other register is in memory, or 0; and the register when it is not there.
    other_at: u64,
    other: u64,
}

/// Finds the caller of the last frame.
#[inline(always)]
fn try_step(scratch: &mut Scratch) -> Result<(), StackEnd> {
    let frame = scratch.walk.frame;
    // A call may be its function's last instruction.
    let probe = frame.ip - scratch.walk.is_return;
    let row = find(scratch, probe)?;
    let kind = row.kind();
    if kind == CFA_SIGNAL {
        return interrupted(scratch, frame.sp);
    }
    let caller = if kind == CFA_RULE {
        by_rule(scratch, row.argument() >> 3)?
    } else {
        by_row(row, probe, frame)?
    };
    // Code without frame pointers has anything in that register. The outermost function has 0; what
    // the running code has there, nobody has kept as a frame pointer.
    let is_return = scratch.walk.is_return != 0;
    let end = |otherwise| {
        if row != FRAME_POINTER_ROW {
            otherwise
        } else if frame.fp == 0 && is_return {
            StackEnd::FramePointers
        } else {
            StackEnd::LostFramePointer
        }
    };
    let cfa = caller.cfa;
    // The caller's frame is further up.
    if cfa & 7 != 0 || cfa.wrapping_sub(frame.sp).wrapping_sub(8) >= MAX_FRAME {
        return Err(end(StackEnd::Damaged));
    }
    let unreadable = end(StackEnd::Unreadable);
    let (mut fp, mut other) = (caller.fp, caller.other);
    if caller.fp_at != 0 {
        fp = checked_word(scratch, caller.fp_at).ok_or(unreadable)?;
    }
    if caller.other_at != 0 {
        other = checked_word(scratch, caller.other_at).ok_or(unreadable)?;
    }
    let ip = checked_word(scratch, arch::return_address_at(cfa)).ok_or(unreadable)?;
    if ip == 0 {
        return Err(end(StackEnd::Outermost));
    }
    scratch.walk.is_return = 1;
    let sp = cfa;
    push(scratch, Registers { ip, sp, fp, other })
}

/// The caller by a row that says it all, of code at `probe`.
#[inline(always)]
fn by_row(row: PackedRow, probe: u64, frame: Registers) -> Result<Caller, StackEnd> {
    let kind = row.kind();
    let cfa = if kind == CFA_SP {
        frame.sp.wrapping_add(row.argument())
    } else if kind == CFA_FP {
        frame.fp.wrapping_add(row.argument())
    } else if kind == CFA_END {
        return Err(StackEnd::Outermost);
    } else if kind == CFA_GAP {
        return Err(StackEnd::Gap);
    } else if kind == CFA_PLT {
        arch::linkage_cfa(probe, frame.sp, row.argument() >> 3)
    } else {
        return Err(StackEnd::Unsupported);
    };
    let rule = row.fp();
    let fp_at = if rule == FP_SAME || rule == FP_LOST {
        0
    } else {
        cfa.wrapping_add_signed(i64::from(rule))
    };
    Ok(Caller {
        cfa,
        fp_at,
        fp: if rule == FP_LOST { 0 } else { frame.fp },
        other_at: 0,
        other: if row.other_same() { frame.other } else { 0 },
    })
}

/// The caller by the rule at `index`.
#[inline(always)]
fn by_rule(scratch: &mut Scratch, index: u64) -> Result<Caller, StackEnd> {
    let Registers { sp, fp, other, .. } = scratch.walk.frame;
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
    Ok(Caller {
        cfa,
        fp_at,
        fp: if has(RULE_FP_LOST) { 0 } else { fp },
        other_at,
        other: if has(RULE_OTHER_SAME) { other } else { 0 },
    })
}

/// The caller of a signal's trampoline is the code that the signal interrupted.
#[inline(always)]
fn interrupted(scratch: &mut Scratch, at: u64) -> Result<(), StackEnd> {
    let mut saved =
        |offset| checked_word(scratch, at.wrapping_add(offset)).ok_or(StackEnd::Unreadable);
    let frame = Registers {
        fp: saved(SIGNAL_FP)?,
        sp: saved(SIGNAL_SP)?,
        ip: saved(SIGNAL_IP)?,
        other: 0,
    };
    scratch.walk.is_return = 0;
    push(scratch, frame)
}

/// Adds a frame.
#[inline(always)]
fn push(scratch: &mut Scratch, frame: Registers) -> Result<(), StackEnd> {
    let walk = &mut scratch.walk;
    let len = walk.len as usize;
    if len >= MAX_FRAMES {
        return Err(StackEnd::Depth);
    }
    scratch.frames[len] = frame.ip;
    walk.hash = mix(walk.hash, frame.ip);
    walk.len = len as u64 + 1;
    walk.frame = frame;
    Ok(())
}

/// A word of the stack that must be the same for this walk to be repeated.
#[inline(always)]
fn checked_word(scratch: &mut Scratch, address: u64) -> Option<u64> {
    let value = stack_word(scratch, address, PIECE)?;
    let walk = &mut scratch.walk;
    let at = walk.checks.read;
    scratch.checks[at as usize & (CHECKS - 1)] = Check { address, value };
    walk.checks.read = at + 1;
    Some(value)
}

/// The word of the stack at `address`. If it has to be read, up to `most` bytes from there on are.
///
/// The target's memory is read in pieces: a read costs about 28 ns, one of [`PIECE`] bytes less
/// than twice that, and holds several frames.
#[inline(always)]
fn stack_word(scratch: &mut Scratch, address: u64, most: u64) -> Option<u64> {
    let walk = &mut scratch.walk;
    let mut at = address.wrapping_sub(walk.piece);
    if address < walk.piece || at + 8 > walk.size {
        // It is read up to the end of the page: what is behind may not be there, and a read that
        // fails is slow. Unaligned words are read by themselves: they may lie across.
        let in_page = PAGE_SIZE - (address & (PAGE_SIZE - 1));
        let size = if address & 7 != 0 {
            8
        } else if in_page < most {
            in_page
        } else {
            most
        };
        // Verifiers before Linux 6.8 learn nothing from a comparison of two registers, so this is
        // one with a constant.
        let size = black_box(size.clamp(8, CHUNK));
        if size > CHUNK {
            return None;
        }
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

/// The row for the code at `probe`: one that was found lately, or one that is searched for.
#[inline(always)]
fn find(scratch: &mut Scratch, probe: u64) -> Result<PackedRow, StackEnd> {
    if globals::UNWIND.load() == UNWIND_FP {
        return Ok(FRAME_POINTER_ROW);
    }
    let set = scratch.walk.set;
    let place = (probe ^ set).wrapping_mul(SPREAD) >> 40;
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

/// The row for the code at `probe`, from the tables.
#[inline(always)]
fn search(scratch: &mut Scratch, probe: u64) -> Result<PackedRow, StackEnd> {
    let walk = &mut scratch.walk;
    // It has been found just now, or has just begun.
    if SetHandle(walk.set).is_empty() {
        return Err(StackEnd::NoRowsYet);
    }
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
    let search = &mut walk.search;
    search.low = u64::from(first);
    search.high = u64::from(first) + u64::from(rows);
    for _ in 0..ROW_STEPS {
        let Search { low, high } = *search;
        if low >= high {
            break;
        }
        let middle = low.midpoint(high);
        let row = ROWS.get(middle as u32).ok_or(StackEnd::Gap)?;
        if row.pc() <= offset {
            search.low = middle + 1;
        } else {
            search.high = middle;
        }
    }
    // The row before the first that begins behind the address.
    let low = search.low;
    if low <= u64::from(first) {
        return Err(StackEnd::Gap);
    }
    ROWS.get(low as u32 - 1).copied().ok_or(StackEnd::Gap)
}

/// Finds the mapping that `probe` is in, and makes it the walk's.
#[inline(always)]
fn find_mapping(walk: &mut Walk, probe: u64) -> Option<()> {
    let set = SetHandle(walk.set);
    let first = u64::from(set.first());
    let search = &mut walk.search;
    search.low = first;
    search.high = first + u64::from(set.len());
    for _ in 0..MAPPING_STEPS {
        let Search { low, high } = *search;
        if low >= high {
            break;
        }
        let middle = low.midpoint(high);
        let mapping = MAPPINGS.get(middle as u32)?;
        if mapping.start <= probe {
            search.low = middle + 1;
        } else {
            search.high = middle;
        }
    }
    let low = search.low;
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
