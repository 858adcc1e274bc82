//! The packets in a stream of bytes from a broker, and what becomes of them on the way.

/// A kind of packet that a broker sends (MQTT 3.1.1, table 2.1); for [`Proxy::drop_next`](super::Proxy::drop_next) and
/// [`MemoryBroker::drop_next`](super::MemoryBroker::drop_next).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Packet {
    /// The answer to CONNECT.
    ConnAck = 2,
    /// A message.
    Publish = 3,
    /// The acknowledgement of a QoS 1 message.
    PubAck = 4,
    /// The first acknowledgement of a QoS 2 message.
    PubRec = 5,
    /// The release of a QoS 2 message that the broker sent.
    PubRel = 6,
    /// The last acknowledgement of a QoS 2 message.
    PubComp = 7,
    /// The answer to SUBSCRIBE.
    SubAck = 9,
    /// The answer to UNSUBSCRIBE.
    UnsubAck = 11,
    /// The answer to a PINGREQ.
    PingResp = 13,
}

/// What is to happen to packets that have not come yet.
#[derive(Debug, Default)]
pub(super) struct Plans {
    /// How many of each kind are dropped, by its number.
    drops: [usize; 16],
    /// How many were dropped and not told yet.
    dropped: usize,
    refusals: usize,
}

impl Plans {
    pub(super) fn drop_next(&mut self, packet: Packet) {
        self.drops[packet as usize] += 1;
    }

    pub(super) fn refuse_next_suback(&mut self) {
        self.refusals += 1;
    }

    /// How many were dropped since this was last asked.
    pub(super) fn take_dropped(&mut self) -> usize {
        std::mem::take(&mut self.dropped)
    }

