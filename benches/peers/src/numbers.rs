//! Medians, and how numbers are written.

use crate::lab::Results;
use crate::plan::{Contender, Setting};
use crate::tables::Figure;

/// The least, the median and the most.
pub(crate) fn spread(
    results: &Results,
    setting: Setting,
    item: &'static str,
    contender: &Contender,
    figure: Figure,
) -> Option<[f64; 3]> {
    let samples = results.samples.get(&(setting, item, contender.name))?;
    let values = sorted(samples.iter().map(figure));
    Some([*values.first()?, values[values.len() / 2], *values.last()?])
}

/// The median of what one client's figure is to another's in each round: what slows the machine down for a while slows
/// both.
pub(crate) fn ratio(
    results: &Results,
    setting: Setting,
    item: &'static str,
    [ours, other]: [&Contender; 2],
    figure: Figure,
) -> Option<f64> {
    let samples = |contender: &Contender| results.samples.get(&(setting, item, contender.name));
    let rounds = samples(ours)?.iter().zip(samples(other)?);
    let ratios = sorted(rounds.map(|(ours, other)| figure(ours) / figure(other)));
    ratios.get(ratios.len() / 2).copied()
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Three digits that matter.
pub(crate) fn show(value: f64) -> String {
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
pub(crate) fn about(value: f64) -> String {
    let unit = 10_f64.powf(value.max(1.0).log10().floor() - 1.0);
    show((value / unit).round() * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_matter() {
        let shown: Vec<_> = [0.123, 12.34, 123.4, 1234.0, 1_234_567.0, 100_000.0].map(show).into();
        assert_eq!(shown, ["0.12", "12.3", "123", "1,234", "1,234,567", "100,000"]);
    }
}
