//! Runs give the same bytes as single messages, for all lengths and numbers of messages, and forgeries are found.

use proptest::prelude::*;

use super::*;
use crate::message::TAG_SIZE;

const KEY: [u8; 32] = [0x5a; 32];

/// Texts of these lengths, one behind the other with some bytes between them, and the buffer.
fn lay_out(lengths: &[usize], seed: u8) -> (Vec<u8>, Vec<Text>) {
    let (mut buffer, mut texts) = (vec![seed; 16], Vec::new());
    for (number, length) in lengths.iter().enumerate() {
        let start = buffer.len();
        buffer.extend((0..*length).map(|at| (at * 7 + number * 13) as u8 ^ seed));
        let counter = (number as u64 + 3) << (u32::from(seed) % 57);
        texts.push(Text { counter, start, end: buffer.len() });
        buffer.extend([seed; TAG_SIZE + 16]);
    }
    (buffer, texts)
}

/// One by one, by *ring*.
fn seal_singly(buffer: &mut [u8], texts: &[Text]) {
    assert!(Key::new(&KEY, Cipher::Portable).seal(buffer, texts));
}

fn check(lengths: &[usize], seed: u8) {
    let key = Key::new(&KEY, Cipher::Fastest);
    let (plain, texts) = lay_out(lengths, seed);
    let (mut together, mut singly) = (plain.clone(), plain.clone());
    assert!(key.seal(&mut together, &texts));
    seal_singly(&mut singly, &texts);
    assert!(together == singly, "lengths {lengths:?}, seed {seed}: not the same bytes");
    let authentic = key.open(&mut together, &texts);
    assert!(authentic[..texts.len()].iter().all(|is| *is), "lengths {lengths:?}, seed {seed}: {authentic:?}");
    assert_eq!(Key::new(&KEY, Cipher::Portable).open(&mut singly, &texts), authentic);
    for (text, length) in texts.iter().zip(lengths) {
        assert_eq!(together[text.start..text.end].len(), *length);
        assert!(together[text.start..text.end] == plain[text.start..text.end], "lengths {lengths:?}");
    }
}

#[test]
fn every_length_alone_among_others_and_in_runs_of_its_own() {
    for length in 0..700 {
        check(&[length, 1440, length], length as u8);
        check(&[length; 5], length as u8);
    }
    for length in [1423, 1424, 1425, 1440, 1500, 9000, 65_000] {
        for many in 1..=BATCH {
            let mut lengths = vec![length; many];
            check(&lengths, many as u8);
            lengths[many - 1] = 1;
            check(&lengths, many as u8);
        }
    }
}

#[test]
fn accumulators_at_their_limits() {
    // Texts whose cipher text is all ones make Poly1305 carry as far as it can.
    let key = Key::new(&KEY, Cipher::Fastest);
    for length in [16, 64, 1424, 1440] {
        let (mut stream, texts) = lay_out(&[length; BATCH], 1);
        for text in &texts {
            stream[text.start..text.end].fill(0);
        }
        assert!(key.seal(&mut stream, &texts));
        for text in &texts {
            stream[text.start..text.end].iter_mut().for_each(|byte| *byte = !*byte);
        }
        let (mut together, mut singly) = (stream.clone(), stream);
        assert!(key.seal(&mut together, &texts));
        seal_singly(&mut singly, &texts);
        assert!(together[texts[0].start..texts[0].end].iter().all(|byte| *byte == 0xff));
        assert!(together == singly, "length {length}");
    }
}

#[test]
fn many_one_time_keys() {
    for seed in 0..=255 {
        check(&[1440; BATCH], seed);
    }
}

#[test]
fn a_forged_message_is_found_and_the_others_are_opened() {
    forge(&Key::new(&KEY, Cipher::Fastest));
}

#[test]
fn the_same_one_by_one() {
    forge(&Key::new(&KEY, Cipher::Portable));
}

fn forge(key: &Key) {
    let (plain, texts) = lay_out(&[100; BATCH], 9);
    let mut sealed = plain.clone();
    assert!(key.seal(&mut sealed, &texts));
    for (forged, text) in texts.iter().enumerate() {
        for at in text.start..text.end + TAG_SIZE {
            let mut buffer = sealed.clone();
            buffer[at] ^= 1 << (at % 8);
            let authentic = key.open(&mut buffer, &texts);
            for (number, text) in texts.iter().enumerate() {
                assert_eq!(authentic[number], number != forged, "byte {at}, message {number}");
                let is_plain = buffer[text.start..text.end] == plain[text.start..text.end];
                assert_eq!(is_plain, number != forged, "a forged text does not become plain");
            }
        }
    }
    let mut wrong = texts.clone();
    wrong[3].counter += 1;
    assert!(!key.open(&mut sealed, &wrong)[3], "a wrong counter");
}

proptest! {
    #[test]
    fn mixed_lengths(lengths in prop::collection::vec(0usize..1600, 1..=BATCH), seed: u8) {
        check(&lengths, seed);
    }
}

/// Poly1305 as it is defined, bit by bit: for keys that no counter leads to.
#[cfg(target_arch = "x86_64")]
mod extremes {
    use super::*;

    /// Numbers below 2¹³⁰ - 5: what is above 2¹²⁸, and the rest.
    type Number = (u8, u128);

    const P: Number = (3, u128::MAX - 4);

    fn add(a: Number, b: Number) -> Number {
        let (low, carry) = a.1.overflowing_add(b.1);
        let high = a.0 + b.0 + u8::from(carry);
        if (high, low) < P {
            return (high, low);
        }
        let (low, borrow) = low.overflowing_sub(P.1);
        (high - P.0 - u8::from(borrow), low)
    }

    fn tag(key: &[u8; 32], text: &[u8]) -> u128 {
        let number = |bytes: &[u8]| u128::from_le_bytes(bytes.try_into().expect("16 bytes"));
        let r = number(&key[..16]) & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
        let mut padded = text.to_vec();
        padded.resize(text.len().next_multiple_of(16), 0);
        padded.extend((text.len() as u128).checked_shl(64).expect("less than 128").to_le_bytes());
        let mut sum: Number = (0, 0);
        for block in padded.chunks(16) {
            let term = add(sum, (1, number(block)));
            sum = (0, 0);
            for bit in (0..128).rev() {
                sum = add(sum, sum);
                if r >> bit & 1 == 1 {
                    sum = add(sum, term);
                }
            }
        }
        sum.1.wrapping_add(number(&key[16..]))
    }

    #[test]
    fn tags_agree_with_the_definition() {
        let Some(wide) = wide::WideKey::new(&KEY) else {
            let is_able = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma");
            assert!(!is_able, "there is nothing to compare on a processor that lacks it, and only there");
            return;
        };
        for r in [0x00, 0x01, 0x04, 0x7f, 0xff] {
            for s in [0x00, 0x01, 0xff] {
                for text in [0x00, 0x01, 0xfb, 0xff] {
                    let mut key = [r; 32];
                    key[16..].fill(s);
                    let texts: Vec<Vec<u8>> = (0..8).map(|many| vec![text; many * 37]).collect();
                    let views: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
                    let tags = wide.tags(&[key; 8], &views);
                    for (text, got) in texts.iter().zip(tags) {
                        assert_eq!(got, tag(&key, text), "r {r:x}, s {s:x}, text {text:x?}");
                    }
                }
            }
        }
    }
}