    pub(super) fn take(&mut self, kind: u8) -> Fate {
        let drops = &mut self.drops[usize::from(kind)];
        if *drops > 0 {
            *drops -= 1;
            self.dropped += 1;
            return Fate::Drop;
        }
        if kind == Packet::SubAck as u8 && self.refusals > 0 {
            self.refusals -= 1;
            return Fate::Refuse;
        }
        Fate::Pass
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    Drop,
    Refuse,
}

/// Follows the packets from the broker. What is not MQTT passes as it is, as long as nothing is planned.
#[derive(Debug, Default)]
pub(super) struct Packets {
    /// The packet that is coming in: its fate, how much of it came, how long it is.
    current: Option<(Fate, Progress)>,
    /// What came of a packet that is to be changed.
    held: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Progress {
    /// Bytes of the length read, and their value so far.
    Length {
        read: u32,
        value: usize,
    },
    Body {
        left: usize,
    },
}

impl Packets {
    /// Appends to `out` what is to be handed on of `bytes`.
    pub(super) fn pass(&mut self, mut bytes: &[u8], is_v5: bool, plans: &mut Plans, out: &mut Vec<u8>) {
        while let Some(&first) = bytes.first() {
            let (fate, progress) =
                self.current.unwrap_or_else(|| (plans.take(first >> 4), Progress::Length { read: 0, value: 0 }));
            let is_start = self.current.is_none();
            let (taken, progress) = match progress {
                Progress::Length { .. } if is_start => (1, progress),
                Progress::Length { read, value } => (1, progress_of_length(read, value, first)),
                Progress::Body { left } => {
                    let taken = left.min(bytes.len());
                    (taken, Progress::Body { left: left - taken })
                }
            };
            match fate {
                Fate::Pass => out.extend_from_slice(&bytes[..taken]),
                Fate::Drop => {}
                Fate::Refuse => self.held.extend_from_slice(&bytes[..taken]),
            }
            bytes = &bytes[taken..];
            self.current = match progress {
                Progress::Body { left: 0 } => {
                    refuse(&mut self.held, is_v5);
                    out.append(&mut self.held);
                    None
                }
                _ => Some((fate, progress)),
            };
        }
    }
}

fn progress_of_length(read: u32, value: usize, byte: u8) -> Progress {
    let value = value | usize::from(byte & 0x7f) << (7 * read);
    match byte & 0x80 != 0 && read < 3 {
        true => Progress::Length { read: read + 1, value },
        false => Progress::Body { left: value },
    }
}

/// Makes each return code of a SUBACK a failure: 0x80 in every version.
fn refuse(suback: &mut [u8], is_v5: bool) {
    let length = |bytes: &[u8]| bytes.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let body = 1 + suback.get(1..).map_or(0, length);
    let mut codes = body + 2;
    if is_v5 {
        // The properties, with their length before them; no broker sends more than 127 bytes of them.
        codes += 1 + suback.get(codes).map_or(0, |length| usize::from(*length));
    }
    if let Some(codes) = suback.get_mut(codes..) {
        codes.fill(0x80);
    }
}

/// Whether the CONNECT that begins with these bytes is one of MQTT 5; None while too few came.
pub(super) fn is_v5(connect: &[u8]) -> Option<bool> {
    let rest = connect.get(1..)?;
    let length = rest.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let name = usize::from(u16::from_be_bytes([*rest.get(length)?, *rest.get(length + 1)?]));
    Some(*rest.get(length + 2 + name)? == 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBACK: [u8; 4] = [0x40, 2, 0, 7];
    const SUBACK: [u8; 6] = [0x90, 4, 0, 1, 1, 2];
    const SUBACK_V5: [u8; 6] = [0x90, 4, 0, 1, 0, 1];

    /// What arrives of these packets, which are handed over in pieces of each size.
    fn passed(packets: &[&[u8]], is_v5: bool, plan: impl Fn(&mut Plans)) -> Vec<u8> {
        let all = packets.concat();
        let mut outcomes = (1..=all.len()).map(|size| {
            let (mut stream, mut plans, mut out) = (Packets::default(), Plans::default(), Vec::new());
            plan(&mut plans);
            for piece in all.chunks(size) {
                stream.pass(piece, is_v5, &mut plans, &mut out);
            }
            out
        });
        let first = outcomes.next().unwrap();
        assert!(outcomes.all(|outcome| outcome == first));
        first
    }

    #[test]
    fn without_a_plan_every_byte_passes_at_once() {
        let (mut stream, mut plans) = (Packets::default(), Plans::default());
        for byte in (0..=255).cycle().take(1000) {
            let mut out = Vec::new();
            stream.pass(&[byte], false, &mut plans, &mut out);
            assert_eq!(out, [byte]);
        }
    }

    #[test]
    fn the_next_of_a_kind_is_dropped_whole_and_the_others_pass() {
        let long = [&[0x30, 0x84, 0x02, 0, 1, b'a'][..], &[9; 257]].concat();
        let puback = |plans: &mut Plans| plans.drop_next(Packet::PubAck);
        let publish = |plans: &mut Plans| plans.drop_next(Packet::Publish);
        assert_eq!(passed(&[&long, &PUBACK, &PUBACK], false, puback), [&long[..], &PUBACK].concat());
        assert_eq!(
            passed(&[&PUBACK, &long, &[0xd0, 0], &PUBACK], false, publish),
            [&PUBACK[..], &[0xd0, 0], &PUBACK].concat()
        );
    }

    #[test]
    fn a_refusal_changes_the_codes_and_nothing_else() {
        let refuse = |plans: &mut Plans| plans.refuse_next_suback();
        let refused = [&PUBACK[..], &[0x90, 4, 0, 1, 0x80, 0x80], &SUBACK].concat();
        assert_eq!(passed(&[&PUBACK, &SUBACK, &SUBACK], false, refuse), refused);
        assert_eq!(passed(&[&SUBACK_V5], true, refuse), [0x90, 4, 0, 1, 0, 0x80]);
        let reason = [0x90, 8, 0, 1, 4, 0x1f, 0, 1, b'x', 1];
        assert_eq!(passed(&[&reason], true, refuse), [0x90, 8, 0, 1, 4, 0x1f, 0, 1, b'x', 0x80]);
    }

    #[test]
    fn the_version_is_in_the_connect() {
        assert_eq!(is_v5(b"\x10\x0c\x00\x04MQTT\x05\x02"), Some(true));
        assert_eq!(is_v5(b"\x10\x8c\x01\x00\x04MQTT\x04\x02"), Some(false));
        assert_eq!(is_v5(b"\x10\x0e\x00\x06MQIsdp\x03"), Some(false));
        for length in 0..8 {
            assert_eq!(is_v5(&b"\x10\x0c\x00\x04MQTT\x05\x02"[..length]), None);
        }
    }
}
