//! The task that owns the connection. It carries: commands and bytes into the session, bytes and deadlines out of it.

use std::future::Future;
use std::pin::{pin, Pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{sleep_until, timeout, Instant, Sleep};
use tracing::field::display;

use crate::allowance::Allowance;
use crate::command::{Command, Notice, Reply};
use crate::connection::Connection;
use crate::dial::{Dialed, Dialer};
use crate::options::{Options, FAR};
use crate::reconnect::{self, Lost, SHORTEST_DELAY};
use crate::session::Session;
use crate::sources::Source;
use crate::state::{Announcer, State};
use crate::stats::Counters;
use crate::telemetry::TARGET;
use crate::transport::Endpoint;
use crate::wire::Outbound;
use crate::{Error, ErrorKind, ReasonCode, Version};

pub(crate) struct Actor {
    /// The first to be dropped: whoever is told of the end sees it in the state.
    state: Announcer,
    options: Arc<Options>,
    client_id: Arc<str>,
    dialer: Arc<Dialer>,
    session: Session,
    commands: mpsc::Receiver<Command>,
    notices: mpsc::UnboundedReceiver<Notice>,
    counters: Arc<Counters>,
    link: Link,
    /// Connections that were lost or not made, one after the other.
    failures: u32,
    /// The number of the endpoint to try first: the first one, unless a connection to an earlier one died young.
    next_endpoint: usize,
    first: Option<First>,
    was_connected: bool,
    timer: Pin<Box<Sleep>>,
    sources: Sources,
    /// Kept between polls for its memory only.
    batch: Vec<Command>,
    /// Ends what ends with the agent.
    beside: Box<dyn Send>,
}

/// What the task waits for.
struct Sources {
    notices: Source,
    commands: Source,
    /// The dialer, or what comes on the connection.
    link: Source,
    timer: Source,
}

enum Link {
    Dialing(Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send>>),
    Up { connection: Box<Connection>, endpoint: Endpoint, index: usize, since: Instant, undecoded: bool },
    Waiting { until: Instant },
}

/// Whoever waits for the first connection, and would rather have the agent end than wait for ever.
pub(crate) struct First {
    pub(crate) reply: Reply<()>,
    /// Only a refusal by the broker is the end, not a broker that cannot be reached.
    pub(crate) is_patient: bool,
}

/// What the handle keeps of the channels.
pub(crate) struct Lanes {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) notices: mpsc::UnboundedSender<Notice>,
    pub(crate) state: watch::Receiver<State>,
}

/// Commands on their way; more wait with their senders.
const COMMANDS: usize = 16_384;
/// Commands taken in one turn.
const BATCH: usize = 256;
/// Packets handled before subscribers get their turn: as many as a Tokio task takes from a channel in one turn, so that
/// one that keeps up loses nothing, however many tasks share a thread.
const PACKETS: usize = 128;
/// How long a peer may hold up the end of the byte stream.
const SHUTDOWN: Duration = Duration::from_secs(1);
/// Turns before other tasks get theirs.
const TURNS: usize = 16;
/// How long the ended actor looks for commands that were being sent at that moment.
const LATE: Duration = Duration::from_secs(1);

impl Actor {
    /// `first` is told of the first connection; without it the agent keeps trying from the start. `beside` is dropped at
    /// the end, however that comes about.
    pub(crate) fn pair(
        options: Arc<Options>,
        counters: Arc<Counters>,
        allowance: Arc<Allowance>,
        first: Option<First>,
        beside: Box<dyn Send>,
    ) -> (Self, Lanes) {
        let (commands, commands_in) = mpsc::channel(COMMANDS);
        let (notices, notices_in) = mpsc::unbounded_channel();
        let (state, state_out) = Announcer::channel();
        let client_id: Arc<str> = options.effective_client_id().into();
        let dialer = Arc::new(Dialer::new(options.clone()));
        let actor = Self {
            state,
            session: Session::new(&options, counters.clone(), allowance, notices.clone()),
            link: Link::dial(&dialer, &client_id, true, 0),
            options,
            client_id,
            dialer,
            next_endpoint: 0,
            commands: commands_in,
            notices: notices_in,
            counters,
            failures: 0,
            first,
            was_connected: false,
            timer: Box::pin(sleep_until(Instant::now())),
            sources: Sources::new(Waker::noop()),
            batch: Vec::new(),
            beside,
        };
        (actor, Lanes { commands, notices, state: state_out })
    }

