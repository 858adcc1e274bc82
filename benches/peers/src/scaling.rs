//! The figures that docs/scaling.md quotes, and what they make of a fleet.

use std::fmt::Write;

use crate::lab::Results;
use crate::machine;
use crate::numbers::{about, show, spread};
use crate::plan::{Contender, Setting, CONTENDERS};
use crate::tables::{CPU, RATE};

const BEGIN: &str = "<!-- figures: written by benches/peers -->";
const END: &str = "<!-- end of figures -->";

/// `text` with the figures of these results in place of those that it has.
pub(crate) fn renew(text: &str, results: &Results) -> String {
    match (text.split_once(BEGIN), text.split_once(END)) {
        (Some((before, _)), Some((_, after))) => format!("{before}{BEGIN}\n{}{END}{after}", figures(results)),
        _ => text.to_owned(),
    }
}

/// A page that has nothing but a place for the figures.
pub(crate) fn empty() -> String {
    format!("{BEGIN}\n{END}\n")
}

/// What one core carries, by the processor time of each operation.
fn figures(results: &Results) -> String {
    let mut text = format!(
        "Measured on {} ({}), MQTT 5, 64 bytes, on the null broker; the whole is in [benchmarks.md](benchmarks.md).\n\n\
         | one operation | processor time | so one core does | devices at one a second, half a core | at one a minute |\n\
         |---|---|---|---|---|\n",
        machine::date(),
        machine::describe()
    );
    for (title, setting, item) in [
        ("call, many at once", Setting::Null, "each-10000"),
        ("call, one at a time", Setting::Null, "call"),
        ("publish, QoS 0", Setting::Null, "publish-0"),
        ("publish, QoS 1", Setting::Null, "publish-1"),
        ("publish, QoS 1, over TLS", Setting::NullTls, "publish-1"),
        ("publish, QoS 2", Setting::Null, "publish-2"),
        ("message received, one stream", Setting::Null, "receive"),
        ("message received, one stream, over TLS", Setting::NullTls, "receive"),
        ("message received, 1,000 streams", Setting::Null, "streams"),
        ("message received, 100,000 filters held", Setting::Null, "held-100000"),
    ] {
        let Some(cpu) = cpu(results, setting, item) else { continue };
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
    broker(results, &mut text);
    fleet(results, &mut text);
    text
}

/// What the broker lets through, where it has one core for one connection.
fn broker(results: &Results, text: &mut String) {
    let rate = |item| spread(results, Setting::Mosquitto, item, ours(), RATE).map(|[_, median, _]| median);
    if let (Some(publish), Some(receive)) = (rate("publish-1"), rate("receive")) {
        let _ = writeln!(
            text,
            "\nThrough mosquitto on one core the same agent publishes {} thousand a second at QoS 1 and receives {} \
             thousand: there the broker is the limit.",
            show(publish),
            show(receive)
        );
    }
}

const DEVICES: f64 = 100_000.0;
/// Seconds from one reading of a device to the next, and from one call to it to the next.
const READING: f64 = 10.0;
const CALL: f64 = 60.0;

/// The sum for one fleet, with its parts.
fn fleet(results: &Results, text: &mut String) {
    let received = cpu(results, Setting::Null, "streams");
    let (Some(received), Some(call)) = (received, cpu(results, Setting::Null, "each-10000")) else { return };
    let (readings, calls) = (DEVICES / READING, DEVICES / CALL);
    let used = (readings * received + calls * call) / 1e6;
    let _ = writeln!(
        text,
        "\nFor example {} devices, each with a reading every {READING} seconds and a call every {CALL}, their readings taken \
         from 1,000 streams:\n\n\
         - readings: {} / {READING} = {} a second, × {} µs = {} ms of each second;\n\
         - calls: {} / {CALL} = {} a second, × {} µs = {} ms of each second;\n\
         - together {} % of one core, so that half a core carries {} such devices;",
        show(DEVICES),
        show(DEVICES),
        show(readings),
        show(received),
        show(readings * received / 1e3),
        show(DEVICES),
        show(calls),
        show(call),
        show(calls * call / 1e3),
        show(used * 100.0),
        about(DEVICES * 0.5 / used)
    );
    if let Some([_, rate, _]) = spread(results, Setting::Mosquitto, "receive", ours(), RATE) {
        // A call is two messages that the broker takes from one and hands to another, as it does with a reading.
        let messages = readings + 2.0 * calls;
        let per_core = DEVICES * rate * 1e3 / messages / 2.0;
        let _ = writeln!(
            text,
            "- the broker forwards {} + 2 × {} = {} messages a second, {} % of the {} thousand that one of its cores did \
             above: half a core of it carries {} such devices, and a million take {} brokers of one core, or one that \
             uses as many.",
            show(readings),
            show(calls),
            show(messages),
            show(messages / rate / 10.0),
            show(rate),
            about(per_core),
            (1e6 / per_core).ceil()
        );
    }
}

/// Microseconds of the median.
fn cpu(results: &Results, setting: Setting, item: &'static str) -> Option<f64> {
    spread(results, setting, item, ours(), CPU).map(|[_, median, _]| median)
}

fn ours() -> &'static Contender {
    &CONTENDERS[1]
}
