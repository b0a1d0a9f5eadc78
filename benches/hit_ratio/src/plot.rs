//! Hit ratio over a trace as an SVG picture: one line per policy (dashed) and contestant.
//!
//! The picture needs nothing but a viewer: no script, no font of its own, no style sheet.

use std::fmt::Write;

use crate::report::TraceReport;

/// Width of the picture, in units of its own.
const WIDTH: f64 = 960.0;
/// Where the lines lie.
const LEFT: f64 = 60.0;
const RIGHT: f64 = 720.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 440.0;
/// Height of the picture.
const HEIGHT: f64 = 500.0;
/// Colours of the lines, in turn; they differ in brightness as well.
const COLOURS: [&str; 11] = [
    "#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5195", "#8c564b", "#56b4e9",
    "#e69f00", "#b2182b", "#4d4d4d",
];
/// Points of a hundred that the vertical axis shows at least.
const SPAN_MIN: f64 = 5.0;

/// Maps windows and percents to places.
struct Scale {
    windows: f64,
    low: f64,
    high: f64,
}

impl Scale {
    fn of(report: &TraceReport) -> Scale {
        // The first windows begin with empty caches and would press all others together.
        let begin = report.windows.warm_up.min(report.windows.count - 1);
        let values = report.rows.iter().flat_map(|row| row.window_percent.iter().skip(begin));
        let (low, high) = values.flatten().fold((100.0, 0.0), |(low, high): (f64, f64), &value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = if low > high { (0.0, 100.0) } else { (low, high) };
        let middle = (low + high) / 2.0;
        let low = low.min(middle - SPAN_MIN / 2.0).floor().max(0.0);
        let high = high.max(middle + SPAN_MIN / 2.0).ceil().min(100.0);
        Scale { windows: report.windows.count as f64, low, high }
    }

    /// The place of a border between windows.
    fn x(&self, window: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * window / self.windows
    }

    fn y(&self, percent: f64) -> f64 {
        let part = (percent.clamp(self.low, self.high) - self.low) / (self.high - self.low);
        BOTTOM - (BOTTOM - TOP) * part
    }
}

/// Draws a trace.
pub fn svg(report: &TraceReport) -> String {
    let scale = Scale::of(report);
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let title = format!(
        "{}: hit ratio in {} windows, room for {} entries",
        report.trace, report.windows.count, report.room
    );
    text(&mut picture, LEFT, TOP - 16.0, "start", &title);
    axes(&mut picture, report, &scale);
    marks(&mut picture, report, &scale);
    for (number, row) in report.rows.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let dashes = match row.server {
            None => " stroke-dasharray=\"6 3\"",
            Some(_) => "",
        };
        let style = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"{dashes}");
        for places in lines(&row.window_percent, &scale) {
            element(&mut picture, &format!("<polyline points=\"{places}\" {style}/>"));
        }
        let y = TOP + 8.0 + 20.0 * number as f64;
        let (from, to) = (RIGHT + 16.0, RIGHT + 40.0);
        let key = format!("<line x1=\"{from}\" y1=\"{y}\" x2=\"{to}\" y2=\"{y}\" {style}/>");
        element(&mut picture, &key);
        let percent = row.percent.map_or(String::new(), |percent| format!(" {percent:.2} %"));
        text(&mut picture, to + 6.0, y + 4.0, "start", &format!("{}{percent}", row.name));
    }
    picture.push_str("</svg>\n");
    picture
}

/// The points of each line: a window without a read that counts leaves a gap.
fn lines(percents: &[Option<f64>], scale: &Scale) -> Vec<String> {
    let mut lines = vec![Vec::new()];
    for (window, percent) in percents.iter().enumerate() {
        match (percent, lines.last_mut()) {
            (Some(percent), Some(line)) => {
                let x = scale.x(window as f64 + 0.5);
                line.push(format!("{x:.1},{:.1}", scale.y(*percent)));
            }
            _ => lines.push(Vec::new()),
        }
    }
    lines.into_iter().filter(|line| !line.is_empty()).map(|line| line.join(" ")).collect()
}

