//! Cutting and joining are each other's inverse, and both leave packets that a careful receiver accepts.

use std::ops::Range;

use proptest::prelude::*;

use super::checksum::{Sum, pseudo_header};
use super::{Coalescer, HEADER_SIZE, Joins, Segments, VirtioHeader};

/// What a flow of test packets looks like.
#[derive(Debug, Clone)]
struct Shape {
    is_v6: bool,
    is_tcp: bool,
    options: usize,
    /// Payload of each packet.
    sizes: Vec<usize>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let sizes = (1usize..1400, 0usize..40, 1usize..1400).prop_map(|(size, many, last)| {
        let mut sizes = vec![size; many];
        sizes.push(last.min(size));
        sizes
    });
    (any::<bool>(), any::<bool>(), 0usize..=10, sizes).prop_map(|(is_v6, is_tcp, words, sizes)| Shape {
        is_v6,
        is_tcp,
        options: if is_tcp { words * 4 } else { 0 },
        sizes,
    })
}

/// One packet of a flow, with correct checksums.
fn packet(shape: &Shape, index: usize, size: usize, sequence: u32, is_last: bool) -> Vec<u8> {
    let transport = if shape.is_v6 { 40 } else { 20 };
    let header = if shape.is_tcp { 20 + shape.options } else { 8 };
    let mut packet = vec![0; transport + header + size];
    let length = packet.len();
    let protocol = if shape.is_tcp { 6 } else { 17 };
    if shape.is_v6 {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        packet[6] = protocol;
        packet[7] = 64;
        packet[8] = 0xfd;
        packet[39] = 2;
    } else {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet[4..6].copy_from_slice(&(index as u16).to_be_bytes());
        packet[6] = 0x40;
        packet[8] = 64;
        packet[9] = protocol;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let checksum = Sum::default().add(&packet[..20]).finish();
        packet[10..12].copy_from_slice(&checksum);
    }
    packet[transport..transport + 4].copy_from_slice(&[1, 2, 3, 4]);
    if shape.is_tcp {
        packet[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
        packet[transport + 12] = ((header / 4) << 4) as u8;
        packet[transport + 13] = if is_last { 0x18 } else { 0x10 };
        packet[transport + 20..transport + header].fill(1);
    } else {
        let length = (header + size) as u16;
        packet[transport + 4..transport + 6].copy_from_slice(&length.to_be_bytes());
    }
    for (at, byte) in packet[transport + header..].iter_mut().enumerate() {
        *byte = (at * 7 + index * 13) as u8;
    }
    let at = transport + if shape.is_tcp { 16 } else { 6 };
    let addresses = if shape.is_v6 { 8..40 } else { 12..20 };
    let sum = pseudo_header(&packet[addresses], protocol, length - transport);
    let checksum = sum.add(&packet[transport..]).finish();
    packet[at..at + 2].copy_from_slice(if checksum == [0, 0] && !shape.is_tcp {
        &[0xff, 0xff]
    } else {
        &checksum
    });
    packet
}

fn packets(shape: &Shape) -> Vec<Vec<u8>> {
    let mut sequence = u32::MAX - 5000;
    let count = shape.sizes.len();
    let packets = shape.sizes.iter().enumerate().map(|(index, size)| {
        let packet = packet(shape, index, *size, sequence, index + 1 == count);
        sequence = sequence.wrapping_add(*size as u32);
        packet
    });
    packets.collect()
}

/// Everything the coalescer makes of these packets, as the kernel would get it.
fn join(packets: &[Vec<u8>], joins: Joins) -> Vec<Vec<u8>> {
    let mut buffer = Vec::new();
    let mut places: Vec<Range<usize>> = Vec::new();
    for packet in packets {
        // As in a received run: something before and behind each.
        buffer.extend([0xee; 16]);
        places.push(buffer.len()..buffer.len() + packet.len());
        buffer.extend(packet);
    }
    let mut coalescer = Coalescer::new(joins);
    for place in places {
        coalescer.push(&buffer, place);
    }
    let bursts = coalescer.bursts.iter_mut().map(|burst| {
        burst.finish();
        let mut bytes = burst.head().to_vec();
        burst.parts.iter().for_each(|part| bytes.extend(&buffer[part.clone()]));
        bytes
    });
    bursts.collect()
}

/// Cuts everything again.
fn cut(bursts: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for mut burst in bursts {
        let (header, packet) = burst.split_at_mut(HEADER_SIZE);
        let header = VirtioHeader::decode((&*header).try_into().unwrap()).unwrap();
        let segments = Segments::new(&header, packet).unwrap();
        for index in 0..segments.count() {
            let mut packet = vec![0; segments.length(index)];
            segments.write(index, &mut packet);
            out.push(packet);
        }
    }
    out
}

proptest! {
    #[test]
    fn joined_and_cut_again_nothing_has_changed(shape in shape()) {
        let packets = packets(&shape);
        let joined = join(&packets, Joins::TcpAndUdp);
        let most = 65_000 / packets[0].len();
        prop_assert!(joined.len() <= packets.len().div_ceil(most) + 1, "{} of {}", joined.len(), packets.len());
        prop_assert_eq!(cut(joined), packets);
    }

    #[test]
    fn flows_may_be_mixed(shapes in prop::collection::vec(shape(), 1..4), picks in prop::collection::vec(0usize..4, 0..80)) {
        let mut flows: Vec<_> = shapes.iter().enumerate().map(|(number, shape)| {
            let mut packets = packets(shape);
            // Another source port for each flow; the sum changes by as much.
            for packet in &mut packets {
                let transport = if shape.is_v6 { 40 } else { 20 };
                let at = transport + if shape.is_tcp { 16 } else { 6 };
                packet[transport] = 50 + number as u8;
                packet[at..at + 2].fill(0);
                let addresses = if shape.is_v6 { 8..40 } else { 12..20 };
                let protocol = if shape.is_tcp { 6 } else { 17 };
                let sum = pseudo_header(&packet[addresses], protocol, packet.len() - transport);
                let checksum = sum.add(&packet[transport..]).finish();
                packet[at..at + 2].copy_from_slice(if checksum == [0, 0] && !shape.is_tcp { &[0xff, 0xff] } else { &checksum });
            }
            packets.reverse();
            packets
        }).collect();
        let mut mixed = Vec::new();
        for pick in picks {
            let flow = pick % flows.len();
            mixed.extend(flows[flow].pop());
        }
        let out = cut(join(&mixed, Joins::TcpAndUdp));
        prop_assert_eq!(out.len(), mixed.len());
        let port = |packet: &Vec<u8>| packet[if packet[0] >> 4 == 6 { 40 } else { 20 }];
        for flow in 0..shapes.len() as u8 {
            let of_flow = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                packets.iter().filter(|packet| port(packet) == 50 + flow).cloned().collect()
            };
            // Only the IPv4 identification may differ, for a flow that was joined beyond a gap: there is none here.
            prop_assert_eq!(of_flow(&out), of_flow(&mixed), "order and content within the flow");
        }
    }

    #[test]
    fn a_wrong_checksum_is_never_made_right(shape in shape(), which in any::<prop::sample::Index>()) {
        let mut packets = packets(&shape);
        let index = which.index(packets.len());
        let last = packets[index].len() - 1;
        packets[index][last] ^= 0x55;
        let out = cut(join(&packets, Joins::TcpAndUdp));
        prop_assert!(out.contains(&packets[index]), "the damaged packet is passed on as it is");
        prop_assert_eq!(out.len(), packets.len());
    }

    #[test]
    fn a_wrong_header_checksum_is_never_made_right(shape in shape(), which in any::<prop::sample::Index>()) {
        let mut packets = packets(&Shape { is_v6: false, ..shape });
        let index = which.index(packets.len());
        packets[index][10] ^= 0x55;
        let out = cut(join(&packets, Joins::TcpAndUdp));
        prop_assert!(out.contains(&packets[index]), "the damaged packet is passed on as it is");
        prop_assert_eq!(out.len(), packets.len());
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        header in prop::array::uniform10(any::<u8>()),
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
    ) {
        for mut packet in packets.clone() {
            if let Some(header) = VirtioHeader::decode(&header)
                && let Some(segments) = Segments::new(&header, &mut packet)
            {
                for index in 0..segments.count() {
                    let mut out = vec![0; segments.length(index)];
                    segments.write(index, &mut out);
                }
            }
        }
        prop_assert_eq!(join(&packets, Joins::TcpAndUdp).len(), packets.len());
    }
}