    pub(crate) async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
        self.finish().await;
    }

    /// Ready when the agent is at its end.
    ///
    /// Each turn asks every source that may be ready until it has no more or its share is used up, so that what wakes the
    /// task next is known when the turn ends: a lone command, and a lone reply, takes one turn.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.sources.timer.is_for(cx.waker()) {
            self.sources = Sources::new(cx.waker());
        }
        let mut packets = PACKETS;
        for _ in 0..TURNS {
            let now = Instant::now();
            // Who left is noted first: nothing is sent for a caller that is gone.
            self.poll_notices(now);
            let mut more = self.poll_commands(now);
            match self.poll_link(&mut packets, now) {
                Ok(left) => more |= left,
                Err(error) => {
                    self.say_why(&error);
                    match self.handle_lost(error, now) {
                        true => more = true,
                        false => return Poll::Ready(()),
                    }
                }
            }
            self.session.rest();
            self.session.count();
            if self.session.is_finished(now) {
                return Poll::Ready(());
            }
            if packets == 0 {
                break;
            }
            if !more && self.poll_timer(now).is_pending() {
                return Poll::Pending;
            }
        }
        // Behind the tasks that have work now: woken directly, this one would go before them.
        let _ = pin!(yield_now()).poll(cx);
        Poll::Pending
    }

    fn poll_notices(&mut self, now: Instant) {
        if !self.sources.notices.take_ready() {
            return;
        }
        while let Poll::Ready(Some(notice)) = self.notices.poll_recv(&mut self.sources.notices.context()) {
            if matches!(notice, Notice::Close(_)) {
                // What was called before the end was accepted before it.
                self.commands.close();
                while let Ok(command) = self.commands.try_recv() {
                    self.session.handle_command(command, now);
                }
            }
            self.session.handle_notice(notice, now);
        }
    }

    /// Whether there may be more.
    fn poll_commands(&mut self, now: Instant) -> bool {
        if !self.sources.commands.take_ready() {
            return false;
        }
        let mut cx = self.sources.commands.context();
        if self.session.is_closing() {
            // The lane is closed; a sender that had its place before may have put its command there only now.
            while let Poll::Ready(Some(command)) = self.commands.poll_recv(&mut cx) {
                self.session.handle_command(command, now);
            }
            return false;
        }
        let mut share = BATCH;
        while share > 0 {
            match self.commands.poll_recv_many(&mut cx, &mut self.batch, share) {
                Poll::Pending => return false,
                Poll::Ready(0) => {
                    let client_id = &*self.client_id;
                    tracing::debug!(name: "mqtt.abandoned", target: TARGET, client_id, "the last handle was dropped");
                    self.session.handle_abandoned(now + self.options.timeout.min(FAR));
                    return true;
                }
                Poll::Ready(taken) => share -= taken,
            }
            for command in self.batch.drain(..) {
                self.session.handle_command(command, now);
            }
        }
        self.sources.commands.note_more();
        true
    }

    /// Moves the connection on by what can be done without waiting; whether more may be done at once. An error means that
    /// it is lost.
    fn poll_link(&mut self, packets: &mut usize, now: Instant) -> Result<bool, Error> {
        let source = &self.sources.link;
        let mut cx = source.context();
        match &mut self.link {
            Link::Waiting { until } if *until > now => {
                self.session.handle_timeout(now)?;
                Ok(false)
            }
            Link::Waiting { .. } => {
                self.state.say(State::Connecting);
                self.link = Link::dial(&self.dialer, &self.client_id, !self.was_connected, self.next_endpoint);
                source.note_more();
                Ok(true)
            }
            Link::Dialing(dialing) => {
                if source.take_ready() {
                    if let Poll::Ready(dialed) = dialing.as_mut().poll(&mut cx) {
                        source.note_more();
                        self.handle_connected(dialed?, now);
                        return Ok(true);
                    }
                }
                self.session.handle_timeout(now)?;
                Ok(false)
            }
            Link::Up { connection, undecoded, .. } => {
                let mut input_left = false;
                if source.take_ready() {
                    input_left = poll_input(&mut self.session, connection, undecoded, packets, &mut cx, now)?;
                    if input_left {
                        source.note_more();
                    }
                }
                self.session.handle_timeout(now)?;
                let output_left = self.session.poll_transmit(&mut connection.codec, &mut connection.output, now);
                while !connection.output.is_empty() {
                    let Poll::Ready(written) = connection.poll_write(&mut cx) else { break };
                    self.session.handle_written(written?, now);
                }
                if let Poll::Ready(flushed) = connection.poll_flush(&mut cx) {
                    flushed?;
                }
                // What waits for the peer to read wakes the task by itself.
                Ok(input_left && self.session.wants_read() || output_left && connection.output.is_empty())
            }
        }
    }

    fn handle_connected(&mut self, dialed: Dialed, now: Instant) {
        let Dialed { connection, endpoint, index } = dialed;
        let (session_present, terms) = (connection.session_present, connection.terms.clone());
        // MQTT-3.1.3-6: one that the broker assigned is kept, so that the session is found again.
        if *self.client_id != *terms.client_id {
            self.client_id = terms.client_id.as_str().into();
        }
        let (client_id, version) = (&*self.client_id, terms.version);
        tracing::info!(
            name: "mqtt.connected", target: TARGET, broker = %endpoint, client_id, session_present, ?version, "connected"
        );
        if std::mem::replace(&mut self.was_connected, true) {
            self.counters.reconnects().add(1);
        }
        self.state.say(State::Connected { session_present, terms: terms.clone(), endpoint: endpoint.clone() });
        self.session.handle_connected(session_present, terms, now);
        self.link = Link::Up { connection: Box::new(connection), endpoint, index, since: now, undecoded: true };
        if let Some(first) = self.first.take() {
            first.reply.send(Ok(()));
        }
    }

    /// MQTT-4.13.1-1 of MQTT 5: a peer that broke the protocol is told, if it takes that at once.
    fn say_why(&mut self, error: &Error) {
        let Link::Up { connection, .. } = &mut self.link else { return };
        if error.kind() == ErrorKind::Protocol && connection.terms.version == Version::V5 {
            let outbound = Outbound::Disconnect(ReasonCode::PROTOCOL_ERROR);
            connection.codec.encode(outbound, &mut connection.output);
            let mut cx = Context::from_waker(Waker::noop());
            let _ = connection.poll_write(&mut cx);
            let _ = connection.poll_flush(&mut cx);
        }
    }

    /// The connection is lost or was not made; whether to try again.
    fn handle_lost(&mut self, error: Error, now: Instant) -> bool {
        self.next_endpoint = 0;
        if let Link::Up { index, since, .. } = &self.link {
            match now - *since >= Lost::STABLE {
                true => self.failures = 0,
                false => self.next_endpoint = index + 1,
            }
        }
        self.failures = self.failures.saturating_add(1);
        let lost = Lost { reason: error.clone(), attempt: self.failures };
        let is_refused = matches!(error.kind(), ErrorKind::Refused(_));
        let delay = match &self.first {
            Some(first) if is_refused || !first.is_patient => None,
            _ => reconnect::delay(&*self.options.reconnect, &lost),
        };
        let delay = delay.map(|delay| delay.clamp(SHORTEST_DELAY, FAR));
        self.tell_lost(&lost, delay);
        let retry_at = delay.map(|delay| now + delay);
        self.link = Link::Waiting { until: retry_at.unwrap_or(now) };
        // Before the callers are told: one that then looks at the state finds what it was told.
        match retry_at {
            Some(retry_at) => self.state.say(State::Disconnected { reason: error.clone(), retry_at }),
            None => {
                self.state.say(State::Closed { reason: Some(error.clone()) });
                self.session.handle_given_up(&error);
            }
        }
        self.session.handle_disconnected(now);
        if let Some(first) = self.first.take_if(|_| retry_at.is_none()) {
            first.reply.send(Err(error));
        }
        retry_at.is_some()
    }

    fn tell_lost(&self, Lost { reason, attempt }: &Lost, delay: Option<Duration>) {
        let (broker, what) = match &self.link {
            Link::Up { endpoint, .. } => (Some(display(endpoint)), "the connection was lost"),
            Link::Dialing(_) | Link::Waiting { .. } => (None, "no connection could be made"),
        };
        let client_id = &*self.client_id;
        let retry_in_ms = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        let error = reason as &(dyn std::error::Error + 'static);
        tracing::info!(
            name: "mqtt.disconnected", target: TARGET, broker, client_id, error, attempt, retry_in_ms, "{what}"
        );
    }

    fn poll_timer(&mut self, now: Instant) -> Poll<()> {
        let retry = match self.link {
            Link::Waiting { until } => Some(until),
            _ => None,
        };
        let Some(at) = self.session.poll_timeout().into_iter().chain(retry).min() else { return Poll::Pending };
        if at <= now {
            return Poll::Ready(());
        }
        // A timer that fires early only causes another look; moving it for each packet would cost more.
        if self.timer.deadline() > at || self.timer.is_elapsed() || self.timer.deadline() <= now {
            self.timer.as_mut().reset(at);
            self.sources.timer.note_more();
        }
        match self.sources.timer.take_ready() {
            true => self.timer.as_mut().poll(&mut self.sources.timer.context()),
            false => Poll::Pending,
        }
    }

    /// In this order: a sender that races with the end sees its command answered or its lane closed, never silence.
    async fn finish(mut self) {
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
        // Before the answers: whoever is told "closed" sees the same in the state.
        self.state.say(State::Closed { reason: None });
        tracing::info!(name: "mqtt.closed", target: TARGET, client_id = &*self.client_id, "the agent has ended");
        let (replies, unfinished) = self.session.finish();
        drop(self.beside);
        if let Link::Up { connection, .. } = self.link {
            let _ = timeout(SHUTDOWN, connection.shutdown()).await;
        }
        for reply in replies {
            reply.send(Ok(unfinished));
        }
        // Whoever had a place in a lane when that was closed is given the time to use it: what comes later would be
        // dropped by nobody, because its sender keeps the lane and waits.
        self.notices.close();
        while self.notices.recv().await.is_some() {}
        let late = async { while self.commands.recv().await.is_some() {} };
        // A call that is no longer polled keeps its place for ever.
        let _ = timeout(LATE, late).await;
    }
}

