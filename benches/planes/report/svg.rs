//! Bars and lines on a logarithmic scale, as SVG. Pure.

use std::fmt::Write;

use super::stats::Summary;

pub struct Bar {
    pub label: String,
    pub summary: Summary,
    pub colour: &'static str,
}

pub struct Line {
    pub label: String,
    pub colour: &'static str,
    /// Place on the axis below, and height.
    pub points: Vec<(usize, f64)>,
}

const WIDTH: f64 = 860.0;
const TOP: f64 = 52.0;
const ROW: f64 = 24.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 110.0;
const MARGIN: f64 = 20.0;

/// Powers of ten around these values; they are positive, or do not count.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let (least, most) = values
        .filter(|value| *value > 0.0)
        .fold((f64::MAX, f64::MIN), |(least, most), value| (value.min(least), value.max(most)));
    if least > most {
        return (0, 1);
    }
    let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    (low, high.max(low + 1))
}

/// Where a value lies between the decades, 0 to 1.
fn share(value: f64, (low, high): (i32, i32)) -> f64 {
    let place = (value.max(f64::MIN_POSITIVE).log10() - f64::from(low)) / f64::from(high - low);
    place.clamp(0.0, 1.0)
}

/// Horizontal bars: medians, whiskers from the least to the most.
pub fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    let span = decades(bars.iter().flat_map(|bar| [bar.summary.least, bar.summary.most]));
    let room = WIDTH - LEFT - RIGHT;
    let bottom = TOP + bars.len() as f64 * ROW;
    let x = |value| LEFT + share(value, span) * room;
    let mut out =
        begin(title, &format!("{unit}, logarithmic; bar: median, line: least to most"), bottom + 40.0);
    for power in span.0..=span.1 {
        let (at, value) = (x(10f64.powi(power)), number(10f64.powi(power)));
        let _ = writeln!(out, "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#d1d5db\"/>");
        text(&mut out, at, bottom + 16.0, "middle", &value);
    }
    for (row, bar) in bars.iter().enumerate() {
        let (y, middle) = (TOP + row as f64 * ROW + 4.0, TOP + row as f64 * ROW + ROW / 2.0);
        let (median, least, most) = (x(bar.summary.median), x(bar.summary.least), x(bar.summary.most));
        text(&mut out, LEFT - 8.0, middle + 4.0, "end", &bar.label);
        let _ = writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>\n\
             <path d=\"M{least:.1} {middle:.1}H{most:.1}\" stroke=\"#111827\"/>",
            median - LEFT,
            ROW - 8.0,
            bar.colour
        );
        text(&mut out, most.max(median) + 6.0, middle + 4.0, "start", &number(bar.summary.median));
    }
    out + "</svg>\n"
}

/// One line a subject over evenly spaced places.
pub fn lines(title: &str, unit: &str, places: &[&str], lines: &[Line]) -> String {
    const HEIGHT: f64 = 260.0;
    let span = decades(lines.iter().flat_map(|line| line.points.iter().map(|point| point.1)));
    let bottom = TOP + HEIGHT;
    let left = 70.0;
    let step = (WIDTH - left - 240.0) / places.len().saturating_sub(1).max(1) as f64;
    let x = |place: usize| left + place as f64 * step;
    let y = |value| bottom - share(value, span) * HEIGHT;
    let mut out = begin(title, &format!("{unit}, logarithmic"), bottom + 40.0);
    for power in span.0..=span.1 {
        let at = y(10f64.powi(power));
        let _ = writeln!(out, "<path d=\"M{left} {at:.1}H{:.1}\" stroke=\"#d1d5db\"/>", WIDTH - 240.0);
        text(&mut out, left - 8.0, at + 4.0, "end", &number(10f64.powi(power)));
    }
    for (place, name) in places.iter().enumerate() {
        text(&mut out, x(place), bottom + 18.0, "middle", name);
    }
    for (row, line) in lines.iter().enumerate() {
        let points: Vec<String> =
            line.points.iter().map(|(place, value)| format!("{:.1},{:.1}", x(*place), y(*value))).collect();
        let legend = TOP + row as f64 * 18.0;
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{1}\" stroke-width=\"2\"/>\n\
             <rect x=\"{2}\" y=\"{legend}\" width=\"12\" height=\"12\" fill=\"{1}\"/>",
            points.join(" "),
            line.colour,
            WIDTH - 215.0
        );
        text(&mut out, WIDTH - 197.0, legend + 10.0, "start", &line.label);
    }
    out + "</svg>\n"
}

fn begin(title: &str, scale: &str, height: f64) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#111827\">\n\
         <title>{}</title>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
        escape(title)
    );
    text(&mut out, MARGIN, 22.0, "start", title);
    text(&mut out, MARGIN, 40.0, "start", scale);
    out
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = escape(text);
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if size >= 1e6 {
        format!("{:.3}M", value / 1e6).replacen(".000M", "M", 1)
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.01 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}
