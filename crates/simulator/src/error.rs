//! What can keep a simulation from running.

use std::path::PathBuf;

/// Why a simulation could not be set up, run or written.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The scenario asks for something this simulator cannot play.
    #[error("scenario: {what} is {found}, possible is {possible}; change it there")]
    Scenario { what: &'static str, found: String, possible: String },
    /// Not a scenario file.
    #[error("the scenario file cannot be read: {0}; scenarios/ has examples")]
    File(String),
    /// The simulator's own configuration text was not understood by the watcher's reader.
    #[error("the simulated network's config.yaml was refused; this is a mistake of the program, please report it")]
    Config(#[source] consensus::SpecError),
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
    /// The task that sends the messages is gone.
    #[error("the simulation broke off; this is a mistake of the program, please report it with the scenario and the log")]
    BrokenOff,
    /// A thread of the operating system could not be had.
    #[error("no thread for the simulation; check the limit of processes (ulimit -u)")]
    Thread(#[source] std::io::Error),
}
