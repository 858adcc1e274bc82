//! Bars that a person reads at a glance, in light and in dark.

use std::fmt::Write;

pub(crate) struct Bar {
    pub(crate) label: &'static str,
    pub(crate) value: f64,
    pub(crate) text: String,
    /// It is this crate's.
    pub(crate) is_ours: bool,
}

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

const WIDTH: f64 = 760.0;
const LABELS: f64 = 240.0;
const VALUES: f64 = 90.0;
const BARS: f64 = WIDTH - LABELS - VALUES - 16.0;
const ROW: f64 = 24.0;
const TITLE: f64 = 34.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:17px;font-weight:600}\
.panel{font-weight:600;fill:#59636e}.ours{font-weight:600}.bar{fill:#afb8c1}.bar.ours{fill:#0969da}.ground{fill:#ffffff}\
.break{stroke:#ffffff;stroke-width:3}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.panel{fill:#9198a1}.bar{fill:#57606a}.bar.ours{fill:#4493f8}\
.ground{fill:#0d1117}.break{stroke:#0d1117}}";

/// `title` says what is shown, in which unit, and whether more is better.
pub(crate) fn draw(title: &str, panels: &[Panel]) -> String {
    let height: f64 = 50.0 + panels.iter().map(|panel| TITLE + ROW * panel.bars.len() as f64 + 10.0).sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n\
         <text class=\"title\" x=\"16\" y=\"30\">{title}</text>\n"
    );
    let mut y = 50.0;
    for panel in panels {
        let _ = writeln!(svg, "<text class=\"panel\" x=\"16\" y=\"{}\">{}</text>", y + 18.0, panel.title);
        y += TITLE;
        let whole = whole_width(&panel.bars);
        for bar in &panel.bars {
            let width = ((bar.value / whole).min(1.0) * BARS).max(1.0);
            let ours = if bar.is_ours { " ours" } else { "" };
            let _ = writeln!(
                svg,
                "<text class=\"label{ours}\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"bar{ours}\" x=\"{LABELS}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\" rx=\"2\"/>\
                 <text class=\"value{ours}\" x=\"{:.1}\" y=\"{}\">{}</text>",
                LABELS - 8.0,
                y + 16.0,
                bar.label,
                y + 3.0,
                ROW - 6.0,
                LABELS + width + 6.0,
                y + 16.0,
                bar.text
            );
            if bar.value > whole {
                let (left, bottom, rise) = (LABELS + BARS * 0.9, y + ROW, ROW + 1.0);
                let _ = writeln!(svg, "<path class=\"break\" d=\"M{left} {bottom}l8 -{rise}m6 {rise}l8 -{rise}\"/>");
            }
            y += ROW;
        }
        y += 10.0;
    }
    svg.push_str("</svg>\n");
    svg
}

/// The value whose bar is as wide as there is room: the largest, unless that is so far from the next that the others
/// could not be told apart. Such a bar is drawn broken.
fn whole_width(bars: &[Bar]) -> f64 {
    let mut values: Vec<_> = bars.iter().map(|bar| bar.value).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    let is_near = |pair: &[f64]| pair[0] <= 20.0 * pair[1];
    let far = values.windows(2).take_while(|pair| !is_near(pair)).count();
    values.get(far).copied().unwrap_or(1.0).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_that_is_far_longer_than_the_others_is_broken() {
        let bar = |value| Bar { label: "", value, text: String::new(), is_ours: false };
        assert_eq!(whole_width(&[bar(3.0), bar(100_000.0), bar(40.0)]), 40.0);
        assert_eq!(whole_width(&[bar(3.0), bar(4.0)]), 4.0);
        assert_eq!(whole_width(&[]), 1.0);
        let panel = |bars| [Panel { title: String::new(), bars }];
        assert!(draw("", &panel(vec![bar(1.0), bar(1_000.0)])).contains("<path"));
        assert!(!draw("", &panel(vec![bar(1.0), bar(2.0)])).contains("<path"));
    }
}
