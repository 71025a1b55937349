//! Shows the progress of long work on stderr, if that is a terminal.

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::time::Duration;

/// Time between two frames of a spinner.
const TURN: Duration = Duration::from_millis(100);

/// Makes a bar that shows percentage, rate and remaining time. `units` is the plural of what is
/// counted.
pub fn bar(doing: &'static str, units: &'static str) -> ProgressBar {
    let rate = move |state: &ProgressState, out: &mut dyn Write| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{:.0} {units}/s", state.per_sec());
    };
    let style = ProgressStyle::with_template("{msg} {bar:40} {percent} % {rate} eta {eta}").expect("a constant template");
    // The bar hides itself if stderr is not a terminal.
    ProgressBar::new(0).with_style(style.with_key("rate", rate)).with_message(doing)
}

/// Makes a spinner for work of unknown length.
pub fn spinner(doing: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(doing);
    spinner.enable_steady_tick(TURN);
    spinner
}

/// Sets a bar to the position of a walk.
pub fn show(bar: &ProgressBar, walked: watcher::history::Walked) {
    bar.set_length(walked.total);
    bar.set_position(walked.done);
}
