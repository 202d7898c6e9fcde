//! Whether a parsed request may become anything at all: QEMU's table, and the rule that `view=`
//! names a private view. The daemon and `templatefs resolve` both ask here, so that both give
//! the same sentence. Pure.

use std::fmt;

use crate::error::Error;
use crate::name::{Label, NameError, Request};
use crate::rules::{Backing, Conflict, Kind, Properties, Rom};

/// Why a well-formed request is refused. Its errno is EINVAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    Conflict(Conflict),
    /// `view=` where the three properties do not make a private view.
    ViewOfNothingPrivate {
        view: Label,
        kind: Kind,
        properties: Properties,
    },
    /// `backing=` where the three properties do not make a private view.
    BackingOfNothingPrivate {
        backing: Backing,
        kind: Kind,
    },
    /// A name for what is gone with its last user.
    NamedMemory(Label),
}

impl Objection {
    /// What is wrong; for a conflict in QEMU's own words.
    pub fn message(&self) -> String {
        match self {
            Self::Conflict(conflict) => conflict.qemu_message().to_owned(),
            Self::ViewOfNothingPrivate { view, kind, .. } => {
                let made = if *kind == Kind::Template { "the template itself" } else { "a ROM view" };
                format!("view={view} names a private view, but the other keys make this {made}")
            }
            Self::BackingOfNothingPrivate { backing, kind } => {
                let made = if *kind == Kind::Template { "the template itself" } else { "a ROM view" };
                let backing = backing.as_str();
                format!("backing={backing} is of a private view, but the other keys make this {made}")
            }
            Self::NamedMemory(view) => {
                format!(
                    "view={view} lasts until it is discarded, and backing=memory until its last user is gone"
                )
            }
        }
    }

    /// Which key to change.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Conflict(conflict) => conflict.advice(),
            Self::ViewOfNothingPrivate { properties, .. } => match (properties.share, properties.rom) {
                _ if !properties.readonly => "leave out share for a private view",
                (false, Rom::On) => "set rom=off for a private view",
                (false, _) => "add rom=off for a private view",
                (true, Rom::On) => "set rom=off and leave out share for a private view",
                (true, _) => "add rom=off and leave out share for a private view",
            },
            Self::BackingOfNothingPrivate { .. } => "leave out backing, or add rom=off for a private view",
            Self::NamedMemory(_) => "leave out one of the two",
        }
    }

    /// The one sentence that is logged and shown.
    pub fn at(self, path: String) -> Error {
        match self {
            Self::Conflict(source) => Error::Conflict { path, source },
            Self::ViewOfNothingPrivate { .. }
            | Self::BackingOfNothingPrivate { .. }
            | Self::NamedMemory(_) => Error::Invalid(format!("{path}: {self}")),
        }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message(), self.advice())
    }
}

/// The kind of thing that a request asks for.
pub fn check(request: &Request) -> Result<Kind, Objection> {
    let properties = request.properties();
    let kind = properties.resolve().map_err(Objection::Conflict)?;
    let query = request.query.clone().unwrap_or_default();
    match (query.view, query.backing) {
        (Some(view), _) if !kind.is_private() => {
            Err(Objection::ViewOfNothingPrivate { view, kind, properties })
        }
        (_, Some(backing)) if !kind.is_private() => Err(Objection::BackingOfNothingPrivate { backing, kind }),
        (Some(view), Some(Backing::Memory)) => Err(Objection::NamedMemory(view)),
        _ => Ok(kind),
    }
}

/// [`check`], with its refusal as the one sentence that is logged and shown. `path` is asked for
/// only then; it is the whole path, printable.
pub fn admit(request: &Request, path: impl FnOnce() -> String) -> Result<Kind, Error> {
    check(request).map_err(|objection| objection.at(path()))
}

/// A name that does not parse, as the same one sentence.
pub fn misnamed(source: NameError, path: String) -> Error {
    Error::Name { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name;
    use rustix::io::Errno;

    fn parsed(raw: &str) -> Request {
        name::parse(raw.as_bytes()).expect(raw)
    }

    #[test]
    fn what_the_table_accepts_is_admitted() {
        for (raw, kind) in [
            ("a", Kind::Rom),
            ("a?rom=off", Kind::Private),
            ("a?rom=off&view=x", Kind::Private),
            ("a?readonly=off&view=x&vm=y", Kind::PrivateIfWritable),
            ("a?vm=y", Kind::Rom),
            ("a?share=on&readonly=off", Kind::Template),
        ] {
            assert_eq!(check(&parsed(raw)), Ok(kind), "{raw}");
        }
    }

    #[test]
    fn a_refusal_is_einval_and_one_line_that_starts_with_the_path() {
        for raw in
            ["a?share=on&rom=off", "a?readonly=off&rom=on", "a?view=x", "a?share=on&readonly=off&view=x"]
        {
            let error = admit(&parsed(raw), || format!("dir/{raw}")).expect_err(raw);
            let text = error.to_string();
            assert_eq!(error.errno(), Errno::INVAL);
            assert!(text.starts_with(&format!("dir/{raw}: ")) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_conflict_speaks_before_the_view_rule() {
        let refused = check(&parsed("a?share=on&rom=off&view=x"));
        assert_eq!(refused, Err(Objection::Conflict(Conflict::WritableRomOnShared)));
    }

    /// Every advice, followed to the letter, must lead to a private view.
    #[test]
    fn the_advice_for_a_view_name_works() {
        for properties in Properties::all() {
            let raw = format!("a?{properties},view=x");
            let Err(objection @ Objection::ViewOfNothingPrivate { .. }) = check(&parsed(&raw)) else {
                continue;
            };
            let advice = objection.advice();
            let mut changed = properties;
            if advice.contains("rom=off") {
                changed.rom = Rom::Off;
            }
            if advice.contains("leave out share") {
                changed.share = false;
            }
            assert!(changed.resolve().is_ok_and(Kind::is_private), "{raw}: {advice}");
        }
    }
}
