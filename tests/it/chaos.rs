//! Faults without end while work goes on: nothing is lost, nothing hangs, nobody is told a wrong outcome.
//!
//! Each test prints what it counted.

use std::collections::HashMap;
use std::future::IntoFuture;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesOrdered, StreamExt};
use mqtt_agent::{Agent, Lost, Message, Offline, Options, Outcome, QoS, Retained, State, Subscription};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::support::{
    broker_test, millis, mosquitto_or_skip, secs, within, Broker, BrokerKind, Direction, MosquittoConfig, Persistence,
    Proxy,
};

const TASKS: u32 = 50;
const PUBLISHES_PER_TASK: u32 = 400;
/// Publishes of one task that are under way at once.
const WINDOW: usize = 8;
/// These many for each version.
const PUBLISHER_CUTS: usize = 250;
const SUBSCRIBER_CUTS: usize = 100;
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The embedded broker has been seen to lose a QoS 2 message of a publisher that is back before it has put the last
/// connection away.
const RECONNECT: Duration = Duration::from_millis(60);
/// Messages of the publisher under way. They are sent again after each cut, so with many of them a line that is cut
/// this often would carry nothing else.
const IN_FLIGHT: u16 = 20;
/// How long a subscriber's connection lasts at least. Cut before mosquitto 2.0.11 has repeated its PUBRELs, it repeats
/// the PUBLISHes instead on the next connection, which MQTT-4.3.3-1 forbids and no client can tell from new messages.
const SETTLE: Duration = Duration::from_millis(100);
/// The pause between publishes once there were enough of them: the lines are only kept busy.
const TRICKLE: Duration = Duration::from_millis(30);
/// How long one of these tests may take, on a slow machine too.
const CHAOS_LIMIT: Duration = Duration::from_secs(240);

