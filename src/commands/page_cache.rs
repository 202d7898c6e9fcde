//! `page-cache`: what a daemon has looked at for it (inspect/cache.rs).

use std::process::ExitCode;

use crate::cli::PageCacheArgs;
use crate::error::{Error, Result};
use crate::inspect::answer_page_cache;

pub fn run(args: &PageCacheArgs) -> Result<ExitCode> {
    answer_page_cache(&args.mountpoint, std::io::stdin().lock(), std::io::stdout().lock())
        .map_err(|e| Error::io(format!("{}", args.mountpoint.display()), e))?;
    Ok(ExitCode::SUCCESS)
}
