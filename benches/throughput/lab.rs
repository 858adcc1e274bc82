//! What is measured and where: each client does the same work in the same process against the same broker.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt_agent::Agent;
use tokio::runtime::{Builder, Runtime};

use crate::bare::Bare;
use crate::contender::{Contender, Device, QoS};
use crate::event_loop::Baseline;
use crate::floor::Floor;
use crate::null_broker::NullBroker;
use crate::{agent, cores};

/// The most workers a client gets: a web server has more, but they do not help a single connection.
const WORKERS: usize = 2;

#[derive(Clone, Copy)]
pub(crate) enum Work {
    Call(QoS),
    CallOnOneThread,
    CallEach,
    Publish(QoS),
    TryPublish,
    Receive,
}

impl Work {
    pub(crate) const ALL: [Self; 8] = [
        Self::Call(QoS::AtMostOnce),
        Self::Call(QoS::AtLeastOnce),
        Self::CallOnOneThread,
        Self::CallEach,
        Self::Publish(QoS::AtMostOnce),
        Self::TryPublish,
        Self::Publish(QoS::AtLeastOnce),
        Self::Receive,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Call(QoS::AtMostOnce) => "call, QoS 0",
            Self::Call(QoS::AtLeastOnce) => "call, QoS 1",
            Self::CallOnOneThread => "call, QoS 0, current_thread",
            Self::CallEach => "10,000 calls at once",
            Self::Publish(QoS::AtMostOnce) => "publish, QoS 0",
            Self::TryPublish => "try_publish, QoS 0",
            Self::Publish(QoS::AtLeastOnce) => "publish, QoS 1, acked",
            Self::Receive => "receive",
        }
    }

    /// How many messages or calls one measured time stands for.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Call(_) | Self::CallOnOneThread => 1,
            Self::CallEach => 10_000,
            Self::Publish(_) | Self::TryPublish => 50_000,
            Self::Receive => 100_000,
        }
    }
}

/// A client on each of the two runtimes.
pub(crate) struct Clients<C> {
    on_workers: C,
    on_one_thread: C,
}

pub(crate) struct Lab {
    pub(crate) event_loop: Clients<Baseline>,
    pub(crate) agent: Clients<Agent>,
    floor: [Floor; 2],
    bare: [Bare; 2],
    bare_on_one_thread: Bare,
    devices: Arc<[Device]>,
    workers: Runtime,
    one_thread: Runtime,
    broker: NullBroker,
    /// Where the clients and the broker run, for those who compare two runs.
    pub(crate) placement: String,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let core = cores::reserve_last();
        let broker = NullBroker::start(core);
        let address = broker.address();
        // More workers than cores would measure how they take the core from each other.
        let count = core.unwrap_or(WORKERS).min(WORKERS);
        let placement = match core {
            Some(core) => format!("workers: {count}; the broker alone on core {core}"),
            None => format!("workers: {count}; the broker on any core, which makes single calls unsteady"),
        };
        let workers = Builder::new_multi_thread().worker_threads(count).enable_all().build().expect("a runtime");
        let one_thread = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let lab = Self {
            event_loop: Clients {
                on_workers: workers.block_on(Baseline::connect(address)),
                on_one_thread: one_thread.block_on(Baseline::connect(address)),
            },
            agent: Clients {
                on_workers: workers.block_on(agent::connect(address)),
                on_one_thread: one_thread.block_on(agent::connect(address)),
            },
            floor: [QoS::AtMostOnce, QoS::AtLeastOnce].map(|qos| Floor::connect(address, qos)),
            bare: [QoS::AtMostOnce, QoS::AtLeastOnce].map(|qos| Bare::connect(&workers, address, qos)),
            bare_on_one_thread: Bare::connect(&one_thread, address, QoS::AtMostOnce),
            devices: (0..Work::CallEach.size()).map(Device::new).collect(),
            workers,
            one_thread,
            broker,
            placement,
        };
        // The first round subscribes to the replies; that is not what a call costs later.
        for work in [Work::CallEach, Work::CallOnOneThread] {
            lab.run(&lab.event_loop, work, 1);
            lab.run(&lab.agent, work, 1);
        }
        lab
    }

    /// Does the work `times` times and says how long each took.
    pub(crate) fn run<C: Contender>(&self, clients: &Clients<C>, work: Work, times: usize) -> Vec<Duration> {
        let (runtime, client) = match work {
            Work::CallOnOneThread => (&self.one_thread, &clients.on_one_thread),
            _ => (&self.workers, &clients.on_workers),
        };
        match work {
            Work::Call(qos) => calls(runtime, client.clone(), qos, times),
            Work::CallOnOneThread => calls(runtime, client.clone(), QoS::AtMostOnce, times),
            _ => (0..times).map(|_| self.run_many(runtime, client.clone(), work)).collect(),
        }
    }

    /// The same without a client, where that is possible.
    pub(crate) fn run_floor(&mut self, work: Work, times: usize) -> Option<Vec<Duration>> {
        let qos = match work {
            Work::Call(qos) => qos,
            Work::CallOnOneThread => QoS::AtMostOnce,
            _ => return None,
        };
        Some(self.floor[qos as usize].calls(times))
    }

    /// The same on Tokio without a client, where that is possible.
    pub(crate) fn run_bare(&self, work: Work, times: usize) -> Option<Vec<Duration>> {
        let (runtime, bare) = match work {
            Work::Call(qos) => (&self.workers, &self.bare[qos as usize]),
            Work::CallOnOneThread => (&self.one_thread, &self.bare_on_one_thread),
            _ => return None,
        };
        Some(on_worker(runtime, bare.clone().calls(times)))
    }

    fn run_many<C: Contender>(&self, runtime: &Runtime, client: C, work: Work) -> Duration {
        let size = work.size();
        let arrived = self.broker.published();
        let start = Instant::now();
        match work {
            Work::Call(_) | Work::CallOnOneThread => unreachable!("one at a time"),
            Work::CallEach => {
                let devices = Arc::clone(&self.devices);
                on_worker(runtime, async move { client.call_each(&devices).await });
            }
            Work::Publish(qos) => on_worker(runtime, async move { client.publish(size, qos).await }),
            Work::TryPublish => on_worker(runtime, async move { client.try_publish(size).await }),
            Work::Receive => return on_worker(runtime, async move { client.receive(size).await }),
        }
        // At QoS 0 a client is done when the messages are handed over, and these two mean different things by that.
        self.broker.wait_published(arrived + size as u64);
        start.elapsed()
    }
}

fn calls<C: Contender>(runtime: &Runtime, client: C, qos: QoS, times: usize) -> Vec<Duration> {
    on_worker(runtime, async move {
        let device = Device::new(0);
        let mut taken = Vec::with_capacity(times);
        for _ in 0..times {
            let start = Instant::now();
            client.call(&device, qos).await;
            taken.push(start.elapsed());
        }
        taken
    })
}

/// Runs the work where a request handler runs: `block_on` alone would add one more thread to wake.
fn on_worker<T: Send + 'static>(runtime: &Runtime, work: impl Future<Output = T> + Send + 'static) -> T {
    runtime.block_on(async { tokio::spawn(work).await.expect("no bench panics") })
}
