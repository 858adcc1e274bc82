//! The page of benchmarks and its charts.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use crate::chart::{draw, Bar, Panel};
use crate::lab::Results;
use crate::machine;
use crate::numbers::{ratio, show, spread};
use crate::plan::{contender, Contender, Setting, CONTENDERS, COUNTED};
use crate::scaling;
use crate::tables::{Chart, Figure, Table, CHARTS, MILLISECONDS, P50, RATE, TABLES};

const COMMAND: &str = "cargo run --release --manifest-path benches/peers/Cargo.toml";

/// Writes all pages below `docs`.
pub(crate) fn write(results: &Results, docs: &Path, seconds: u64) -> io::Result<()> {
    let charts = docs.join("benchmarks");
    fs::create_dir_all(&charts)?;
    for Chart { file, title, item, figure, over_tls } in CHARTS {
        let settings = results.settings.iter().filter(|setting| setting.is_tls() == over_tls);
        let panels: Vec<_> = settings.map(|setting| panel(results, *setting, item, figure)).collect();
        fs::write(charts.join(file), draw(title, &panels))?;
    }
    fs::write(docs.join("benchmarks.md"), page(results, seconds))?;
    let scaling_page = docs.join("scaling.md");
    // A fast look has no such page.
    let text = fs::read_to_string(&scaling_page).unwrap_or_else(|_| scaling::empty());
    fs::write(scaling_page, scaling::renew(&text, results))
}

fn panel(results: &Results, setting: Setting, item: &'static str, figure: Figure) -> Panel {
    let bars = CONTENDERS.iter().filter_map(|contender| {
        let [_, value, _] = spread(results, setting, item, contender, figure)?;
        let is_ours = contender.name.starts_with("agent");
        Some(Bar { label: contender.label, value, text: show(value), is_ours })
    });
    Panel { title: format!("on {}", setting.name()), bars: bars.collect() }
}

fn page(results: &Results, seconds: u64) -> String {
    let mut page = String::from("# Benchmarks\n\n");
    let _ = writeln!(
        page,
        "Written by `{COMMAND}` on {}, from its own results; it took {} minutes. Do not edit: run it.\n\n\
         {}.\n\nThe broker has the last core for itself, the clients the others; each client is a process of its own, a \
         new one for each column, and all do the same work in turn in each round. Figures are medians of up to 7 rounds, \
         21 for calls of 64 bytes one at a time, with the least and the most in brackets; what takes a client more than three seconds it does once. The *null broker* \
         (`benches/throughput/null_broker.rs`) does nothing but answer, so that the client is what is measured; with \
         mosquitto both are. A dash is what a client cannot do, or what the table of the left-out says below.\n",
        machine::date(),
        seconds.div_ceil(60),
        machine::describe()
    );
    for Chart { file, title, .. } in CHARTS {
        let _ = writeln!(page, "![{title}](benchmarks/{file})\n");
    }
    budgets(results, &mut page);
    for table in &TABLES {
        let _ = writeln!(page, "\n## {}\n\n{}", table.title, table.about);
        for setting in results.settings.iter().filter(|setting| setting.is_tls() == table.over_tls) {
            rows(results, *setting, table, &mut page);
        }
    }
    counted(results, &mut page);
    memory(results, &mut page);
    page.push_str("\n## Versions\n\n| | |\n|---|---|\n");
    for (name, version) in machine::versions() {
        let _ = writeln!(page, "| {name} | {version} |");
    }
    page.push_str("\n## Left out\n\n| what | why |\n|---|---|\n");
    for (what, why) in &results.missing {
        let _ = writeln!(page, "| {what} | {why} |");
    }
    page.push_str(
        "| mqtt-typed-client, acknowledged publishes | its publish returns when the message is queued, at any QoS, and \
         nothing tells later that the broker has it |\n\
         | azure_iot_operations_mqtt, QoS 2 | it has none |\n\
         | azure_iot_operations_mqtt, 100,000 filters | it asks each of them about each message: a run would take minutes |\n\
         | aiomqtt, 1,000 streams and filters held | it has one stream for all, and leaves it to the application to find \
         out whom a message is for |\n\
         | blocking socket and Tokio task, what is not in their rows | they know nothing of acknowledgements and streams |\n",
    );
    page
}

