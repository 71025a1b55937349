//! Shell completions and man pages, made from the arguments.

use crate::args::Args;
use crate::output;
use anyhow::Context as _;
use clap::CommandFactory as _;
use std::path::Path;

/// Prints the completions of a shell.
pub fn completions(shell: clap_complete::Shell) -> anyhow::Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "slashwatch", &mut text);
    output::text(String::from_utf8(text).context("completions are text")?)?;
    Ok(0)
}

/// Prints slashwatch(1), or writes it and the page of each command into a folder.
pub fn man(out: Option<&Path>) -> anyhow::Result<u8> {
    let Some(folder) = out else {
        // As `generate_to` does it, so that this is the same page.
        let mut command = Args::command().disable_help_subcommand(true);
        command.build();
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        output::text(String::from_utf8(page).context("the page is text")?)?;
        return Ok(0);
    };
    let could_not = || format!("cannot write into {}; check that the folder exists", folder.display());
    clap_mangen::generate_to(Args::command(), folder).with_context(could_not)?;
    Ok(0)
}
