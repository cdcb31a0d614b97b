//! `completions` and `manual`: what packagers and shells take from the command line's own description.

use clap_complete::Shell;

use super::output::print;

/// A script that completes this command line in `shell`.
pub(super) fn completions(shell: Shell, mut command: clap::Command) -> Result<(), String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "sessiond", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// The man page, in roff: of all, or of one command.
pub(super) fn manual(of: Option<&str>, mut command: clap::Command) -> Result<(), String> {
    command.build();
    let command = match of {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| format!("there is no command {name:?}"))?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|error| error.to_string())?;
    print(&String::from_utf8_lossy(&page))
}
