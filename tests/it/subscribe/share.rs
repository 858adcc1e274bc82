//! Shared subscriptions: one group, many machines.

use super::*;

broker_test!(a_shared_filter_spreads_the_load_over_two_agents, |broker| async move {
    const MESSAGES: usize = 40;
    let sender = Agent::connect(broker.url()).await.unwrap();
    let agents = [Agent::connect(broker.url()).await.unwrap(), Agent::connect(broker.url()).await.unwrap()];
    let first = agents[0].subscribe("$share/g/a").await.unwrap();
    let second = agents[1].subscribe("$share/g/a").await.unwrap();
    for n in 0..MESSAGES {
        sender.publish("a", n.to_string()).await.unwrap();
    }
    let shares = select_all([first, second]).take(MESSAGES).map(|item| item.unwrap().text().unwrap().to_owned());
    let got: BTreeSet<_> = within(LIMIT, "every message", shares.collect()).await;
    assert_eq!(got.len(), MESSAGES);
    for agent in &agents {
        let stats = agent.stats();
        assert!(stats.received > 0, "one agent got nothing");
        assert_eq!(stats.unclaimed, 0);
    }
});
