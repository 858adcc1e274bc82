//! What is measured, in the words that go between the processes.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Work {
    /// One after the other.
    Call {
        count: usize,
        size: usize,
    },
    /// All at once, each to a device of its own.
    CallEach {
        count: usize,
    },
    Publish {
        count: usize,
        qos: u8,
        size: usize,
    },
    Receive {
        count: usize,
        size: usize,
    },
    /// Over so many streams.
    ReceiveEach {
        streams: usize,
        count: usize,
    },
    /// Not measured itself: so many filters are held in what follows.
    Hold {
        filters: usize,
    },
}

impl Work {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (name, numbers) = line.split_once(' ')?;
        let numbers: Vec<usize> = numbers.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(match (name, &*numbers) {
            ("call", &[count, size]) => Self::Call { count, size },
            ("each", &[count]) => Self::CallEach { count },
            ("publish", &[count, qos, size]) => Self::Publish { count, qos: u8::try_from(qos).ok()?, size },
            ("receive", &[count, size]) => Self::Receive { count, size },
            ("streams", &[streams, count]) => Self::ReceiveEach { streams, count },
            ("hold", &[filters]) => Self::Hold { filters },
            _ => return None,
        })
    }

    pub(crate) fn operations(self) -> usize {
        match self {
            Self::Call { count, .. }
            | Self::CallEach { count }
            | Self::Publish { count, .. }
            | Self::Receive { count, .. }
            | Self::ReceiveEach { count, .. } => count,
            Self::Hold { filters } => filters,
        }
    }

    /// The same with fewer operations, for a client that takes so many times as long. How many are at once stays as it is:
    /// that is what is measured.
    pub(crate) fn divided(self, by: usize) -> Self {
        let few = |count: usize| (count / by).max(10);
        match self {
            Self::Call { count, size } => Self::Call { count: few(count), size },
            Self::Publish { count, qos, size } => Self::Publish { count: few(count), qos, size },
            Self::Receive { count, size } => Self::Receive { count: few(count), size },
            // As many of each, and enough of them that the tasks are not what is measured.
            Self::ReceiveEach { streams, count } => {
                Self::ReceiveEach { streams, count: (few(count) / streams).max(20) * streams }
            }
            whole @ (Self::CallEach { .. } | Self::Hold { .. }) => whole,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call { count, size } => write!(f, "call {count} {size}"),
            Self::CallEach { count } => write!(f, "each {count}"),
            Self::Publish { count, qos, size } => write!(f, "publish {count} {qos} {size}"),
            Self::Receive { count, size } => write!(f, "receive {count} {size}"),
            Self::ReceiveEach { streams, count } => write!(f, "streams {streams} {count}"),
            Self::Hold { filters } => write!(f, "hold {filters}"),
        }
    }
}
