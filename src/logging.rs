//! Where the daemon's log goes: stderr, which is the journal's under systemd, or a file.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use env_logger::{Builder, Target, WriteStyle};
use log::LevelFilter;

use crate::error::{Error, Result};

pub fn init(level: LevelFilter, file: Option<&Path>) -> Result<()> {
    let mut builder = Builder::new();
    // The session library says little that is not said better here.
    builder
        .filter_level(level)
        .filter_module("fuser", level.min(LevelFilter::Error))
        .write_style(WriteStyle::Never);
    builder.format_timestamp_millis();
    if let Some(path) = file {
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        let log = open.map_err(|e| Error::io(format!("log file {}", path.display()), e))?;
        builder.target(Target::Pipe(Box::new(log)));
    }
    builder.try_init().map_err(|e| Error::io("log", std::io::Error::other(e)))
}
