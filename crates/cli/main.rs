//! `slashwatch`: the command line. What each command does lives in the crates below; here is only how it is said.
//!
//! Data goes to stdout, all else to stderr. Exit codes: 0 done, 1 failed (or found something, with
//! `--fail-on-finding`), 64 wrong usage or configuration, 65 unreadable input.

mod args;
mod commands;
mod exit;
mod output;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // `--help` and `--version` are no errors, and go to stdout.
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    // libp2p and reqwest could bring two TLS providers; the choice must be made before either is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match commands::run(args) {
        Ok(code) => ExitCode::from(code),
        // Whoever read has had enough, as `head` has.
        Err(error) if output::is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slashwatch: {}", in_one_line(&error));
            ExitCode::from(exit::code_of(&error))
        }
    }
}

/// An error with its causes, each once: some messages name their cause themselves.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}
