//! `export`: a view becomes a file of its own, all of it or what is not its template's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

use super::commit::size_of;
use super::progress::Progress;
use super::target::{self, Change, Found};
use crate::cli::{ExportArgs, ExportFormat};
use crate::error::{Error, Result};
use crate::overlay::PAGE;
use crate::qcow2::{self, Run};
use crate::sparse;

pub fn run(args: &ExportArgs) -> Result<ExitCode> {
    let (id, file) = target::split(&args.words);
    let found = target::find(&args.view, id)?;
    found.refuse_copies()?;
    let path = std::path::absolute(file).map_err(|e| Error::io(file.to_owned(), e))?;
    let context = |e: io::Error| Error::io(file.to_owned(), e);
    if path.try_exists().map_err(context)? {
        return Err(Error::NameTaken(format!(
            "{file}: it is there already: take another name, or remove it"
        )));
    }
    let view = found.open()?;
    let size = size_of(&view, &found)?;
    // It gets its name when it is whole.
    let directory = path.parent().unwrap_or(Path::new("/"));
    let unfinished =
        tempfile::Builder::new().prefix(".templatefs-export-").tempfile_in(directory).map_err(context)?;
    match args.format {
        ExportFormat::Raw => raw(&view, size, unfinished.as_file()).map_err(context)?,
        ExportFormat::Qcow2 => qcow2(&found, &view, size, unfinished.as_file())?.map_err(context)?,
    }
    unfinished.as_file().sync_all().map_err(context)?;
    unfinished.persist_noclobber(&path).map_err(|e| context(e.error))?;
    Ok(ExitCode::SUCCESS)
}

fn raw(view: &File, size: u64, to: &File) -> io::Result<()> {
    let progress = Progress::new("exported", size);
    sparse::copy(view, size, to, &|bytes| progress.add(bytes))?;
    progress.done();
    Ok(())
}

fn qcow2(found: &Found, view: &File, size: u64, to: &File) -> Result<io::Result<()>> {
    let template = found.store()?.join(found.template()?);
    let Some(backing) = template.to_str().filter(|path| !path.contains('\n')) else {
        return Err(Error::Invalid(format!(
            "{}: its path cannot be named in a qcow2: export it raw",
            template.display()
        )));
    };
    let runs: Vec<Run> = found.changes()?.into_iter().map(run_of).collect();
    let data = runs
        .iter()
        .filter(|run| !run.is_zero)
        .map(|run| (run.clusters.end - run.clusters.start) * PAGE)
        .sum();
    let progress = Progress::new("exported", data);
    let read = |piece: &mut [u8], at: u64| {
        let there = (size - at).min(piece.len() as u64) as usize;
        view.read_exact_at(&mut piece[..there], at)?;
        piece[there..].fill(0);
        progress.add(piece.len() as u64);
        Ok(())
    };
    let written = qcow2::write(to, size, backing, &runs, read);
    progress.done();
    Ok(written)
}

fn run_of(Change { bytes, is_zero }: Change) -> Run {
    Run { clusters: bytes.start / PAGE..bytes.end.div_ceil(PAGE), is_zero }
}
