//! What the page shows: its tables and charts, and what each takes from the samples.

use crate::process::Sample;

/// What a column shows of a sample.
pub(crate) type Figure = fn(&Sample) -> f64;

pub(crate) const P50: Figure = |sample| sample.p50 * 1e6;
pub(crate) const P99: Figure = |sample| sample.p99 * 1e6;
pub(crate) const RATE: Figure = |sample| sample.operations / sample.wall / 1e3;
pub(crate) const MILLISECONDS: Figure = |sample| sample.wall * 1e3;
pub(crate) const CPU: Figure = |sample| sample.cpu / sample.operations * 1e6;

pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) item: &'static str,
    pub(crate) figure: Figure,
}

const fn column(title: &'static str, item: &'static str, figure: Figure) -> Column {
    Column { title, item, figure }
}

pub(crate) struct Table {
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) over_tls: bool,
    pub(crate) columns: &'static [Column],
}

pub(crate) const TABLES: [Table; 7] = [
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
                The last column is microseconds of processor for each of 10,000. On mosquitto the one core that it shares with \
                the devices is always busy, and sets the time: the last column tells the clients apart.",
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
        about: "64 bytes, up to 10,000 under way; 500 at QoS 2, as mosquitto looks through all that are for each packet about \
                one, and on it the figures would tell how many there were. Thousands a second until the broker has the last (QoS 0: a call behind \
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
        about: "64 bytes at QoS 0, by one filter and spread over 1,000 topics with a stream each: by 1,000 filters, but for \
                the EventLoop, which has one and a table. Thousands a second, and microseconds of processor for each.",
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
        about: "Receiving by one filter while so many others are subscribed, each with a place of its own that messages \
                would go to: a stream, a callback, an entry in a table. Thousands a second.",
        over_tls: false,
        columns: &[
            column("10", "held-10", RATE),
            column("1,000", "held-1000", RATE),
            column("100,000", "held-100000", RATE),
        ],
    },
];

pub(crate) struct Chart {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) item: &'static str,
    pub(crate) figure: Figure,
    pub(crate) over_tls: bool,
}

pub(crate) const CHARTS: [Chart; 5] = [
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ITEMS;

    #[test]
    fn every_column_and_chart_names_an_item_of_its_settings() {
        let is_there =
            |name: &str, over_tls: bool| ITEMS.iter().any(|item| item.key == name && (item.over_tls || !over_tls));
        for table in &TABLES {
            assert!(table.columns.iter().all(|column| is_there(column.item, table.over_tls)), "{}", table.title);
        }
        assert!(CHARTS.iter().all(|chart| is_there(chart.item, chart.over_tls)));
    }
}