fn axes(picture: &mut String, report: &TraceReport, scale: &Scale) {
    let frame = format!(
        "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{}\" fill=\"none\" \
         stroke=\"#808080\"/>",
        RIGHT - LEFT,
        BOTTOM - TOP
    );
    element(picture, &frame);
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0];
    let span = scale.high - scale.low;
    let step = steps.into_iter().find(|step| span / step <= 10.0).unwrap_or(20.0);
    let mut percent = (scale.low / step).ceil() * step;
    while percent <= scale.high {
        let y = scale.y(percent);
        let line = format!(
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\" stroke=\"#e0e0e0\"/>"
        );
        element(picture, &line);
        text(picture, LEFT - 6.0, y + 4.0, "end", &format!("{percent} %"));
        percent += step;
    }
    for part in 0..=4 {
        let requests = report.windows.requests as f64 * f64::from(part) / 4.0 / 1e6;
        let x = LEFT + (RIGHT - LEFT) * f64::from(part) / 4.0;
        text(picture, x, BOTTOM + 18.0, "middle", &format!("{requests:.2}"));
    }
    let middle = (LEFT + RIGHT) / 2.0;
    text(picture, middle, BOTTOM + 38.0, "middle", "million requests of the trace");
}

/// The end of the warm-up, and the failover if there is one.
fn marks(picture: &mut String, report: &TraceReport, scale: &Scale) {
    let mut mark = |window: usize, label: &str| {
        let x = scale.x(window as f64);
        let line = format!(
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{BOTTOM}\" stroke=\"#808080\" \
             stroke-dasharray=\"2 3\"/>"
        );
        element(picture, &line);
        text(picture, x + 4.0, BOTTOM - 6.0, "start", label);
    };
    if report.windows.warm_up > 0 {
        mark(report.windows.warm_up, "counted from here");
    }
    if !report.failovers.is_empty() {
        mark(report.windows.failover(), "failover");
    }
}

fn element(picture: &mut String, element: &str) {
    picture.push_str(element);
    picture.push('\n');
}

fn text(picture: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    let content = escaped(content);
    // Writing into a String cannot fail.
    let _ = writeln!(
        picture,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>"
    );
}

fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            // XML has no place for them, escaped or not.
            control if control.is_control() => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Row;
    use crate::trace::{Tally, Windows};

    fn report(name: &str, tallies: &[Tally]) -> TraceReport {
        let windows = Windows { requests: 100, count: tallies.len(), warm_up: 1 };
        let rows = vec![Row::of_policy(name, 10, tallies, &windows)];
        let trace = "a < b & \"c\"\u{1}".into();
        let (failovers, notes) = (Vec::new(), Vec::new());
        TraceReport { trace, keys: 10, room: 10, windows, rows, failovers, notes }
    }

    /// Every element is closed in turn, attributes are quoted, nothing is left unescaped.
    fn assert_well_formed(picture: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = picture;
        while let Some(start) = rest.find('<') {
            let (content, tag) = rest.split_at(start);
            assert!(!content.contains('>'), "{content}");
            for entity in content.split('&').skip(1) {
                let known = ["amp;", "lt;", "gt;"].iter().any(|name| entity.starts_with(name));
                assert!(known, "&{entity}");
            }
            let end = tag.find('>').expect("the end of a tag");
            let inside = &tag[1..end];
            assert_eq!(inside.matches('"').count() % 2, 0, "{inside}");
            if let Some(name) = inside.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !inside.ends_with('/') {
                open.push(inside.split_whitespace().next().expect("a name"));
            }
            rest = &tag[end + 1..];
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
        assert!(!picture.contains('\u{1}'));
    }

    #[test]
    fn pictures_are_well_formed_whatever_the_names() {
        let tally = |hits, misses| Tally { hits, misses, errors: 0 };
        let picture = svg(&report("<LRU> & co", &[tally(0, 9), tally(5, 4), tally(6, 3)]));
        assert_well_formed(&picture);
        assert!(picture.contains("&lt;LRU&gt; &amp; co"));
        assert_eq!(picture.matches("<polyline").count(), 1);
    }

    #[test]
    fn a_window_without_reads_is_a_gap_in_the_line() {
        let tally = |hits, misses| Tally { hits, misses, errors: 0 };
        let nothing = Tally::default();
        let picture = svg(&report("x", &[tally(1, 1), nothing, tally(1, 1), tally(1, 1)]));
        assert_well_formed(&picture);
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert_well_formed(&svg(&report("x", &[nothing])));
    }

    #[test]
    fn higher_ratios_lie_higher_and_stay_in_the_frame() {
        let scale = Scale { windows: 10.0, low: 50.0, high: 90.0 };
        assert!(scale.y(80.0) < scale.y(60.0));
        assert_eq!((scale.y(20.0), scale.y(100.0)), (BOTTOM, TOP));
        assert_eq!((scale.x(0.0), scale.x(10.0)), (LEFT, RIGHT));
    }
}