fn say(line: &str) {
    // Not captured, unlike the output of the macros: these are figures that somebody wants to see.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Comes back soon, and to the session it had.
fn options(url: &str, client_id: &str) -> Options {
    Options::from_url(url)
        .unwrap()
        .client_id(client_id)
        .clean_session(false)
        .keep_alive(KEEP_ALIVE)
        .connect_timeout(secs(3))
        .timeout(CHAOS_LIMIT)
        .reconnect(|_: &Lost| Some(RECONNECT))
}

/// Even tasks publish at QoS 1, odd ones at QoS 2.
fn qos_of(task: u32) -> QoS {
    [QoS::AtLeastOnce, QoS::ExactlyOnce][task as usize % 2]
}

/// Publishes numbers to one topic, in order and several at a time, until told that it is enough; how many.
async fn publish_numbers(agent: Agent, task: u32, at_least: u32, enough: Arc<AtomicBool>) -> u32 {
    let mut under_way = FuturesOrdered::new();
    let mut number = 0;
    while !enough.load(Ordering::Relaxed) || number < at_least.min(PUBLISHES_PER_TASK) {
        let publish = agent.publish(format!("chaos/{task}"), number.to_string()).qos(qos_of(task));
        under_way.push_back(publish.into_future());
        number += 1;
        if number > at_least {
            sleep(TRICKLE).await;
        }
        if under_way.len() == WINDOW {
            under_way.next().await.unwrap().expect("every publish is acknowledged in the end");
        }
    }
    while let Some(outcome) = under_way.next().await {
        outcome.expect("every publish is acknowledged in the end");
    }
    number
}

/// A line, and how it is broken.
struct Faults {
    line: Arc<Proxy>,
    /// Bytes after which it is cut, at most.
    longest: u64,
    /// Each connection of this agent is left alone until the broker has accepted it, and for `SETTLE` after that.
    settle: Option<Agent>,
    /// Now and then it swallows what it is given, until both sides have noticed.
    swallows: bool,
}

/// Breaks the line again and again, in every way it can; the count is the line's own.
async fn break_line(faults: Faults) {
    let Faults { line, longest, settle, swallows } = faults;
    for round in 1_u64.. {
        if let Some(agent) = &settle {
            let _ = timeout(secs(5), agent.state().wait_for(State::is_connected)).await;
            sleep(SETTLE).await;
        }
        let before = line.connections();
        match round {
            33 | 66 | 99 if swallows => {
                let direction = [Direction::Up, Direction::Down, Direction::Both][(round / 33 - 1) as usize];
                line.black_hole(direction, true);
                // Longer than the peer's silence may last.
                sleep(KEEP_ALIVE * 2).await;
                // Cut first: a connection that went on after losing bytes in its middle would be none that TCP makes.
                line.cut().await;
                line.black_hole(direction, false);
            }
            20 | 70 => {
                line.refuse(true);
                line.cut().await;
                sleep(millis(100)).await;
                line.refuse(false);
            }
            10..=14 => {
                line.chunk(Some(1));
                line.cut_after(Direction::Up, rand(20, longest / 4));
            }
            15 => line.chunk(None),
            _ => {
                let (cut, leave) = either_way();
                line.cut_after(leave, u64::MAX);
                line.cut_after(cut, rand(20, longest));
            }
        }
        // A line without traffic is not cut by itself.
        if timeout(secs(2), line.wait_for_connections(before + 1)).await.is_err() {
            line.cut().await;
        }
    }
}

fn rand(from: u64, to: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    static SEED: AtomicU32 = AtomicU32::new(0);
    from + RandomState::new().hash_one(SEED.fetch_add(1, Ordering::Relaxed)) % (to - from)
}

fn either_way() -> (Direction, Direction) {
    [(Direction::Up, Direction::Down), (Direction::Down, Direction::Up)][rand(0, 2) as usize]
}

/// What arrived, by topic.
#[derive(Default)]
struct Arrived {
    numbers: HashMap<u32, Vec<u32>>,
    duplicates_at_qos_1: usize,
}

impl Arrived {
    fn note(&mut self, message: &Message) {
        let task: u32 = message.topic().levels().next_back().unwrap().parse().unwrap();
        let number: u32 = message.text().unwrap().parse().unwrap();
        let numbers = self.numbers.entry(task).or_default();
        if number < numbers.len() as u32 {
            assert_ne!(qos_of(task), QoS::ExactlyOnce, "{number} came twice to task {task}");
            self.duplicates_at_qos_1 += 1;
            return;
        }
        assert_eq!(number as usize, numbers.len(), "task {task}: out of order, or lost");
        numbers.push(number);
    }

    fn has(&self, published: &HashMap<u32, u32>) -> bool {
        published
            .iter()
            .all(|(task, count)| self.numbers.get(task).is_some_and(|numbers| numbers.len() as u32 >= *count))
    }
}

/// Takes messages until all that were published are there.
async fn receive(mut stream: Subscription, published: JoinHandle<HashMap<u32, u32>>) -> Arrived {
    let mut arrived = Arrived::default();
    let mut published = std::pin::pin!(published);
    let mut expected = None;
    loop {
        tokio::select! {
            item = stream.recv() => arrived.note(&item.expect("the stream goes on").expect("no gap")),
            counts = &mut published, if expected.is_none() => expected = Some(counts.unwrap()),
        }
        if expected.as_ref().is_some_and(|expected| arrived.has(expected)) {
            return arrived;
        }
    }
}

fn publish_all(agent: &Agent, at_least: u32, enough: &Arc<AtomicBool>) -> JoinHandle<HashMap<u32, u32>> {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let publishing = publish_numbers(agent.clone(), task, at_least, enough.clone());
        tasks.spawn(async move { (task, publishing.await) });
    }
    tokio::spawn(async move { tasks.join_all().await.into_iter().collect() })
}

broker_test!(
    #[doc = "Cut lines, the broker alive: the only fair test of exactly once."]
    nothing_is_lost_and_nothing_comes_twice_when_lines_are_cut,
    flavor = "multi_thread",
    worker_threads = 2,
    |broker| async move {
        within(CHAOS_LIMIT, "all messages", cut_lines(&broker)).await;
    }
);

