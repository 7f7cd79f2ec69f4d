//! The hash by which a stack is known.

/// Odd, and without a pattern in its bits: multiplying by it spreads a value over a word.
pub const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Adds `value` to a hash. Multiplying carries a difference upwards and shifting brings it down
/// again, so that values that differ in one bit give hashes that differ in many.
#[must_use]
#[inline(always)]
pub const fn mix(hash: u64, value: u64) -> u64 {
    let hash = (hash ^ value).wrapping_mul(SPREAD);
    hash ^ hash >> 29
}

/// The hash as an id, which is never 0.
#[must_use]
#[inline(always)]
pub const fn finish(hash: u64) -> u64 {
    let hash = hash ^ hash >> 32;
    if hash == 0 { 1 } else { hash }
}

/// The hash of a page's words. What is in four of them in a row is hashed in four lanes, so that a
/// processor can work on all at once. Whoever writes the page can make two that have one hash.
#[must_use]
#[inline(always)]
pub fn of_page<const N: usize>(words: &[u64; N]) -> u64 {
    let mut lanes = [0u64; 4];
    let mut first = 0;
    while first + 4 <= N {
        let mut lane = 0;
        while lane < 4 {
            lanes[lane] = mix(lanes[lane], words[first + lane]);
            lane += 1;
        }
        first += 4;
    }
    finish(lanes.into_iter().fold(0, mix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses of a stack, as far apart as return addresses are.
    const ADDRESSES: [u64; 4] = [
        0x5555_5555_4a10,
        0x5555_5555_4a38,
        0x7fff_f7c2_9d90,
        0x7fff_f7c2_9e40,
    ];

    fn of(addresses: &[u64]) -> u64 {
        finish(addresses.iter().fold(0, |hash, &word| mix(hash, word)))
    }

    #[test]
    fn one_bit_of_one_address_changes_many_bits_of_the_id() {
        for n in 0..ADDRESSES.len() {
            // User addresses have 47 bits.
            for bit in 0..47 {
                let mut changed = ADDRESSES;
                changed[n] ^= 1 << bit;
                let differing = (of(&changed) ^ of(&ADDRESSES)).count_ones();
                assert!(differing >= 8, "address {n}, bit {bit}: {differing} bits");
            }
        }
    }

    #[test]
    fn the_order_and_the_number_of_addresses_matter() {
        let [a, b, c, d] = ADDRESSES;
        assert_ne!(of(&[a, b, c, d]), of(&[b, a, c, d]));
        assert_ne!(of(&[a, b, c, d]), of(&[a, b, d, c]));
        assert_ne!(of(&[a, b, c]), of(&[a, b, c, d]));
        assert_ne!(of(&[a]), of(&[a, 0]));
    }

    #[test]
    fn pages_that_differ_in_one_word_or_in_their_order_have_different_hashes() {
        let page: [u64; 512] = core::array::from_fn(|n| n as u64 * 7);
        let hash = of_page(&page);
        for n in 0..512 {
            let mut changed = page;
            changed[n] ^= 1 << (n % 64);
            assert_ne!(of_page(&changed), hash, "word {n}");
            let mut swapped = page;
            swapped.swap(n, (n + 1) % 512);
            assert_ne!(of_page(&swapped), hash, "words {n}");
        }
        // The highest bits of two words: what multiplying alone does not tell.
        let mut signs = page;
        signs[4] ^= 1 << 63;
        signs[8] ^= 1 << 63;
        assert_ne!(of_page(&signs), hash);
        assert_ne!(of_page(&[0; 512]), 0);
    }

    #[test]
    fn an_id_is_never_zero() {
        assert_eq!(finish(0), 1);
        for hash in [1, 1 << 32, u64::MAX, 0x1234_5678_1234_5678] {
            assert_ne!(finish(hash), 0, "of {hash:#x}");
        }
    }
}
