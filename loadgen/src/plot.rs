//! Charts as SVG pictures inside a page: lines over time, and percentile curves.
//!
//! A picture needs nothing but a viewer: no script, no font of its own, no style sheet. Every
//! name that comes from a user is escaped.

use std::fmt::Write;

/// Size of a chart, in units of its own.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 340.0;
/// Where the lines lie.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 690.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 290.0;
/// Colours of lines, in turn; they differ in brightness as well.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00", "#7a5195"];
/// Names that fit beside a chart; further lines are drawn without one.
const NAMES_MAX: usize = 16;

/// How a figure becomes a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Axis {
    /// Equal steps for equal differences, from zero.
    Linear,
    /// Equal steps for equal ratios.
    Logarithmic,
    /// Parts of all as "one in how many is worse", on a logarithmic scale: 0, 0.9, 0.99, ...
    Tail,
}

/// A line of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// A chart with one line for each thing it shows.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub title: String,
    pub x_name: &'static str,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
    /// Times at which something happened.
    pub marks: Vec<(f64, String)>,
}

/// Escapes what has a meaning in a page.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A number as people write it, with three digits that count.
pub(crate) fn short(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{}M", three_digits(n / 1e6)),
        n if n >= 1e4 => format!("{}k", three_digits(n / 1e3)),
        n => three_digits(n),
    }
}

fn three_digits(number: f64) -> String {
    let decimals = match number.abs() {
        n if n >= 100.0 || n == 0.0 => 0,
        n if n >= 10.0 => 1,
        n if n >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{number:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Maps the figures of one axis to places.
struct Scale {
    axis: Axis,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn of(axis: Axis, figures: impl Iterator<Item = f64>, from: f64, to: f64) -> Scale {
        let places = figures.map(|figure| Scale::stretch(axis, figure)).filter(|p| p.is_finite());
        let (low, high) = places
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), p| (low.min(p), high.max(p)));
        let (low, high) = match axis {
            _ if low > high => (0.0, 1.0),
            Axis::Linear => (low.min(0.0), high),
            Axis::Logarithmic => (low.floor(), high.ceil()),
            Axis::Tail => (0.0, high),
        };
        let high = if high > low { high } else { low + 1.0 };
        Scale { axis, low, high, from, to }
    }

    /// The figure on a scale where places are proportional.
    fn stretch(axis: Axis, figure: f64) -> f64 {
        match axis {
            Axis::Linear => figure,
            Axis::Logarithmic => figure.log10(),
            Axis::Tail => -(1.0 - figure).log10(),
        }
    }

    fn place(&self, figure: f64) -> Option<f64> {
        let stretched = Scale::stretch(self.axis, figure);
        let part = (stretched - self.low) / (self.high - self.low);
        part.is_finite().then(|| self.from + (self.to - self.from) * part.clamp(0.0, 1.0))
    }

    /// Figures to mark, with their names.
    fn ticks(&self) -> Vec<(f64, String)> {
        match self.axis {
            Axis::Linear => {
                let span = self.high - self.low;
                let power = 10f64.powf(span.log10().floor());
                let step = [0.1, 0.2, 0.5, 1.0, 2.0]
                    .into_iter()
                    .map(|factor| factor * power)
                    .find(|step| span / step <= 8.0)
                    .unwrap_or(power);
                let count = (self.high / step).floor() as u32;
                let tick = |number| f64::from(number) * step;
                (0..=count).map(|number| (tick(number), short(tick(number)))).collect()
            }
            Axis::Logarithmic => {
                let decades = self.low.floor() as i32..=self.high.ceil() as i32;
                decades.map(|power| (10f64.powi(power), short(10f64.powi(power)))).collect()
            }
            Axis::Tail => {
                // Rounding may leave the last nine a hair short.
                let decades = 0..=(self.high + 1e-6).floor() as i32;
                decades
                    .map(|nines| {
                        let part = 1.0 - 10f64.powi(-nines);
                        let digits = (nines - 2).max(0) as usize;
                        (part, format!("{:.digits$} %", part * 100.0))
                    })
                    .collect()
            }
        }
    }
}

impl Chart {
    /// The chart as an `svg` element.
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let x = Scale::of(self.x, points().map(|point| point.0), LEFT, RIGHT);
        let y = Scale::of(self.y, points().map(|point| point.1), BOTTOM, TOP);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        text(&mut out, LEFT, TOP - 14.0, "start", &self.title);
        text(&mut out, RIGHT, BOTTOM + 38.0, "end", self.x_name);
        self.axes(&mut out, &x, &y);
        for (number, line) in self.lines.iter().enumerate() {
            draw(&mut out, line, number, &x, &y);
        }
        out.push_str("</svg>\n");
        out
    }

    fn axes(&self, out: &mut String, x: &Scale, y: &Scale) {
        for (figure, name) in x.ticks() {
            let Some(place) = x.place(figure) else { continue };
            rule(out, [place, TOP, place, BOTTOM], "#e0e0e0");
            text(out, place, BOTTOM + 18.0, "middle", &name);
        }
        for (figure, name) in y.ticks() {
            let Some(place) = y.place(figure) else { continue };
            rule(out, [LEFT, place, RIGHT, place], "#e0e0e0");
            text(out, LEFT - 6.0, place + 4.0, "end", &name);
        }
        for (at, name) in &self.marks {
            let Some(place) = x.place(*at) else { continue };
            rule(out, [place, TOP, place, BOTTOM], "#b2182b");
            text(out, place + 3.0, TOP + 12.0, "start", name);
        }
        rule(out, [LEFT, BOTTOM, RIGHT, BOTTOM], "#808080");
        rule(out, [LEFT, TOP, LEFT, BOTTOM], "#808080");
    }
}