async fn cut_lines(broker: &Broker) {
    let metrics = tokio::runtime::Handle::current().metrics();
    let tasks_before = metrics.num_alive_tasks();
    let publisher_line = Arc::new(Proxy::start(broker.addr()).await);
    let subscriber_line = Arc::new(Proxy::start(broker.addr()).await);
    let subscriber = options(&subscriber_line.url(), "chaos-subscriber").connect().await.unwrap();
    let stream = subscriber.subscribe("chaos/+").qos(QoS::ExactlyOnce).capacity(1 << 17).await.unwrap();
    let publisher = options(&publisher_line.url(), "chaos-publisher").max_in_flight(IN_FLIGHT).connect().await.unwrap();

    let enough = Arc::new(AtomicBool::new(false));
    let published = publish_all(&publisher, PUBLISHES_PER_TASK, &enough);
    let publisher_faults = Faults { line: publisher_line.clone(), longest: 1600, settle: None, swallows: true };
    let subscriber_faults = Faults {
        line: subscriber_line.clone(),
        longest: 8000,
        settle: Some(subscriber.clone()),
        // On a busy machine the embedded broker has been seen to forget thousands of messages, of QoS 1 too, that it
        // had sent to a subscriber which never got them.
        swallows: broker.kind() == BrokerKind::Mosquitto,
    };
    let faults = [publisher_faults, subscriber_faults].map(|faults| tokio::spawn(break_line(faults)));
    let receiving = tokio::spawn(receive(stream, published));
    while publisher_line.connections() <= PUBLISHER_CUTS || subscriber_line.connections() <= SUBSCRIBER_CUTS {
        assert!(!receiving.is_finished(), "the work ended before the faults did");
        sleep(millis(20)).await;
    }
    enough.store(true, Ordering::Relaxed);
    let (publisher_cuts, subscriber_cuts) = (publisher_line.connections() - 1, subscriber_line.connections() - 1);
    for fault in faults {
        fault.abort();
        let _ = fault.await;
    }
    for line in [&publisher_line, &subscriber_line] {
        line.chunk(None);
        line.refuse(false);
        line.black_hole(Direction::Both, false);
    }
    let arrived = receiving.await.unwrap();

    let total: usize = arrived.numbers.values().map(Vec::len).sum();
    assert!(total as u32 >= TASKS * PUBLISHES_PER_TASK);
    say(&format!(
        "chaos, {:?}: {total} publishes, {publisher_cuts} + {subscriber_cuts} cuts, 0 lost, 0 twice at QoS 2, \
         {} repeated at QoS 1, {} + {} reconnects",
        broker.kind(),
        arrived.duplicates_at_qos_1,
        publisher.stats().reconnects,
        subscriber.stats().reconnects,
    ));
    let stats = publisher.stats();
    assert_eq!((stats.queued, stats.in_flight, stats.pending_requests), (0, 0, 0), "{stats:?}");

    publisher.close().await;
    subscriber.close().await;
    drop((publisher_line, subscriber_line));
    within(secs(5), "the end of every task", async {
        while metrics.num_alive_tasks() > tasks_before {
            sleep(millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_at_qos_1_when_a_broker_with_persistence_restarts_twenty_times() {
    let config = MosquittoConfig { persistence: Persistence::OnExit, ..Default::default() };
    let Some(mut broker) = mosquitto_or_skip(config).await else { return };
    let subscriber = options(&broker.url(), "restart-subscriber").connect().await.unwrap();
    let stream = subscriber.subscribe("chaos/+").qos(QoS::AtLeastOnce).capacity(1 << 17).await.unwrap();
    let publisher = options(&broker.url(), "restart-publisher").connect().await.unwrap();

    let enough = Arc::new(AtomicBool::new(false));
    let published = publish_all_at_qos_1(&publisher, &enough);
    let receiving = tokio::spawn(receive_at_least_once(stream, published));
    for _ in 0..20 {
        sleep(millis(100)).await;
        broker.terminate().await;
        broker.start_again().await;
        let mut state = publisher.state();
        within(secs(10), "a connection", state.wait_for(State::is_connected)).await.unwrap();
    }
    enough.store(true, Ordering::Relaxed);
    let (arrived, repeated) = within(CHAOS_LIMIT, "all messages", receiving).await.unwrap();
    let reconnects = publisher.stats().reconnects;
    assert!(reconnects >= 20);
    say(&format!("restarts, SIGTERM: {arrived} publishes, {reconnects} reconnects, 0 lost, {repeated} repeated"));
}

fn publish_all_at_qos_1(agent: &Agent, enough: &Arc<AtomicBool>) -> JoinHandle<HashMap<u32, u32>> {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        // Even numbers, and so QoS 1.
        let publishing = publish_numbers(agent.clone(), task * 2, u32::MAX, enough.clone());
        tasks.spawn(async move { (task * 2, publishing.await) });
    }
    tokio::spawn(async move { tasks.join_all().await.into_iter().collect() })
}

/// As `receive`, for a broker that may also change the order of what it sends again.
async fn receive_at_least_once(mut stream: Subscription, published: JoinHandle<HashMap<u32, u32>>) -> (usize, usize) {
    let mut seen = std::collections::HashSet::new();
    let mut repeated = 0;
    let mut published = std::pin::pin!(published);
    let mut expected = None;
    loop {
        tokio::select! {
            item = stream.recv() => {
                let message = item.expect("the stream goes on").expect("no gap");
                let key = (message.topic().to_string(), message.text().unwrap().to_owned());
                repeated += usize::from(!seen.insert(key));
            }
            counts = &mut published, if expected.is_none() => {
                expected = Some(counts.unwrap().values().sum::<u32>() as usize);
            }
        }
        if expected.is_some_and(|expected| seen.len() == expected) {
            return (seen.len(), repeated);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_while_a_broker_is_killed_arrives_when_it_is_back() {
    let config = MosquittoConfig { persistence: Persistence::OnChange, ..Default::default() };
    let Some(mut broker) = mosquitto_or_skip(config).await else { return };
    let subscriber = options(&broker.url(), "kill-subscriber").connect().await.unwrap();
    let mut stream = subscriber.subscribe("chaos/+").qos(QoS::AtLeastOnce).capacity(1 << 17).await.unwrap();
    let publisher = options(&broker.url(), "kill-publisher").connect().await.unwrap();
    let enough = Arc::new(AtomicBool::new(false));
    let published = publish_all_at_qos_1(&publisher, &enough);
    for kill in 0..5 {
        sleep(millis(100)).await;
        broker.kill().await;
        // Not acknowledged to its caller, so it is still the agent's to deliver.
        let held = publisher.publish("chaos/held", kill.to_string()).into_future();
        let held = tokio::spawn(held);
        broker.start_again().await;
        within(secs(20), "the acknowledgement of what was held", held).await.unwrap().unwrap();
        within(secs(20), "what was held", async {
            loop {
                let message = stream.recv().await.unwrap().unwrap();
                if message.topic() == "chaos/held" && message.text().unwrap() == kill.to_string() {
                    return;
                }
            }
        })
        .await;
    }
    enough.store(true, Ordering::Relaxed);
    let counts = within(CHAOS_LIMIT, "the end of every publish", published).await.unwrap();
    let total: u32 = counts.values().sum();
    say(&format!("restarts, SIGKILL: {total} publishes ended, {} reconnects", publisher.stats().reconnects));
}

broker_test!(
    a_broker_that_forgets_everything_gets_all_that_it_had_not_acknowledged,
    flavor = "multi_thread",
    worker_threads = 2,
    |mut broker| async move {
        let agent = Options::from_url(&broker.url())
            .unwrap()
            .timeout(secs(60))
            .reconnect(|_: &Lost| Some(millis(50)))
            .connect()
            .await
            .unwrap();
        let mut stream = agent.subscribe("news/#").await.unwrap();
        for round in 0..5 {
            broker.stop().await;
            // Retained, so that the broker can be asked afterwards what it got.
            let publishes = futures::future::join_all((0..100).map(|n| {
                let publish = agent.publish(format!("kept/{round}/{n}"), n.to_string()).retain(true);
                publish.qos([QoS::AtLeastOnce, QoS::ExactlyOnce][n % 2]).into_future()
            }));
            let publishes = tokio::spawn(publishes);
            let mut calls = Vec::new();
            for call in 0..10 {
                let call = agent.request(format!("news/{call}"), "echo").reply_to(format!("news/{call}"));
                calls.push(tokio::spawn(call.into_future()));
            }
            broker.start_again().await;
            for outcome in within(secs(30), "every publish", publishes).await.unwrap() {
                outcome.unwrap();
            }
            // Each call publishes to its own reply topic, so the broker is the device.
            for call in calls {
                within(secs(30), "every call", call).await.unwrap().unwrap();
            }
            let kept = agent.collect(format!("kept/{round}/+"), 100, secs(30)).retained(Retained::Only).await.unwrap();
            assert_eq!(kept.len(), 100);
            agent.publish("news/today", round.to_string()).await.unwrap();
            within(secs(30), "the stream to go on", async {
                while stream.recv().await.unwrap().unwrap().topic() != "news/today" {}
            })
            .await;
        }
        let reconnects = agent.stats().reconnects;
        say(&format!(
            "restarts, {:?} without persistence: 500 publishes, {reconnects} reconnects, 0 lost",
            broker.kind()
        ));
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_halts_is_given_up_and_found_again() {
    let Some(broker) = mosquitto_or_skip(MosquittoConfig::default()).await else { return };
    let agent = options(&broker.url(), "halt").connect().await.unwrap();
    let mut state = agent.state();
    broker.pause();
    let publish = tokio::spawn(agent.publish("a/b", "held").into_future());
    within(secs(10), "the silence to be noticed", state.wait_for(|state| !state.is_connected())).await.unwrap();
    broker.resume();
    within(secs(10), "the acknowledgement", publish).await.unwrap().unwrap();
    assert!(agent.is_connected());
}

#[tokio::test]
async fn an_agent_may_be_made_three_seconds_before_its_broker() {
    let mut broker = Broker::start(BrokerKind::Embedded).await.unwrap();
    broker.stop().await;
    let agent = Options::from_url(&broker.url())
        .unwrap()
        .timeout(secs(30))
        .reconnect(|_: &Lost| Some(millis(50)))
        .connect_lazy()
        .unwrap();
    let waiting = tokio::spawn(agent.publish("a/b", "early").into_future());
    let failing = agent.publish("a/b", "now").offline(Offline::Fail).await.unwrap_err();
    assert_eq!(failing.outcome(), Outcome::NotSent);
    sleep(secs(3)).await;
    assert!(!waiting.is_finished());
    broker.start_again().await;
    within(secs(10), "the publish", waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_address_that_accepts_and_never_answers_costs_an_attempt_each_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", silent.local_addr().unwrap());
    let agent = Options::from_url(&url)
        .unwrap()
        .connect_timeout(millis(100))
        .timeout(millis(500))
        .reconnect(|_: &Lost| Some(millis(10)))
        .connect_lazy()
        .unwrap();
    let publish = tokio::spawn(agent.publish("a/b", "x").into_future());
    let mut accepted = Vec::new();
    for _ in 0..3 {
        accepted.push(within(secs(5), "another attempt", silent.accept()).await.unwrap());
    }
    let error = within(secs(5), "an answer", publish).await.unwrap().unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.outcome(), Outcome::NotSent);
}
