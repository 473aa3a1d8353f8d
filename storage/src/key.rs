//! Helpers for keys whose byte order is the order of what they encode.
//!
//! Big-endian integers compare like the numbers. The crate that owns a table owns its layout; only
//! what all tables share is here.

/// The exclusive upper bound of all keys that start with `prefix`.
///
/// `None` if there is no such bound: the prefix is empty or consists of `0xff` only. Layouts start
/// with a kind byte below `0xff`, so that theirs always exists.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// The smallest key above `key`, for exclusive lower and inclusive upper bounds.
pub fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefix_end_carries_over_full_bytes() {
        assert_eq!(prefix_end(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(prefix_end(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xff, 0xff]), None);
        assert_eq!(prefix_end(&[]), None);
    }

    /// Few distinct bytes, so that random keys share prefixes often.
    fn bytes(len_max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 0xfe, 0xff]), 0..len_max)
    }

    proptest! {
        #[test]
        fn a_key_is_inside_the_range_exactly_if_it_has_the_prefix(prefix in bytes(4), key in bytes(7)) {
            if let Some(end) = prefix_end(&prefix) {
                let inside = prefix <= key && key < end;
                prop_assert_eq!(inside, key.starts_with(&prefix));
            }
        }

        #[test]
        fn nothing_lies_between_a_key_and_its_successor(key in bytes(5), other in bytes(7)) {
            let next = successor(&key);
            prop_assert!(next > key);
            prop_assert!(other <= key || other >= next);
        }
    }
}