fn draw(out: &mut String, line: &Line, number: usize, x: &Scale, y: &Scale) {
    let colour = COLOURS[number % COLOURS.len()];
    let places: Vec<String> = line
        .points
        .iter()
        .filter_map(|(at, figure)| Some(format!("{:.1},{:.1}", x.place(*at)?, y.place(*figure)?)))
        .collect();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
        places.join(" ")
    );
    if number < NAMES_MAX {
        let top = TOP + 8.0 + 16.0 * number as f64;
        rule(out, [RIGHT + 14.0, top, RIGHT + 34.0, top], colour);
        text(out, RIGHT + 40.0, top + 4.0, "start", &line.name);
    }
}

fn rule(out: &mut String, [x1, y1, x2, y2]: [f64; 4], colour: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = escape(text);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x: Axis, y: Axis, points: &[(f64, f64)]) -> String {
        let lines = vec![Line { name: "<a> & \"b\"".into(), points: points.to_vec() }];
        let marks = vec![(1.0, "kill <1>".into())];
        Chart { title: "t".into(), x_name: "x", x, y, lines, marks }.svg()
    }

    #[test]
    fn whatever_is_drawn_every_place_is_a_number_and_names_are_escaped() {
        for points in [
            &[][..],
            &[(0.0, 0.0)],
            &[(1.0, 5.0), (2.0, 5.0)],
            &[(0.0, 0.1), (0.9, 1.0), (1.0, f64::NAN), (0.999, 1000.0)],
        ] {
            for (x, y) in [
                (Axis::Linear, Axis::Linear),
                (Axis::Tail, Axis::Logarithmic),
                (Axis::Linear, Axis::Logarithmic),
            ] {
                let svg = chart(x, y, points);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                assert!(svg.contains("&lt;a&gt; &amp; &quot;b&quot;"), "{svg}");
                assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
            }
        }
    }

    #[test]
    fn the_tail_gives_each_nine_the_same_room() {
        let scale = Scale::of(Axis::Tail, [0.0, 0.999].into_iter(), 0.0, 300.0);
        for (part, expected) in [(0.0, 0.0), (0.9, 100.0), (0.99, 200.0), (0.999, 300.0)] {
            let place = scale.place(part).expect("a place");
            assert!((place - expected).abs() < 1e-6, "{part}: {place}");
        }
        let names: Vec<String> = scale.ticks().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["0 %", "90 %", "99 %", "99.9 %"]);
    }

    #[test]
    fn numbers_are_short() {
        for (number, expected) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (1.5, "1.5"),
            (123.4, "123"),
            (9999.0, "9999"),
            (20_000.0, "20k"),
            (1_234_567.0, "1.23M"),
        ] {
            assert_eq!(short(number), expected);
        }
    }
}
