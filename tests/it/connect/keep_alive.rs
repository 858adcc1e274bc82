//! A line that is idle, and one that is dead.

use super::*;

#[tokio::test]
async fn an_idle_line_is_asked_for_a_sign_of_life_and_a_silent_one_given_up() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url()).keep_alive(secs(1))).await;
    for _ in 0..2 {
        peer.expect_ping().await;
        peer.pingresp().await;
    }
    assert!(agent.is_connected());
    let last_byte = Instant::now();
    peer.expect_ping().await;
    let lost = state(&agent, "the loss", |state| !state.is_connected()).await;
    // The agent read it no earlier than it was sent; the tolerance is for clocks alone.
    assert!(last_byte.elapsed() > millis(1400), "{:?}", last_byte.elapsed());
    assert!(matches!(lost, State::Disconnected { reason, .. } if reason.kind() == ErrorKind::Connection));
    assert_eq!(peer.closed().await, []);
}

broker_test!(a_line_that_swallows_everything_is_found_out, |broker| async move {
    let proxy = Proxy::start(broker.addr()).await;
    for direction in [Direction::Both, Direction::Down, Direction::Up] {
        let agent = options(&proxy.url()).keep_alive(secs(1)).connect().await.unwrap();
        proxy.black_hole(direction, true);
        // Traffic of its own does not make the agent take the line for alive.
        let mut waiting = pin!(agent.publish("a", "x").timeout(secs(60)).into_future());
        assert!(poll!(&mut waiting).is_pending());
        state(&agent, "the loss", |state| !state.is_connected()).await;
        proxy.black_hole(direction, false);
        within(LIMIT, "the publish", waiting).await.unwrap();
        assert!(agent.stats().reconnects >= 1);
        agent.close().await;
    }
});

#[tokio::test]
async fn a_keep_alive_of_zero_asks_nothing() {
    let server = Scripted::listen().await;
    let connecting = tokio::spawn(options(&server.url()).keep_alive(Duration::ZERO).connect());
    let (mut peer, connect) = server.accept_session(false).await;
    assert_eq!(connect.keep_alive, 0);
    let agent = connecting.await.unwrap().unwrap();
    peer.expect_nothing(millis(100)).await;
    assert!(agent.is_connected());
}
