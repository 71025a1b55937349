//! Charts as inline SVG: bars by epoch, a line with the number of validators, and incidents over
//! time. Text stays text, and the colours follow the page's.

use super::sections::newest;
use super::{MAX_BARS, Report};
use consensus::Epoch;
use maud::{Markup, html};

const WIDTH: u64 = 860;
const LEFT: u64 = 172;
const RIGHT: u64 = 16;
const BARS: u64 = 180;
const ROW: u64 = 24;
const TOP: u64 = 12;
/// Largest number of bars of [`offences`]. In a long report a bar covers several epochs.
const MAX_EPOCH_BARS: u64 = 120;

/// Draws the contradictions by the epoch in which they became known, by kind, and the number of
/// validators so far.
pub(super) fn offences(report: &Report) -> Markup {
    let preset = report.network.preset();
    let (first, last) = (report.from.epoch(preset).as_u64(), report.to.epoch(preset).as_u64());
    let n = last - first + 1;
    let per_bar = n.div_ceil(MAX_EPOCH_BARS);
    let n_bars = n.div_ceil(per_bar);
    let mut bars = vec![([0u64; 3], 0u64); n_bars as usize];
    let bar_of = |epoch: Epoch| (epoch.as_u64().saturating_sub(first) / per_bar) as usize;
    for (epoch, counts) in &report.by_epoch {
        if let Some((sums, _)) = bars.get_mut(bar_of(*epoch)) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    for (epoch, count) in &report.joined {
        if let Some((_, joined)) = bars.get_mut(bar_of(*epoch)) {
            *joined += count;
        }
    }
    let most = bars.iter().map(|(sums, _)| sums.iter().sum::<u64>()).max().unwrap_or(0).max(1);
    let all = (report.members.len() as u64).max(1);
    let room = WIDTH - LEFT - RIGHT - 40;
    let x = |bar: u64| LEFT + room * bar / n_bars;
    let middle = |bar: u64| (x(bar) + x(bar + 1)) / 2;
    let epoch_of = |bar: u64| first + bar * per_bar;
    let mut sum = 0;
    let line: Vec<String> = (0..)
        .zip(&bars)
        .map(|(nth, (_, joined))| {
            sum += joined;
            format!("{},{}", middle(nth), TOP + BARS - BARS * sum / all)
        })
        .collect();
    let content = html! {
        @for part in 0..=4 {
            @let y = TOP + BARS - BARS * part / 4;
            line.grid x1=(LEFT) x2=(LEFT + room) y1=(y) y2=(y) {}
            text.end x=(LEFT - 6) y=(y + 4) { (most * part / 4) }
            text.line-label x=(LEFT + room + 6) y=(y + 4) { (all * part / 4) }
        }
        @for (nth, (counts, _)) in (0..).zip(&bars) {
            (bar(*counts, most, epoch_of(nth), x(nth), x(nth + 1)))
        }
        polyline.line points=(line.join(" ")) {}
        @for tick in ticks(n_bars) {
            text.mid x=(middle(tick)) y=(TOP + BARS + 16) { (epoch_of(tick)) }
        }
        text.mid x=(LEFT + room / 2) y=(TOP + BARS + 34) { "epoch" }
        @for (nth, name) in (0u64..).zip(["double votes", "surround votes", "double proposals"]) {
            rect class={ "kind" (nth) } x="0" y=(nth * 20 + 9) width="11" height="11" {}
            text x="17" y=(nth * 20 + 18) { (name) }
        }
        line.line x1="0" x2="11" y1="74" y2="74" {}
        text x="17" y="78" { "validators so far" }
    };
    svg(BARS + 56, "Contradicting pairs of messages by epoch, and validators so far", &content)
}

/// Draws one bar of [`offences`]: its kinds, one on top of the other.
fn bar(counts: [u64; 3], most: u64, epoch: u64, left: u64, right: u64) -> Markup {
    let mut top = TOP + BARS;
    let pieces: Vec<_> = counts
        .into_iter()
        .enumerate()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| {
            let size = (BARS * count / most).max(1);
            top -= size.min(top);
            (kind, count, top, size)
        })
        .collect();
    html! {
        @for (kind, count, top, size) in pieces {
            rect class={ "kind" (kind) } x=(left) y=(top) width=((right - left).saturating_sub(1).max(1)) height=(size) {
                title { "epoch " (epoch) ": " (count) }
            }
        }
    }
}

/// Draws incidents as bars over the report's time. Only the last [`MAX_BARS`] are drawn.
pub(super) fn incidents(report: &Report) -> Markup {
    let first = report.from.as_u64().min(u64::MAX - 1);
    let last = report.to.as_u64().max(first + 1);
    let (shown, _) = newest(&report.incidents, MAX_BARS);
    // Somebody may ask for any slots.
    let share = |slot: u64| (slot.clamp(first, last) - first) as f64 / (last - first) as f64;
    let x = |slot: u64| LEFT + ((WIDTH - LEFT - RIGHT) as f64 * share(slot)) as u64;
    let bottom = shown.len() as u64 * ROW + 18;
    let content = html! {
        @for (nth, incident) in (0u64..).zip(shown) {
            @let y = nth * ROW + 4;
            @let (from, to) = (x(incident.first_slot.as_u64()), x(incident.last_slot.as_u64()));
            @let noticed = x(report.network.slot_at(incident.opened_at.as_unix_ns()).as_u64());
            text.end x=(LEFT - 8) y=(y + 13) { (incident.kind.words()) }
            rect class=(incident.severity) x=(from) y=(y) width=((to - from).max(3)) height="16" rx="3" {
                title { "slots " (incident.first_slot) " to " (incident.last_slot) }
            }
            line.noticed x1=(noticed) x2=(noticed) y1=(y - 2) y2=(y + 18) {}
        }
        @for (part, class) in (0u64..).zip(["start", "mid", "mid", "mid", "end"]) {
            @let slot = first + (last - first) * part / 4;
            text class=(class) x=(x(slot)) y=(bottom) { "slot " (slot) }
        }
    };
    svg(bottom + 16, "Incidents over time", &content)
}

fn svg(height: u64, title: &str, content: &Markup) -> Markup {
    html! {
        svg viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label=(title) {
            title { (title) }
            (content)
        }
    }
}

/// Returns about eight positions of `n`.
fn ticks(n: u64) -> impl Iterator<Item = u64> {
    (0..n).step_by(usize::try_from(n.div_ceil(8)).unwrap_or(1).max(1))
}