/// Reads and hands on what came, until nothing is there; whether it stopped before that. A read that filled its block is
/// followed by a turn for the others.
fn poll_input(
    session: &mut Session,
    connection: &mut Connection,
    undecoded: &mut bool,
    packets: &mut usize,
    cx: &mut Context<'_>,
    now: Instant,
) -> Result<bool, Error> {
    while session.wants_read() {
        if !*undecoded {
            let Poll::Ready(read) = connection.poll_read(cx) else { return Ok(false) };
            read?;
            session.handle_received(now);
            *undecoded = true;
        }
        let was_full = connection.input.len() == connection.input.capacity();
        loop {
            if *packets == 0 || !session.wants_read() {
                return Ok(true);
            }
            let Some(inbound) = connection.codec.decode(&mut connection.input)? else { break };
            session.handle_inbound(inbound, now)?;
            *packets -= 1;
        }
        *undecoded = false;
        if was_full {
            return Ok(true);
        }
    }
    Ok(true)
}

impl Sources {
    fn new(task: &Waker) -> Self {
        let source = || Source::new(task);
        Self { notices: source(), commands: source(), link: source(), timer: source() }
    }
}

impl Link {
    fn dial(dialer: &Arc<Dialer>, client_id: &Arc<str>, is_first: bool, first_endpoint: usize) -> Self {
        let (dialer, client_id) = (dialer.clone(), client_id.clone());
        Self::Dialing(Box::pin(async move { dialer.dial(&client_id, is_first, first_endpoint).await }))
    }
}
