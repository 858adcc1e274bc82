//! What a call, a publish and a received message cost, beside rumqttc's own event loop and a bare socket.
//!
//! `cargo bench --bench throughput` runs criterion's groups and then prints the table of budgets; with `-- --quick` it is a
//! fast look, with `-- budgets` the table alone.

#[path = "throughput/agent.rs"]
mod agent;
#[path = "throughput/bare.rs"]
mod bare;
#[path = "throughput/contender.rs"]
mod contender;
#[path = "throughput/cores.rs"]
mod cores;
#[path = "throughput/event_loop.rs"]
mod event_loop;
#[path = "throughput/floor.rs"]
mod floor;
#[path = "throughput/lab.rs"]
mod lab;
#[path = "throughput/null_broker.rs"]
mod null_broker;
#[path = "throughput/summary.rs"]
mod summary;

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};

use lab::{Lab, Work};

fn main() {
    let mut lab = Lab::new();
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for work in Work::ALL {
        group(&mut criterion, &mut lab, work);
    }
    criterion.final_summary();

    let given = |option: &str| std::env::args().any(|argument| argument == option);
    // Without `--bench` it is `cargo test` that runs this, to see that it does.
    if given("--bench") && !["--test", "--list", "--profile-time"].into_iter().any(given) {
        summary::print(&mut lab, if given("--quick") { 3 } else { 9 });
    }
}

fn group(criterion: &mut Criterion, lab: &mut Lab, work: Work) {
    let sum = |times: Vec<Duration>| times.iter().sum();
    let mut group = criterion.benchmark_group(work.name());
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(work.size() as u64));
    if lab.run_floor(work, 1).is_some() {
        group.bench_function("floor", |bencher| {
            bencher.iter_custom(|times| lab.run_floor(work, times as usize).map_or(Duration::ZERO, sum));
        });
    }
    group.bench_function("event_loop", |bencher| {
        bencher.iter_custom(|times| sum(lab.run(&lab.event_loop, work, times as usize)));
    });
    group.bench_function("agent", |bencher| {
        bencher.iter_custom(|times| sum(lab.run(&lab.agent, work, times as usize)));
    });
    group.finish();
}
