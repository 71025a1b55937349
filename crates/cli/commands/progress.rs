//! How far long work has come: on stderr, and only where that is a terminal.

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::time::Duration;

/// Between two turns of a spinner.
const TURN: Duration = Duration::from_millis(100);

/// A bar with its share, its rate and the time that is left. `units`: what is counted, in the plural.
pub fn bar(doing: &'static str, units: &'static str) -> ProgressBar {
    let rate = move |state: &ProgressState, out: &mut dyn Write| {
        // Text takes anything.
        let _ = write!(out, "{:.0} {units}/s", state.per_sec());
    };
    let style = ProgressStyle::with_template("{msg} {bar:40} {percent} % {rate} eta {eta}").expect("a constant template");
    // Hidden by itself where stderr is no terminal.
    ProgressBar::new(0).with_style(style.with_key("rate", rate)).with_message(doing)
}

/// For what cannot say how far it is.
pub fn spinner(doing: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(doing);
    spinner.enable_steady_tick(TURN);
    spinner
}

/// Sets a bar to where a walk is.
pub fn show(bar: &ProgressBar, walked: offline::history::Walked) {
    bar.set_length(walked.total);
    bar.set_position(walked.done);
}
