//! What can happen, at random.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Op {
    Publish {
        qos: QoS,
        offline: Offline,
        timeout: Option<Duration>,
        is_large: bool,
    },
    Subscribe {
        filters: Vec<&'static str>,
        qos: QoS,
        retained: Retained,
        timeout: Duration,
    },
    Request {
        reply_to: &'static str,
        qos: QoS,
        offline: Offline,
        timeout: Duration,
    },
    /// A caller drops its future.
    Leave(usize),
    /// A subscription is dropped, or ended by a call.
    Unsubscribe(usize, bool),
    Transmit,
    /// The socket takes so many bytes.
    Write(usize),
    /// The broker gets one of its answers through.
    Answer(usize),
    /// A message for the client.
    Push {
        topic: &'static str,
        qos: QoS,
    },
    /// A message the client has not acknowledged comes again.
    Repeat(usize),
    Lose,
    Connect {
        keep: bool,
    },
    Advance(Duration),
    Close(Option<Duration>),
    /// What was given up or ended is acted on.
    Settle,
}

const FILTERS: [&str; 7] = ["s/a", "s/b", "s/+", "#", "r/a", "no/a", "low/+"];
const TOPICS: [&str; 6] = ["s/a", "s/b", "r/a", "r/b", "low/x", "else"];

pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let qos = || select(&[QOS0, QOS1, QOS2]);
    let offline = || select(&[Offline::Fail, Offline::Wait, Offline::Wait, Offline::Queue]);
    let timeout = || (1_u64..4_000).prop_map(Duration::from_millis);
    let op = prop_oneof![
        8 => (qos(), offline(), proptest::option::weighted(0.8, timeout()), proptest::bool::weighted(0.05))
            .prop_map(|(qos, offline, timeout, is_large)| Op::Publish { qos, offline, timeout, is_large }),
        3 => (
            proptest::collection::vec(select(&FILTERS), 1..4),
            qos(),
            select(&[Retained::IfFirst, Retained::Include, Retained::Ignore, Retained::Only]),
            timeout(),
        )
            .prop_map(|(filters, qos, retained, timeout)| Op::Subscribe { filters, qos, retained, timeout }),
        4 => (select(&["r/a", "r/b", "s/+", "no/r"]), select(&[QOS0, QOS1, QOS1, QOS2]), offline(), timeout())
            .prop_map(|(reply_to, qos, offline, timeout)| Op::Request { reply_to, qos, offline, timeout }),
        2 => any::<usize>().prop_map(Op::Leave),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, calls)| Op::Unsubscribe(which, calls)),
        4 => Just(Op::Transmit),
        6 => prop_oneof![1_usize..60, Just(usize::MAX)].prop_map(Op::Write),
        10 => prop_oneof![3 => Just(0), 1 => any::<usize>()].prop_map(Op::Answer),
        3 => (select(&TOPICS), qos()).prop_map(|(topic, qos)| Op::Push { topic, qos }),
        1 => any::<usize>().prop_map(Op::Repeat),
        2 => Just(Op::Lose),
        4 => proptest::bool::weighted(0.7).prop_map(|keep| Op::Connect { keep }),
        4 => timeout().prop_map(Op::Advance),
        1 => proptest::option::of(timeout()).prop_map(Op::Close),
        2 => Just(Op::Settle),
    ];
    proptest::collection::vec(op, 1..80)
}
