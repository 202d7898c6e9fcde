//! What a path would be, in words and as data. Pure: the template itself is not looked at.

use crate::admit::{self, Objection};
use crate::error::Error;
use crate::name::{self, NameError, Request, printable};
use crate::qemu;
#[doc(inline)]
pub use crate::qemu::QemuLine;
use crate::rules::{Backing, Kind, Properties, Rom};

/// Version of the JSON form; raised when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// What [`explain`] says; `templatefs resolve --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Explanation {
    pub schema: u32,
    /// As given, printable.
    pub path: String,
    /// The template's own path in the store, without escapes and query; None when the path
    /// does not parse.
    pub template: Option<String>,
    pub properties: Option<Resolved>,
    /// `rom`, `private` or `template`; None when the path is refused.
    pub kind: Option<&'static str>,
    pub view: Option<String>,
    pub vm: Option<String>,
    /// `overlay`, `memory` or `auto`; None: as the mount says.
    pub backing: Option<&'static str>,
    /// One sentence: what the path would be, or what the daemon logs when it refuses it.
    pub summary: String,
    /// What must hold beside the path itself, and what else a reader should know.
    pub notes: Vec<String>,
    pub qemu: Vec<QemuLine>,
    pub refusal: Option<Refusal>,
}

/// The three properties with their defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Resolved {
    pub share: bool,
    pub readonly: bool,
    pub rom: bool,
    pub rom_given: Rom,
}

/// Why a path is none, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Refusal {
    pub errno: &'static str,
    pub message: String,
    pub advice: String,
}

/// Explains the bytes of a path below a store, or below a mountpoint when they start with `/`.
///
/// ```
/// let private = templatefs::explain::explain(b"/mnt/t/debian/12.ram?rom=off");
/// assert_eq!(private.template.as_deref(), Some("/mnt/t/debian/12.ram"));
/// let object = private.qemu[0].args.last().unwrap();
/// assert!(object.ends_with("mem-path=/mnt/t/debian/12.ram?rom=off,share=off,readonly=on,rom=off"));
/// ```
pub fn explain(raw: &[u8]) -> Explanation {
    let shown = printable(raw);
    let mut out = Explanation {
        schema: SCHEMA,
        path: shown.clone(),
        template: None,
        properties: None,
        kind: None,
        view: None,
        vm: None,
        backing: None,
        summary: String::new(),
        notes: Vec::new(),
        qemu: Vec::new(),
        refusal: None,
    };
    let (directories, request) = match parse(raw) {
        Ok(parsed) => parsed,
        Err(fault) => return out.refuse(fault.refusal(), &fault.error(shown)),
    };
    out.template = Some(printable(&[directories.as_slice(), &request.base].concat()));
    out.properties = Some(resolved(request.properties()));
    let query = request.query.as_ref();
    out.view = query.and_then(|query| query.view.as_ref()).map(ToString::to_string);
    out.vm = query.and_then(|query| query.vm.as_ref()).map(ToString::to_string);
    out.backing = query.and_then(|query| query.backing).map(Backing::as_str);
    match admit::check(&request) {
        Ok(kind) => out.accept(kind, raw),
        Err(objection) => out.refuse(refusal(&objection), &objection.at(shown)),
    }
}

impl Explanation {
    fn accept(mut self, kind: Kind, raw: &[u8]) -> Self {
        self.kind = Some(kind.as_str());
        self.summary = summary(kind, self.view.as_deref(), self.vm.as_deref());
        self.notes = notes(kind);
        self.notes.extend(backing_note(self.backing).map(str::to_owned));
        if raw != self.path.as_bytes() {
            self.notes
                .push("the path is not plain UTF-8: `\\` escapes stand for its other bytes here".to_owned());
        }
        let mem_path = if raw.starts_with(b"/") { self.path.clone() } else { format!("MOUNT/{}", self.path) };
        self.qemu = qemu::lines(kind, self.view.is_some(), &mem_path);
        self
    }

    fn refuse(mut self, refusal: Refusal, sentence: &Error) -> Self {
        self.summary = sentence.to_string();
        self.refusal = Some(refusal);
        self
    }
}

/// Why a path has no template and query to speak of.
enum Fault {
    Name(NameError),
    QueryInTheMiddle,
    TrailingSlash,
}

