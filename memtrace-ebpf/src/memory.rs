//! Reading the traced process's memory, which is hostile: every read is bounded, and may fail.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use core::ffi::c_void;
use core::hint::black_box;
use core::mem::size_of;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// The word at `address`; 0 where it cannot be read, which no caller tells from a null pointer.
#[inline(always)]
pub fn word(address: u64) -> u64 {
    let mut word = 0u64;
    // SAFETY: the buffer is as long as said; an address that is not there gives an error, and
    // zeroes the buffer.
    unsafe { bpf_probe_read_user((&raw mut word).cast(), 8, address as *const c_void) };
    word
}

/// Fills `size` bytes at `buffer` with what is at `address`; returns whether it could be read.
///
/// # Safety
/// The buffer has at least `size` bytes, as far as the verifier can tell.
#[inline(always)]
pub unsafe fn read(buffer: *mut u64, size: u64, address: u64) -> bool {
    // SAFETY: by the caller; an address that is not there gives an error.
    unsafe { bpf_probe_read_user(buffer.cast(), size as u32, address as *const c_void) == 0 }
}

/// A value of `N` words at a place that is only known at run time; `None` beyond the end.
#[inline(always)]
pub fn at<T: Copy, const N: usize>(words: &[u64; N], offset: u64) -> Option<T> {
    // The verifier wants to see the bound of the very register that is used, which the compiler
    // must not replace by another.
    let offset = black_box(offset);
    if offset > (N * 8 - size_of::<T>()) as u64 {
        return None;
    }
    // Fields lie where their size wants them; a read that could be anywhere is made byte by byte.
    let offset = offset & !(size_of::<T>() as u64 - 1);
    // SAFETY: within the array, by the check, and aligned. All types that this is used for are
    // integers.
    Some(unsafe { words.as_ptr().byte_add(offset as usize).cast::<T>().read() })
}

/// Sets words to 0, one by one: what the compiler would make of an assignment is a call of a
/// function that goes byte by byte.
#[inline(always)]
pub fn clear<const N: usize>(words: &mut [u64; N]) {
    for word in words {
        set(word, 0);
    }
}

/// Assigns a word, by a store of its own: see [`clear`].
#[inline(always)]
pub fn set(word: &mut u64, value: u64) {
    // SAFETY: a reference is valid for writes.
    unsafe { core::ptr::write_volatile(word, value) };
}

/// Two steps of multiply and shift: what differs in one bit differs in half of the hash.
#[inline(always)]
pub fn mix(hash: u64, value: u64) -> u64 {
    let hash = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 29
}

/// Whether this can be the address of an object.
#[inline(always)]
pub fn is_pointer(word: u64) -> bool {
    word.is_multiple_of(8) && word >= 0x1_0000 && word >> 47 == 0
}
