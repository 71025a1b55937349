//! The curve as an SVG image: a panel for each kind of mesh.

use super::LabCell;
use super::report::{LabReport, mesh_name};
use std::fmt::Write as _;

const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 52.0;
const TOP: f64 = 48.0;
const BETWEEN: f64 = 60.0;
/// Colours that people who see few colours can tell apart (Okabe and Ito).
const COLOURS: [&str; 8] = ["#d55e00", "#e69f00", "#009e73", "#0072b2", "#cc79a7", "#56b4e9", "#666666", "#000000"];

/// Draws what one post heard: full lines with the intervals, and broken lines for the model.
pub(super) fn svg(report: &LabReport) -> String {
    let plan = &report.plan;
    let n_skews = plan.skews_ms.len();
    let (total_width, total_height) = (LEFT + (WIDTH + BETWEEN) * plan.meshes.len().max(1) as f64, TOP + HEIGHT + 86.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {total_width} {total_height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"18\" font-size=\"14\">\
         Conflicts of which both votes are heard, by the time between the votes ({} nodes, seed {})</text>\n",
        plan.nodes, plan.seed
    );
    for (panel, mesh) in plan.meshes.iter().copied().enumerate() {
        let left = LEFT + panel as f64 * (WIDTH + BETWEEN);
        // Skews are at equal distances, because the last one would leave no room for the others.
        let x = |nth: usize| left + WIDTH * (nth as f64 + 0.5) / n_skews as f64;
        let y = |share: f64| TOP + HEIGHT * (1.0 - share);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "<text x=\"{left}\" y=\"{}\">{}, one post</text>", TOP - 8.0, mesh_name(mesh));
        for percent in [0, 25, 50, 75, 100] {
            let at = y(f64::from(percent) / 100.0);
            let _ = writeln!(
                out,
                "<line x1=\"{left}\" y1=\"{at}\" x2=\"{}\" y2=\"{at}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{}\" \
                 text-anchor=\"end\">{percent} %</text>",
                left + WIDTH,
                left - 6.0,
                at + 4.0
            );
        }
        for (nth, skew_ms) in plan.skews_ms.iter().enumerate() {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{skew_ms} ms</text>",
                x(nth),
                TOP + HEIGHT + 18.0
            );
        }
        for (number, connections) in plan.connections.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let cells: Vec<&LabCell> =
                plan.skews_ms.iter().filter_map(|skew_ms| report.cell(*skew_ms, *connections, mesh, 1)).collect();
            let line = |value: fn(&LabCell) -> f64| -> String {
                let points = cells.iter().enumerate().map(|(nth, cell)| format!("{:.1},{:.1}", x(nth), y(value(cell))));
                points.collect::<Vec<_>>().join(" ")
            };
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n<polyline points=\"{}\" \
                 fill=\"none\" stroke=\"{colour}\" stroke-dasharray=\"3 4\"/>",
                line(|cell| cell.share),
                line(|cell| cell.model)
            );
            for (nth, cell) in cells.iter().enumerate() {
                let at = x(nth);
                let _ = writeln!(
                    out,
                    "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                    y(cell.low),
                    y(cell.high)
                );
            }
        }
    }
    let legend = TOP + HEIGHT + 48.0;
    for (number, connections) in plan.connections.iter().enumerate() {
        let (at, colour) = (LEFT + number as f64 * 130.0, COLOURS[number % COLOURS.len()]);
        let _ = writeln!(
            out,
            "<line x1=\"{at}\" y1=\"{legend}\" x2=\"{}\" y2=\"{legend}\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{}\" \
             y=\"{}\">{connections} connections</text>",
            at + 20.0,
            at + 26.0,
            legend + 4.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{}\">Upright bars: where the true share is in 95 of 100 cases. Broken lines: the model.</text>\n</svg>",
        legend + 26.0
    );
    out
}
