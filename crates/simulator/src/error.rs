//! Errors of a simulation.

use std::path::PathBuf;

/// Why a simulation could not be set up, run or written.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The scenario asks for something that this simulator cannot play.
    #[error("scenario: {what} is {found}, possible is {possible}; change it there")]
    Scenario { what: &'static str, found: String, possible: String },
    /// The text is not a scenario file.
    #[error("the scenario file cannot be read: {0}; scenarios/ has examples")]
    File(String),
    /// The watcher's reader did not accept the simulator's own configuration text.
    #[error("the simulated network's config.yaml was refused; this is a mistake of the program, please report it")]
    Config(#[source] consensus::SpecError),
    /// A capture file that is to be played could not be read.
    #[error("cannot read the capture {path}; check the path and that it is a capture file, or record it again")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The capture file could not be written.
    #[error("cannot write the capture {path}; check that the folder exists and the disk has room")]
    Capture {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A simulated node did not start.
    #[error("simulated node {node} did not start on 127.0.0.1; check that loopback TCP is allowed here")]
    Node {
        node: usize,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The task that sends the messages has ended early.
    #[error("the simulation broke off; this is a mistake of the program, please report it with the scenario and the log")]
    BrokenOff,
    /// The operating system did not provide a thread.
    #[error("no thread for the simulation; check the limit of processes (ulimit -u)")]
    Thread(#[source] std::io::Error),
}
