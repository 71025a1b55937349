//! Charts as inline SVG: bars by epoch, a line with the number of validators, and incidents over
//! time. Text stays text, and the colours follow the page's.

use super::Report;
use std::fmt::Write as _;

const WIDTH: u64 = 860;
const LEFT: u64 = 172;
const RIGHT: u64 = 16;
const BARS: u64 = 180;
const ROW: u64 = 24;

/// Draws the contradictions by the epoch in which they became known, by kind, and the number of
/// validators so far.
pub(super) fn offences(report: &Report) -> String {
    let preset = report.network.preset();
    let (first, last) = (report.from.epoch(preset).as_u64(), report.to.epoch(preset).as_u64());
    let n = last - first + 1;
    // A bar of a long report covers several epochs.
    let per_bar = n.div_ceil(120);
    let n_bars = n.div_ceil(per_bar);
    let mut bars = vec![[0u64; 3]; n_bars as usize];
    let mut joined = vec![0u64; n_bars as usize];
    let bar_of = |epoch: u64| usize::try_from(epoch.saturating_sub(first) / per_bar).ok().filter(|bar| *bar < n_bars as usize);
    for (epoch, counts) in &report.by_epoch {
        if let Some(bar) = bar_of(epoch.as_u64()) {
            for (sum, count) in bars[bar].iter_mut().zip(counts) {
                *sum += count;
            }
        }
    }
    for (epoch, count) in &report.joined {
        if let Some(bar) = bar_of(epoch.as_u64()) {
            joined[bar] += count;
        }
    }
    let most = bars.iter().map(|bar| bar.iter().sum::<u64>()).max().unwrap_or(0).max(1);
    let all = (report.members.len() as u64).max(1);
    let height = BARS + 56;
    let room = WIDTH - LEFT - RIGHT - 40;
    let x = |bar: u64| LEFT + room * bar / n_bars;
    let mut svg = open(height, "Contradicting pairs of messages by epoch, and validators so far");
    for part in 0..=4 {
        let y = 12 + BARS - BARS * part / 4;
        let _ = write!(
            svg,
            "<line x1='{LEFT}' x2='{}' y1='{y}' y2='{y}' class='grid'/><text x='{}' y='{}' class='end'>{}</text><text x='{}' y='{}' class='line-label'>{}</text>",
            LEFT + room,
            LEFT - 6,
            y + 4,
            most * part / 4,
            LEFT + room + 6,
            y + 4,
            all * part / 4
        );
    }
    let mut line = String::new();
    let mut sum = 0;
    for (nth, (bar, joined)) in bars.iter().zip(&joined).enumerate() {
        let (left, right) = (x(nth as u64), x(nth as u64 + 1));
        let mut top = 12 + BARS;
        for (kind, count) in bar.iter().enumerate().filter(|(_, count)| **count > 0) {
            let size = (BARS * count / most).max(1);
            top -= size.min(top);
            let width = (right - left).saturating_sub(1).max(1);
            let epoch = first + nth as u64 * per_bar;
            let _ = write!(
                svg,
                "<rect x='{left}' y='{top}' width='{width}' height='{size}' class='kind{kind}'><title>epoch {epoch}: {count}</title></rect>"
            );
        }
        sum += joined;
        let _ = write!(line, "{},{} ", (left + right) / 2, 12 + BARS - BARS * sum / all);
    }
    let _ = write!(svg, "<polyline points='{line}' class='line'/>");
    for tick in ticks(n_bars) {
        let epoch = first + tick * per_bar;
        let _ = write!(svg, "<text x='{}' y='{}' class='mid'>{epoch}</text>", (x(tick) + x(tick + 1)) / 2, 12 + BARS + 16);
    }
    let _ = write!(svg, "<text x='{}' y='{}' class='mid'>epoch</text>", LEFT + room / 2, 12 + BARS + 34);
    for (nth, text) in ["double votes", "surround votes", "double proposals"].iter().enumerate() {
        let y = 18 + nth as u64 * 20;
        let _ = write!(
            svg,
            "<rect x='0' y='{}' width='11' height='11' class='kind{nth}'/><text x='17' y='{}'>{text}</text>",
            y - 9,
            y
        );
    }
    let _ = write!(svg, "<line x1='0' x2='11' y1='74' y2='74' class='line'/><text x='17' y='78'>validators so far</text></svg>");
    svg
}

/// Draws incidents as bars over the report's time. Only the first 24 are drawn.
pub(super) fn incidents(report: &Report) -> String {
    let (first, last) = (report.from.as_u64(), report.to.as_u64().max(report.from.as_u64() + 1));
    let shown: Vec<_> = report.incidents.iter().take(24).collect();
    let height = shown.len() as u64 * ROW + 34;
    let room = WIDTH - LEFT - RIGHT;
    let x = |slot: u64| LEFT + room * (slot.clamp(first, last) - first) / (last - first);
    let mut svg = open(height, "Incidents over time");
    for (nth, incident) in shown.iter().enumerate() {
        let y = nth as u64 * ROW + 4;
        let (from, to) = (x(incident.first_slot.as_u64()), x(incident.last_slot.as_u64()));
        let noticed = x(report.network.slot_at(incident.opened_at.as_unix_ns()).as_u64());
        let _ = write!(
            svg,
            "<text x='{}' y='{}' class='end'>{}</text><rect x='{from}' y='{y}' width='{}' height='16' rx='3' class='{}'><title>slots {} to {}</title></rect><line x1='{noticed}' x2='{noticed}' y1='{}' y2='{}' class='noticed'/>",
            LEFT - 8,
            y + 13,
            super::html::escaped(&incident.kind.words()),
            (to - from).max(3),
            incident.severity.as_str(),
            incident.first_slot,
            incident.last_slot,
            y - 2,
            y + 18
        );
    }
    let bottom = shown.len() as u64 * ROW + 18;
    for part in 0..=4 {
        let slot = first + (last - first) * part / 4;
        let class = ["start", "mid", "mid", "mid", "end"][part as usize];
        let _ = write!(svg, "<text x='{}' y='{bottom}' class='{class}'>slot {slot}</text>", x(slot));
    }
    svg.push_str("</svg>");
    svg
}

fn open(height: u64, title: &str) -> String {
    format!("<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{title}'><title>{title}</title>")
}

/// Returns about eight positions of `n`.
fn ticks(n: u64) -> impl Iterator<Item = u64> {
    (0..n).step_by(usize::try_from(n.div_ceil(8)).unwrap_or(1).max(1))
}
