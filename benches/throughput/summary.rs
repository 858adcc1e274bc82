//! The budgets: ratios of times measured in turn, so that what slows the machine down slows all of them down.

use std::time::Duration;

use crate::lab::{Lab, Work};

enum Budget {
    /// At most so many times the time of the bare socket.
    OfFloor(f64),
    /// At least so many times the rate of the event loop.
    OfEventLoop(f64),
}

fn budget(work: Work) -> Budget {
    match work {
        Work::Call(_) | Work::CallOnOneThread => Budget::OfFloor(1.10),
        Work::CallEach => Budget::OfEventLoop(3.0),
        Work::Publish(_) | Work::TryPublish => Budget::OfEventLoop(5.0),
        Work::Receive => Budget::OfEventLoop(1.5),
    }
}

struct Round {
    floor: Option<f64>,
    bare: Option<f64>,
    event_loop: f64,
    agent: f64,
}

pub(crate) fn print(lab: &mut Lab, rounds: usize) {
    println!("\nmedians of {rounds} rounds, all clients in turn in each round; worst: the least favourable round");
    println!("{}", lab.placement);
    println!(
        "{:<29}{:>12}{:>12}{:>14}{:>14}{:>10}{:>8}   budget",
        "", "floor", "on Tokio", "EventLoop", "agent", "ratio", "worst"
    );
    for work in Work::ALL {
        let rounds: Vec<_> = (0..rounds).map(|_| round(lab, work)).collect();
        println!("{}", row(work, &rounds));
    }
}

fn round(lab: &mut Lab, work: Work) -> Round {
    // A single call is too short to be measured once.
    let times = if work.size() == 1 { 1_000 } else { 1 };
    let p50 = |times: Vec<Duration>| median(times.iter().map(Duration::as_secs_f64));
    Round {
        floor: lab.run_floor(work, times).map(p50),
        bare: lab.run_bare(work, times).map(p50),
        event_loop: p50(lab.run(&lab.event_loop, work, times)),
        agent: p50(lab.run(&lab.agent, work, times)),
    }
}

fn row(work: Work, rounds: &[Round]) -> String {
    let show = |seconds: f64| match work.size() {
        1 => format!("{:.1} µs", seconds * 1e6),
        _ if matches!(work, Work::CallEach) => format!("{:.1} ms", seconds * 1e3),
        size => format!("{:.3} M/s", size as f64 / seconds / 1e6),
    };
    let show_any = |times: Vec<f64>| match times.is_empty() {
        true => "-".to_owned(),
        false => show(median(times.into_iter())),
    };
    let floor = show_any(rounds.iter().filter_map(|round| round.floor).collect());
    let bare = show_any(rounds.iter().filter_map(|round| round.bare).collect());
    let event_loop = show(median(rounds.iter().map(|round| round.event_loop)));
    let agent = show(median(rounds.iter().map(|round| round.agent)));

    let (ratio, worst, budget, met) = match budget(work) {
        Budget::OfFloor(most) => {
            let ratios = || rounds.iter().filter_map(|round| Some(round.agent / round.floor?));
            let ratio = median(ratios());
            (ratio, ratios().fold(0.0, f64::max), format!("≤ {most:.2} × floor"), ratio <= most)
        }
        Budget::OfEventLoop(least) => {
            let ratios = || rounds.iter().map(|round| round.event_loop / round.agent);
            let ratio = median(ratios());
            let worst = ratios().fold(f64::INFINITY, f64::min);
            (ratio, worst, format!("≥ {least:.1} × EventLoop"), ratio >= least)
        }
    };
    let verdict = if met { "met" } else { "MISSED" };
    format!(
        "{:<29}{floor:>12}{bare:>12}{event_loop:>14}{agent:>14}{ratio:>10.2}{worst:>8.2}   {budget:<18}{verdict}",
        work.name()
    )
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
