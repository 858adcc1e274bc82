//! The pages: tables, charts, and the figures that docs/scaling.md quotes.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use crate::chart::{draw, Bar, Panel};
use crate::lab::Results;
use crate::machine;
use crate::plan::{Contender, Setting, CONTENDERS, COUNTED};
use crate::process::Sample;

const COMMAND: &str = "cargo run --release --manifest-path benches/peers/Cargo.toml";

/// What a column shows of a sample.
type Figure = fn(&Sample) -> f64;

const P50: Figure = |sample| sample.p50 * 1e6;
const P99: Figure = |sample| sample.p99 * 1e6;
const RATE: Figure = |sample| sample.operations / sample.wall / 1e3;
const MILLISECONDS: Figure = |sample| sample.wall * 1e3;
const CPU: Figure = |sample| sample.cpu / sample.operations * 1e6;

struct Column {
    title: &'static str,
    item: &'static str,
    figure: Figure,
}

const fn column(title: &'static str, item: &'static str, figure: Figure) -> Column {
    Column { title, item, figure }
}

struct Table {
    title: &'static str,
    about: &'static str,
    over_tls: bool,
    columns: &'static [Column],
}

const TABLES: [Table; 7] = [
    Table {
        title: "One call at a time",
        about: "A command of 64 bytes, or what the columns say, to a device, and its reply, one after the other, at \
                QoS 0. Microseconds.",
        over_tls: false,
        columns: &[
            column("p50", "call", P50),
            column("p99", "call", P99),
            column("processor per call", "call", CPU),
            column("1 KiB, p50", "call-1k", P50),
            column("1 KiB, p99", "call-1k", P99),
            column("64 KiB, p50", "call-64k", P50),
            column("64 KiB, p99", "call-64k", P99),
        ],
    },
    Table {
        title: "Calls at once",
        about: "So many calls, each to a device of its own, begun together; the time until the last reply, in milliseconds. \
                The last column is microseconds of processor for each of 10,000.",
        over_tls: false,
        columns: &[
            column("100", "each-100", MILLISECONDS),
            column("1,000", "each-1000", MILLISECONDS),
            column("10,000", "each-10000", MILLISECONDS),
            column("processor per call", "each-10000", CPU),
        ],
    },
    Table {
        title: "Publish",
        about: "64 bytes, up to 10,000 under way. Thousands a second until the broker has the last (QoS 0: a call behind \
                them is answered; QoS 1 and 2: all are acknowledged), and microseconds of processor for each.",
        over_tls: false,
        columns: &[
            column("QoS 0", "publish-0", RATE),
            column("QoS 1", "publish-1", RATE),
            column("QoS 2", "publish-2", RATE),
            column("processor, QoS 0", "publish-0", CPU),
            column("processor, QoS 1", "publish-1", CPU),
            column("processor, QoS 2", "publish-2", CPU),
        ],
    },
    Table {
        title: "Receive",
        about: "64 bytes at QoS 0, by one filter and spread over 1,000 filters with a stream each. Thousands a second, and \
                microseconds of processor for each.",
        over_tls: false,
        columns: &[
            column("one filter", "receive", RATE),
            column("1,000 streams", "streams", RATE),
            column("processor, one filter", "receive", CPU),
            column("processor, 1,000 streams", "streams", CPU),
        ],
    },
    Table {
        title: "Larger payloads",
        about: "Thousands a second; 1 thousand of 64 KiB is 65 MB.",
        over_tls: false,
        columns: &[
            column("publish 1 KiB, QoS 1", "publish-1k", RATE),
            column("publish 64 KiB, QoS 1", "publish-64k", RATE),
            column("receive 1 KiB", "receive-1k", RATE),
            column("receive 64 KiB", "receive-64k", RATE),
        ],
    },
    Table {
        title: "Over TLS",
        about: "The same, by TLS 1.3 with AES-128-GCM, which is all that the brokers accept. p50, p99 and processor are of one \
                call at a time (microseconds); then milliseconds of 1,000 calls at once, and thousands of messages a second. \
                The null broker encrypts by rustls, mosquitto by OpenSSL; of the clients, azure_iot_operations_mqtt and \
                Python do it by OpenSSL, the others by rustls with ring.",
        over_tls: true,
        columns: &[
            column("p50", "call", P50),
            column("p99", "call", P99),
            column("processor per call", "call", CPU),
            column("1,000 at once", "each-1000", MILLISECONDS),
            column("publish, QoS 1", "publish-1", RATE),
            column("publish 64 KiB, QoS 1", "publish-64k", RATE),
            column("receive", "receive", RATE),
        ],
    },
    Table {
        title: "Filters held",
        about: "Receiving by one filter while so many others are subscribed, in thousands a second. The other clients leave \
                it to the application to find out whom a message is for.",
        over_tls: false,
        columns: &[
            column("10", "held-10", RATE),
            column("1,000", "held-1000", RATE),
            column("100,000", "held-100000", RATE),
        ],
    },
];

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
    let scaling = docs.join("scaling.md");
    // A fast look has no such page.
    let text = fs::read_to_string(&scaling).unwrap_or_else(|_| format!("{BEGIN}\n{END}\n"));
    fs::write(scaling, with_figures(&text, &figures(results)))
}

