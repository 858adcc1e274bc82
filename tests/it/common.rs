//! Agents on scripted peers, and bounded waits for what an agent shows.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use mqtt_agent::{Agent, Lost, Options, State, Stats, Version};
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, watch};

use crate::support::{millis, within, Broker, Peer, Scripted, LIMIT, VERSION};

/// Options for this URL that try again at once after a loss.
pub(crate) fn options(url: &str) -> Options {
    Agent::builder(url).unwrap().version(VERSION).reconnect(|_: &Lost| Some(millis(10)))
}

/// The same, with a session that the peer may keep.
pub(crate) fn kept(server: &Scripted) -> Options {
    options(&server.url()).clean_session(false).client_id("kept")
}

/// An agent that speaks MQTT 5, whatever the others do.
pub(crate) async fn mqtt5(broker: &Broker) -> Agent {
    options(&broker.url()).version(Version::V5).connect().await.unwrap()
}

/// Never tries again.
pub(crate) fn give_up(_: &Lost) -> Option<Duration> {
    None
}

/// An agent with these options and the far end of its connection, which is up.
pub(crate) async fn linked(server: &Scripted, options: Options) -> (Agent, Peer) {
    let (agent, (peer, _)) = tokio::join!(options.connect(), server.accept_session(false));
    (agent.unwrap(), peer)
}

/// An agent that is offline until the far end of its connection, which has read CONNECT, answers it.
pub(crate) async fn held_offline(server: &Scripted, options: Options) -> (Agent, Peer) {
    let agent = options.connect_lazy().unwrap();
    let mut peer = server.accept().await;
    peer.expect_connect().await;
    (agent, peer)
}

/// An address that refuses connections for as long as the socket lives.
pub(crate) fn refusing_address() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

/// Waits until `reached` is true of the agent's state, and returns that state.
pub(crate) async fn state(agent: &Agent, what: &str, reached: impl FnMut(&State) -> bool) -> State {
    watched(&mut agent.state(), what, reached).await
}

/// As [`state`], where the agent itself may be gone.
pub(crate) async fn watched(
    state: &mut watch::Receiver<State>,
    what: &str,
    reached: impl FnMut(&State) -> bool,
) -> State {
    within(LIMIT, what, state.wait_for(reached)).await.expect("the actor is alive").clone()
}

/// What the state was when the answer to a call came, which `cause` makes it do. To be run in one thread, so that nothing
/// moves between the answer and the look.
pub(crate) async fn state_when_answered<F: Future>(agent: &Agent, call: F, cause: impl Future) -> (State, F::Output) {
    struct OnWake<F>(F);
    impl<F: Fn() + Send + Sync + 'static> Wake for OnWake<F> {
        fn wake(self: Arc<Self>) {
            self.0();
        }
    }
    let (woken, mut states) = mpsc::unbounded_channel();
    let state = agent.state();
    let look = move || drop(woken.send(state.borrow().clone()));
    let waker = Waker::from(Arc::new(OnWake(look)));
    let mut call = pin!(call);
    let mut poll = || call.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(poll().is_pending());
    cause.await;
    loop {
        let mut last = within(LIMIT, "an answer", states.recv()).await.unwrap();
        while let Ok(later) = states.try_recv() {
            last = later;
        }
        if let Poll::Ready(answer) = poll() {
            return (last, answer);
        }
    }
}

/// Waits until `reached` is true of the agent's counters.
pub(crate) async fn stats(agent: &Agent, what: &str, mut reached: impl FnMut(&Stats) -> bool) {
    let started = Instant::now();
    while !reached(&agent.stats()) {
        assert!(started.elapsed() < LIMIT, "expected {what}, got {:?}", agent.stats());
        tokio::time::sleep(millis(1)).await;
    }
}

/// Waits until the agent holds nothing for anyone.
pub(crate) async fn nothing_left(agent: &Agent, after: &str) {
    let what = format!("nothing left after {after}");
    stats(agent, &what, |stats| {
        [stats.pending_requests, stats.filters, stats.subscribers, stats.in_flight, stats.queued] == [0; 5]
    })
    .await;
}