#[test]
fn nothing_is_joined_where_the_kernel_cannot_cut() {
    let shape = Shape { is_v6: false, is_tcp: true, options: 12, sizes: vec![1000; 10] };
    assert_eq!(join(&packets(&shape), Joins::Nothing).len(), 10);
    assert_eq!(join(&packets(&shape), Joins::Tcp).len(), 1);
    let shape = Shape { is_tcp: false, options: 0, ..shape };
    assert_eq!(join(&packets(&shape), Joins::Tcp).len(), 10);
    assert_eq!(join(&packets(&shape), Joins::TcpAndUdp).len(), 1);
}

/// Linux before 6.9 refuses a run of more than 64 UDP packets, and with it everything in the run.
#[test]
fn runs_of_small_packets_end_where_the_kernel_refuses_more() {
    for is_tcp in [false, true] {
        let shape = Shape { is_v6: false, is_tcp, options: 0, sizes: vec![1; 1000] };
        let packets = packets(&shape);
        let joined = join(&packets, Joins::TcpAndUdp);
        assert_eq!(joined.len(), 1000usize.div_ceil(64), "TCP {is_tcp}");
        let longest = joined.into_iter().map(|burst| cut(vec![burst]).len()).max();
        assert_eq!(longest, Some(64));
    }
}

/// Fragments of packets that differ in nothing else would be taken for each other's.
#[test]
fn identifications_of_packets_that_may_be_fragmented_are_kept() {
    let shape = Shape { is_v6: false, is_tcp: false, options: 0, sizes: vec![100; 4] };
    let mut packets = packets(&shape);
    for (packet, id) in packets.iter_mut().zip([7u16, 8, 80, 81]) {
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6] = 0;
        packet[10..12].fill(0);
        let checksum = Sum::default().add(&packet[..20]).finish();
        packet[10..12].copy_from_slice(&checksum);
    }
    let joined = join(&packets, Joins::TcpAndUdp);
    assert_eq!(joined.len(), 2);
    assert_eq!(cut(joined), packets);
}

#[test]
fn what_ends_a_flow_stays_behind_it() {
    let shape = Shape { is_v6: true, is_tcp: true, options: 0, sizes: vec![500; 4] };
    let mut packets = packets(&shape);
    // The third becomes a FIN with data, its checksum corrected.
    packets[2][53] |= 1;
    packets[2][56..58].fill(0);
    let sum = pseudo_header(&packets[2][8..40], 6, packets[2].len() - 40).add(&packets[2][40..]).finish();
    packets[2][56..58].copy_from_slice(&sum);
    let joined = join(&packets, Joins::Tcp);
    assert_eq!(joined.len(), 3);
    assert_eq!(cut(joined), packets);
}