struct Chart {
    file: &'static str,
    title: &'static str,
    item: &'static str,
    figure: Figure,
    over_tls: bool,
}

const CHARTS: [Chart; 5] = [
    Chart {
        file: "calls.svg",
        title: "One call at a time: microseconds, p50 (less is better)",
        item: "call",
        figure: P50,
        over_tls: false,
    },
    Chart {
        file: "at-once.svg",
        title: "1,000 calls at once: milliseconds (less is better)",
        item: "each-1000",
        figure: MILLISECONDS,
        over_tls: false,
    },
    Chart {
        file: "publish.svg",
        title: "Publish at QoS 1, acknowledged: thousands a second (more is better)",
        item: "publish-1",
        figure: RATE,
        over_tls: false,
    },
    Chart {
        file: "receive.svg",
        title: "Receive: thousands a second (more is better)",
        item: "receive",
        figure: RATE,
        over_tls: false,
    },
    Chart {
        file: "tls.svg",
        title: "1,000 calls at once over TLS: milliseconds (less is better)",
        item: "each-1000",
        figure: MILLISECONDS,
        over_tls: true,
    },
];

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
         {}.\n\nThe broker has the last core for itself, the clients the others; each client is a process of its own, \
         and all do the same work in turn in each round. Figures are medians of up to 5 rounds, with the least and the \
         most in brackets. The *null broker* (`benches/throughput/null_broker.rs`) does nothing but answer, so that the \
         client is what is measured; with mosquitto both are. A dash is what a client cannot do, or what the table of \
         the left-out says below.\n",
        machine::date(),
        seconds.div_ceil(60),
        machine::describe()
    );
    for Chart { file, title, .. } in CHARTS {
        let _ = writeln!(page, "![{title}](benchmarks/{file})\n");
    }
    page.push_str("## Budgets\n\nRatios of medians, on the null broker.\n\n| | floor or EventLoop | 3.1.1 | 5 | budget |\n|---|---|---|---|---|\n");
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
         nothing tells later that the broker has it |\n",
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
        let cells: Vec<_> =
            table.columns.iter().map(|column| spread(results, setting, column.item, contender, column.figure)).collect();
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
    let socket = &CONTENDERS[2];
    let event_loop = &CONTENDERS[3];
    let lines: [(&str, &str, Figure, &Contender, bool, f64); 6] = [
        ("one call, p50", "call", P50, socket, true, 1.10),
        ("10,000 calls at once", "each-10000", MILLISECONDS, event_loop, false, 3.0),
        ("publish, QoS 0", "publish-0", RATE, event_loop, false, 5.0),
        ("publish, QoS 1", "publish-1", RATE, event_loop, false, 5.0),
        ("receive", "receive", RATE, event_loop, false, 1.5),
        ("receive, 1,000 streams", "streams", RATE, event_loop, false, 1.0),
    ];
    for (title, item, figure, other, at_most, budget) in lines {
        let median =
            |contender: &Contender| spread(results, Setting::Null, item, contender, figure).map(|[_, median, _]| median);
        let Some(base) = median(other) else { continue };
        let ratio = |contender: &Contender| match median(contender) {
            // So many times as fast; where times are compared, the shorter is.
            Some(ours) if item.starts_with("each") => base / ours,
            Some(ours) => ours / base,
            None => f64::NAN,
        };
        let sign = if at_most { "≤" } else { "≥" };
        let _ = writeln!(
            page,
            "| {title} | {} ({}) | {:.2} × | {:.2} × | {sign} {budget:.2} × |",
            show(base),
            other.label,
            ratio(&CONTENDERS[0]),
            ratio(&CONTENDERS[1])
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
            let count = |table: &std::collections::HashMap<_, f64>| {
                table.get(&(name, contender.name)).map_or("–".to_owned(), |value| show(value.max(0.0)))
            };
            let _ = write!(page, " {} | {} |", count(&results.allocations), count(&results.instructions));
        }
        page.push('\n');
    }
}