fn rows(results: &Results, setting: Setting, table: &Table, page: &mut String) {
    let _ = write!(page, "\n| on {} |", setting.name());
    for column in table.columns {
        let _ = write!(page, " {} |", column.title);
    }
    let _ = write!(page, "\n|---|{}\n", "---|".repeat(table.columns.len()));
    for contender in &CONTENDERS {
        let cells: Vec<_> = table
            .columns
            .iter()
            .map(|column| spread(results, setting, column.item, contender, column.figure))
            .collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(page, "| {} |", contender.label);
        for cell in cells {
            let _ = match cell {
                Some([least, median, most]) => {
                    write!(page, " {} ({}–{}) |", show(median), show(least), show(most))
                }
                None => write!(page, " – |"),
            };
        }
        page.push('\n');
    }
}

fn budgets(results: &Results, page: &mut String) {
    page.push_str(
        "## Budgets\n\nMedians of the ratios in each round, on the null broker.\n\n\
         | | beside | 3.1.1 | 5 | budget | |\n|---|---|---|---|---|---|\n",
    );
    let (socket, bare, event_loop) = (contender("socket"), contender("bare"), contender("event-loop"));
    let lines: [(&str, &str, Figure, &Contender, bool, f64); 7] = [
        ("one call, p50", "call", P50, socket, true, 1.10),
        ("one call, p50", "call", P50, bare, true, 1.10),
        ("10,000 calls at once", "each-10000", MILLISECONDS, event_loop, false, 3.0),
        ("publish, QoS 0", "publish-0", RATE, event_loop, false, 5.0),
        ("publish, QoS 1", "publish-1", RATE, event_loop, false, 5.0),
        ("receive", "receive", RATE, event_loop, false, 1.5),
        ("receive, 1,000 streams", "streams", RATE, event_loop, false, 1.0),
    ];
    for (title, item, figure, other, at_most, budget) in lines {
        let Some([_, base, _]) = spread(results, Setting::Null, item, other, figure) else { continue };
        let ratio = |name| match ratio(results, Setting::Null, item, [contender(name), other], figure) {
            // So many times as fast; where times are compared, the shorter is.
            Some(ratio) if item.starts_with("each") => 1.0 / ratio,
            Some(ratio) => ratio,
            None => f64::NAN,
        };
        let ratios = [ratio("agent-311"), ratio("agent-5")];
        let is_met = |ratio: &f64| if at_most { *ratio <= budget } else { *ratio >= budget };
        let _ = writeln!(
            page,
            "| {title} | {} ({}) | {:.2} × | {:.2} × | {} {budget:.2} × | {} |",
            show(base),
            other.label,
            ratios[0],
            ratios[1],
            if at_most { "≤" } else { "≥" },
            if ratios.iter().all(is_met) { "met" } else { "**missed**" }
        );
    }
    if let Some(ratio) = ratio(results, Setting::Null, "call", [bare, socket], P50) {
        let _ = writeln!(
            page,
            "\nA blocking socket has one thread; every asynchronous client has a task that owns the socket and a timer, \
             and a caller that it wakes. That alone, without MQTT, takes {:.2} × of what the blocking socket takes (\"{}\" \
             below).",
            ratio,
            bare.label
        );
    }
}

fn counted(results: &Results, page: &mut String) {
    page.push_str(
        "\n## Counted\n\nFor each operation, on the null broker: allocations by a counting allocator, instructions by \
         callgrind. They hold what the application does too: a future for each call, here.\n\n| |",
    );
    for (name, _) in COUNTED {
        let _ = write!(page, " {name}: allocations | instructions |");
    }
    let _ = write!(page, "\n|---|{}\n", "---|---|".repeat(COUNTED.len()));
    for contender in CONTENDERS.iter().filter(|contender| !contender.is_python) {
        let _ = write!(page, "| {} |", contender.label);
        for (name, _) in COUNTED {
            let count = |table: &HashMap<_, f64>| {
                table.get(&(name, contender.name)).map_or("–".to_owned(), |value| show(value.max(0.0)))
            };
            let _ = write!(page, " {} | {} |", count(&results.allocations), count(&results.instructions));
        }
        page.push('\n');
    }
}

fn memory(results: &Results, page: &mut String) {
    page.push_str(
        "\n## Memory\n\nMiB of the whole process, on the null broker: after it connected, and at most in any of the \
         above, 100,000 filters among them. Of the most, what is received and not yet taken is a large part: a client that is handed 200,000 messages \
         at once keeps them somewhere.\n\n| | connected | at most |\n|---|---|---|\n",
    );
    for contender in &CONTENDERS {
        if let Some((idle, peak)) = results.memory.get(contender.name) {
            let _ = writeln!(page, "| {} | {idle:.1} | {peak:.1} |", contender.label);
        }
    }
}