impl Fault {
    fn refusal(&self) -> Refusal {
        let (errno, message, advice) = match self {
            Self::Name(error) => ("EINVAL", error.to_string(), name_advice(error)),
            Self::QueryInTheMiddle => (
                "ENOTDIR",
                "only the last part of a path may hold a query".to_owned(),
                "move the query to the end; for a `?` in a directory's name write %3F".to_owned(),
            ),
            Self::TrailingSlash => {
                ("ENOTDIR", "a template is a file".to_owned(), "leave out the `/` at the end".to_owned())
            }
        };
        Refusal { errno, message, advice }
    }

    fn error(&self, path: String) -> Error {
        match self {
            Self::Name(error) => admit::misnamed(error.clone(), path),
            Self::QueryInTheMiddle | Self::TrailingSlash => {
                let Refusal { message, advice, .. } = self.refusal();
                Error::NotADirectory(format!("{path}: {message}: {advice}"))
            }
        }
    }
}

/// The directories before the last part, without escapes and with their slashes, and the last
/// part. A value in a query cannot hold a slash, so the last slash ends the directories.
fn parse(raw: &[u8]) -> Result<(Vec<u8>, Request), Fault> {
    let start = raw.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let mut directories = Vec::with_capacity(start);
    for part in raw[..start].split_inclusive(|b| *b == b'/') {
        let part = part.strip_suffix(b"/").unwrap_or(part);
        // What the kernel walks itself never reaches the filesystem as a name.
        if matches!(part, b"" | b"." | b"..") {
            directories.extend_from_slice(part);
        } else {
            let request = name::parse(part).map_err(Fault::Name)?;
            if request.query.is_some() {
                return Err(Fault::QueryInTheMiddle);
            }
            directories.extend_from_slice(&request.base);
        }
        directories.push(b'/');
    }
    if start > 0 && start == raw.len() {
        return Err(Fault::TrailingSlash);
    }
    Ok((directories, name::parse(&raw[start..]).map_err(Fault::Name)?))
}

fn resolved(properties: Properties) -> Resolved {
    let Properties { share, readonly, rom } = properties;
    Resolved { share, readonly, rom: properties.resolved_rom(), rom_given: rom }
}

fn refusal(objection: &Objection) -> Refusal {
    Refusal { errno: "EINVAL", message: objection.message(), advice: objection.advice().to_owned() }
}

fn name_advice(error: &NameError) -> String {
    match error {
        NameError::BrokenEscape(_) => "write %25 where the name holds a `%`".to_owned(),
        NameError::NoName => "write the template's name before the `?`".to_owned(),
        NameError::EmptyPair => "take out the separator, or the `?`, that nothing follows".to_owned(),
        NameError::NotAPair(key) => format!("give `{key}` a value or leave it out"),
        NameError::UnknownKey(key) => {
            format!("change or leave out `{key}`; for a `?` in a file's name write %3F")
        }
        NameError::RepeatedKey(key) => format!("keep one `{key}`"),
        NameError::BadValue { key, .. } => format!("change the value of `{key}`"),
    }
}

fn summary(kind: Kind, view: Option<&str>, vm: Option<&str>) -> String {
    let what = match (kind, view) {
        (Kind::Rom, _) => {
            "a ROM view of the template: every open for writing and every truncate fails with EACCES"
                .to_owned()
        }
        (Kind::Template, _) => {
            "the template itself, for authoring: what is written here changes the template".to_owned()
        }
        (Kind::Private | Kind::PrivateIfWritable, None) => {
            "a new private copy-on-write view for this open alone: gone after its last close and munmap"
                .to_owned()
        }
        (Kind::Private | Kind::PrivateIfWritable, Some(id)) => {
            format!(
                "the private copy-on-write view named {id}: one for all who open it, kept until it is discarded"
            )
        }
    };
    let label = vm.map(|vm| format!("; accounted to the VM {vm}")).unwrap_or_default();
    format!("{what}{label}.")
}

fn notes(kind: Kind) -> Vec<String> {
    let note = match kind {
        Kind::Rom | Kind::Private => return Vec::new(),
        Kind::PrivateIfWritable => {
            "readonly=off: as in QEMU only for a caller who may write the template file, else EACCES; \
             readonly=on with rom=off is for everyone who may read it"
        }
        Kind::Template => "only on a mount started with --allow-template-writes, else EROFS",
    };
    vec![note.to_owned()]
}

fn backing_note(backing: Option<&str>) -> Option<&'static str> {
    match backing? {
        "memory" => Some(
            "backing=memory: its OPEN copies the template's data, unless a filled copy is ready (--pool)",
        ),
        "auto" => Some(
            "backing=auto: memory where the kernel passes files through and the copy is quick or ready, else \
             overlay; `templatefs views --json` says which and why",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