fn memory(results: &Results, page: &mut String) {
    page.push_str(
        "\n## Memory\n\nMiB of the whole process, on the null broker: after it connected, and at most through all of the \
         above. Of the most, what is received and not yet taken is a large part: a client that is handed 200,000 messages \
         at once keeps them somewhere.\n\n| | connected | at most |\n|---|---|---|\n",
    );
    for contender in &CONTENDERS {
        if let Some((idle, peak)) = results.memory.get(contender.name) {
            let _ = writeln!(page, "| {} | {idle:.1} | {peak:.1} |", contender.label);
        }
    }
}

/// The least, the median and the most.
fn spread(
    results: &Results,
    setting: Setting,
    item: &'static str,
    contender: &Contender,
    figure: Figure,
) -> Option<[f64; 3]> {
    let samples = results.samples.get(&(setting, item, contender.name))?;
    let mut values: Vec<_> = samples.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    Some([*values.first()?, values[values.len() / 2], *values.last()?])
}

/// Three digits that matter.
fn show(value: f64) -> String {
    match value {
        _ if value >= 1000.0 => {
            let digits = format!("{value:.0}");
            let head = digits.len() % 3;
            let parts = digits.as_bytes()[head..].chunks(3).map(String::from_utf8_lossy);
            let head = (head > 0).then(|| digits[..head].into());
            head.into_iter().chain(parts).collect::<Vec<_>>().join(",")
        }
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Two digits that matter: what is reckoned from a measurement is no better than that.
fn about(value: f64) -> String {
    let unit = 10_f64.powf(value.max(1.0).log10().floor() - 1.0);
    show((value / unit).round() * unit)
}

const BEGIN: &str = "<!-- figures: written by benches/peers -->";
const END: &str = "<!-- end of figures -->";

fn with_figures(text: &str, figures: &str) -> String {
    match (text.split_once(BEGIN), text.split_once(END)) {
        (Some((before, _)), Some((_, after))) => format!("{before}{BEGIN}\n{figures}{END}{after}"),
        _ => text.to_owned(),
    }
}

/// What one core carries, by the processor time of each operation, and what that makes of a fleet.
fn figures(results: &Results) -> String {
    let ours = &CONTENDERS[1];
    let mut text = format!(
        "Measured on {} ({}), MQTT 5, 64 bytes, on the null broker; the whole is in [benchmarks.md](benchmarks.md).\n\n\
         | one operation | processor time | so one core does | devices at one a second, half a core | at one a minute |\n\
         |---|---|---|---|---|\n",
        machine::date(),
        machine::describe()
    );
    for (title, item) in [
        ("call, many at once", "each-10000"),
        ("publish, QoS 0", "publish-0"),
        ("publish, QoS 1", "publish-1"),
        ("publish, QoS 2", "publish-2"),
        ("message received, one stream", "receive"),
        ("message received, 1,000 streams", "streams"),
        ("message received, 100,000 filters held", "held-100000"),
    ] {
        let Some([_, cpu, _]) = spread(results, Setting::Null, item, ours, CPU) else { continue };
        let per_second = 1e6 / cpu;
        let _ = writeln!(
            text,
            "| {title} | {} µs | {} a second | {} | {} |",
            show(cpu),
            about(per_second),
            about(per_second / 2.0),
            about(per_second / 2.0 * 60.0)
        );
    }
    let rate = |item| spread(results, Setting::Mosquitto, item, ours, RATE).map(|[_, median, _]| median);
    if let (Some(publish), Some(receive)) = (rate("publish-1"), rate("receive")) {
        let _ = writeln!(
            text,
            "\nThrough mosquitto on one core the same agent publishes {} thousand a second at QoS 1 and receives {} \
             thousand: there the broker is the limit.",
            show(publish),
            show(receive)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ITEMS;

    #[test]
    fn numbers_have_three_digits_that_matter() {
        let shown: Vec<_> = [0.123, 12.34, 123.4, 1234.0, 1_234_567.0, 100_000.0].map(show).into();
        assert_eq!(shown, ["0.12", "12.3", "123", "1,234", "1,234,567", "100,000"]);
    }

    #[test]
    fn every_column_names_an_item() {
        let items: Vec<_> = ITEMS.iter().map(|item| item.key).collect();
        let columns = TABLES.iter().flat_map(|table| table.columns);
        assert!(columns.map(|column| column.item).all(|item| items.contains(&item)));
    }
}
