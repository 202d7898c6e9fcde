//! `import`: a file becomes a template.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::Value;

use super::capture::summary;
use super::make::{Making, Told};
use super::target;
use crate::cli::ImportArgs;
use crate::error::{Error, Result};
use crate::manifest::{Origin, Role};

const RAW: &str = "raw";

pub fn run(args: &ImportArgs) -> Result<ExitCode> {
    let shown = args.file.display();
    let metadata = std::fs::metadata(&args.file).map_err(|e| Error::io(format!("{shown}"), e))?;
    if !metadata.is_file() {
        return Err(Error::Invalid(format!("{shown}: only a file can be imported")));
    }
    let own = args.file.file_name().unwrap_or_default();
    let name = match &args.name {
        Some(name) => target::template(name)?,
        None => PathBuf::from(own),
    };
    let store = target::store(&args.store)?;
    let format = match &args.format {
        Some(format) => format.clone(),
        None => format_of(&args.file)?,
    };
    let mut making = Making::new(&store, &name)?;
    let part = making.own_name();
    if format == RAW {
        let file = File::open(&args.file).map_err(|e| Error::io(format!("{shown}"), e))?;
        making.copy(&part, Role::Image, &file, metadata.len())?;
    } else {
        refuse_other_files(&args.file, &format)?;
        convert(&args.file, &format, making.create(&part, Role::Image)?)?;
    }
    let told = Told { origin: Origin::Import { format }, machine: None, lineage: None, about: &args.about };
    let manifest = making.publish_file(told)?;
    super::print(summary(&manifest).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The formats that begin with something of their own; qemu-img must not guess, since a guest may have written
/// such a beginning into what is a raw image.
fn format_of(path: &Path) -> Result<String> {
    let mut start = [0; 4];
    let file = File::open(path).map_err(|e| Error::io(format!("{}", path.display()), e))?;
    let read = std::os::unix::fs::FileExt::read_at(&file, &mut start, 0);
    read.map_err(|e| Error::io(format!("{}", path.display()), e))?;
    let looks = match &start {
        b"QFI\xfb" => "qcow2",
        b"KDMV" => "vmdk",
        _ => return Ok(RAW.into()),
    };
    Err(Error::Invalid(format!(
        "{}: it begins as a {looks} file does: say --format {looks}, or --format raw where that is the guest's own data",
        path.display()
    )))
}

/// Writes the content of a file of another format to `raw`, with holes where it is zeros.
fn convert(path: &Path, format: &str, raw: &File) -> Result<()> {
    // qemu-img opens it by itself, and what it opens so is this very file, whatever became of its path.
    let to = format!("/proc/{}/fd/{}", std::process::id(), raw.as_raw_fd());
    qemu_img(path, &["convert", "-f", format, "-O", RAW], &[path, Path::new(&to)]).map(drop)
}

/// A file of such a format can name others to be read, which who imports it may not mean.
fn refuse_other_files(path: &Path, format: &str) -> Result<()> {
    let text = qemu_img(path, &["info", "--output=json", "-f", format], &[path])?;
    let info: Value = serde_json::from_slice(&text).unwrap_or_default();
    let data = &info["format-specific"]["data"];
    let named = [&info["backing-filename"], &data["data-file"]].into_iter().find_map(Value::as_str);
    match named {
        Some(other) => Err(Error::Invalid(format!(
            "{}: its content is in {other} too; make one file of them with `qemu-img convert` first",
            path.display()
        ))),
        None => Ok(()),
    }
}

fn qemu_img(path: &Path, arguments: &[&str], files: &[&Path]) -> Result<Vec<u8>> {
    let shown = path.display();
    let output = Command::new("qemu-img").args(arguments).arg("--").args(files).output().map_err(|e| {
        Error::io(format!("{shown}: qemu-img, which reads this format, cannot be run: install qemu-utils"), e)
    })?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            Err(Error::Invalid(format!("{shown}: qemu-img {}: {line}", arguments[0])))
        }
    }
}
