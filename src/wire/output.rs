//! What is to be written: packets one behind the other, large payloads as they are.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Small packets are copied into one buffer, so that many of them are one write. A large payload is not copied: it goes
/// out from where its sender put it, between the bytes of the buffer that come before and after it.
#[derive(Debug)]
pub(crate) struct Output {
    packets: BytesMut,
    /// In order; how many bytes of `packets` go before each.
    payloads: VecDeque<(usize, Bytes)>,
    /// The bytes of all `payloads`.
    payload_bytes: usize,
    /// From this length on a payload is not copied.
    large: usize,
}

/// What is copied for less than the slices of its own would cost.
const LARGE: usize = 4 * 1024;
/// A buffer that grew beyond this for one packet is given back.
const KEPT: usize = 256 * 1024;

impl Output {
    /// A stream that is not `vectored` would make a write, and so a record or a frame, of each slice: for it everything
    /// is copied.
    pub(crate) fn new(vectored: bool) -> Self {
        Self::parting(if vectored { LARGE } else { usize::MAX })
    }

    /// Keeps payloads of at least so many bytes apart.
    pub(crate) fn parting(large: usize) -> Self {
        Self { packets: BytesMut::new(), payloads: VecDeque::new(), payload_bytes: 0, large }
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len() + self.payload_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffer at the end of which the next packet goes.
    pub(super) fn packets(&mut self) -> &mut BytesMut {
        &mut self.packets
    }

    /// The end of a packet whose beginning is in [`packets`](Self::packets).
    pub(super) fn put_payload(&mut self, payload: &Bytes) {
        if payload.len() < self.large {
            return self.packets.extend_from_slice(payload);
        }
        self.payload_bytes += payload.len();
        self.payloads.push_back((self.packets.len(), payload.clone()));
    }

    /// All of it, where no payload is apart: as it mostly is.
    pub(crate) fn one_slice(&self) -> Option<&[u8]> {
        self.payloads.is_empty().then_some(&self.packets)
    }

    /// As much from the front as there are places; how many of these are used.
    pub(crate) fn slices<'a>(&'a self, places: &mut [IoSlice<'a>]) -> usize {
        let mut from = 0;
        let apart = self.payloads.iter().flat_map(|(before, payload)| {
            let packets = &self.packets[std::mem::replace(&mut from, *before)..*before];
            [packets, payload]
        });
        let last = self.payloads.back().map_or(0, |(before, _)| *before);
        let all = apart.chain([&self.packets[last..]]).filter(|slice| !slice.is_empty());
        places.iter_mut().zip(all).map(|(place, slice)| *place = IoSlice::new(slice)).count()
    }

    /// So many bytes from the front are written.
    pub(crate) fn advance(&mut self, bytes: usize) {
        let mut left = bytes.min(self.len());
        while left > 0 {
            left -= match self.payloads.front_mut() {
                Some((0, payload)) => {
                    let gone = left.min(payload.len());
                    payload.advance(gone);
                    if payload.is_empty() {
                        self.payloads.pop_front();
                    }
                    self.payload_bytes -= gone;
                    gone
                }
                next => {
                    let gone = left.min(next.map_or(self.packets.len(), |(before, _)| *before));
                    self.packets.advance(gone);
                    self.payloads.iter_mut().for_each(|(before, _)| *before -= gone);
                    gone
                }
            };
        }
        if self.packets.is_empty() && self.packets.capacity() > KEPT {
            self.packets = BytesMut::new();
        }
    }

    /// All of it in one piece.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn to_bytes(&self) -> BytesMut {
        let mut places = vec![IoSlice::new(&[]); 2 * self.payloads.len() + 1];
        let used = self.slices(&mut places);
        places[..used].iter().flat_map(|slice| slice.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(output: &mut Output, head: &[u8], payload: &[u8]) {
        output.packets().extend_from_slice(head);
        output.put_payload(&Bytes::copy_from_slice(payload));
    }

    #[test]
    fn a_small_payload_is_copied_behind_its_packet_and_a_large_one_stays_where_it_is() {
        let mut output = Output::new(true);
        let large = Bytes::from(vec![b'x'; LARGE]);
        put(&mut output, b"small", b"!");
        output.packets().extend_from_slice(b"large");
        output.put_payload(&large);
        put(&mut output, b"small", b"!");
        let mut places = [IoSlice::new(&[]); 8];
        assert_eq!((output.one_slice(), output.slices(&mut places)), (None, 3));
        assert_eq!((&*places[0], &*places[2]), (&b"small!large"[..], &b"small!"[..]));
        assert_eq!(places[1].as_ptr(), large.as_ptr(), "it was copied");
    }

    #[test]
    fn for_a_stream_that_takes_one_slice_at_a_time_all_is_one() {
        let mut output = Output::new(false);
        put(&mut output, b"head", &[b'x'; LARGE]);
        put(&mut output, b"head", &[b'x'; 4 * LARGE]);
        assert_eq!(output.one_slice().map(<[u8]>::len), Some(output.len()));
    }

    #[test]
    fn what_was_written_is_held_no_longer() {
        let mut output = Output::parting(1);
        let payload = Bytes::from(vec![b'x'; 10]);
        output.packets().extend_from_slice(b"head");
        output.put_payload(&payload);
        output.advance(13);
        assert!(!payload.is_unique());
        output.advance(1);
        assert!(payload.is_unique() && output.is_empty());

        let mut output = Output::new(false);
        put(&mut output, b"head", &vec![b'x'; 4 * KEPT]);
        output.advance(usize::MAX);
        assert!(output.packets.capacity() <= KEPT);
    }

    proptest! {
        #[test]
        fn whatever_a_writer_takes_at_a_time_it_gets_each_byte_once_and_in_order(
            packets in prop::collection::vec((0..6_usize, 0..20_usize), 0..20),
            takes in prop::collection::vec(1..40_usize, 1..10),
            places in 1..6_usize,
        ) {
            let mut bytes = (0..=u8::MAX).cycle();
            let mut next = |count: usize| bytes.by_ref().take(count).collect::<Vec<_>>();
            let (mut output, mut all, mut got) = (Output::parting(8), Vec::new(), Vec::<u8>::new());
            let mut packets = packets.into_iter();
            for take in takes.into_iter().cycle().take(1_000) {
                if let Some((head, payload)) = packets.next() {
                    let (head, payload) = (next(head), next(payload));
                    put(&mut output, &head, &payload);
                    all.extend(head.into_iter().chain(payload));
                }
                prop_assert_eq!(&output.to_bytes()[..], &all[got.len()..]);
                let mut slices = vec![IoSlice::new(&[]); places];
                let used = output.slices(&mut slices);
                let offered = slices[..used].iter().flat_map(|slice| slice.iter().copied());
                let taken: Vec<_> = offered.take(take).collect();
                prop_assert_eq!(taken.is_empty(), output.is_empty());
                got.extend(&taken);
                output.advance(taken.len());
                prop_assert_eq!(output.len(), all.len() - got.len());
            }
            prop_assert_eq!(got, all);
        }
    }
}
