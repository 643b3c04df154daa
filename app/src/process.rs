//! A program that goes on as another one.

use std::io;
use std::process::Command;

/// Replaces this process by `command`, so that signals reach it and its exit code is this one's; returns only if it
/// cannot be started.
#[cfg(unix)]
pub fn become_it(mut command: Command) -> io::Result<u8> {
    use std::os::unix::process::CommandExt;
    Err(command.exec())
}

/// Where a process cannot be replaced: waits for `command`; its exit code.
#[cfg(not(unix))]
pub fn become_it(mut command: Command) -> io::Result<u8> {
    let status = command.status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(crate::EXIT_REFUSED))
}
