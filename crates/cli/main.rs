//! The command line of `slashwatch`. The libraries do the work. This crate only reads the arguments
//! and prints the results.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 for success, 1 for a failure, 64
//! for wrong usage or configuration, 65 for unreadable input. Code 1 also means that something was
//! found: with `replay --fail-on-finding`, that messages were not judged: with `replay
//! --fail-on-unjudged`, by `audit` if the record lacks something, by `preflight` if it is not safe
//! to start the keys, and by `demo` and `bench pipeline` if the findings differ from the offences
//! that were made.

mod args;
mod commands;
mod exit;
mod output;

use clap::Parser;
use std::process::ExitCode;

/// With very many peers a fifth of all time was spent in the C library's allocator: each of the
/// million message ids in a second that they name is an allocation.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // `--help` and `--version` are not errors, and go to stdout.
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    // libp2p and reqwest could bring two TLS providers. The choice must be made before either is
    // used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ended = commands::run(args);
    commands::flush_log();
    match ended {
        Ok(code) => ExitCode::from(code),
        // The reader of stdout has stopped reading, for example `head`. This is not a failure.
        Err(error) if output::is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slashwatch: {}", base::error_chain(error.as_ref()));
            ExitCode::from(exit::code_of(&error))
        }
    }
}
