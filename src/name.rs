//! The bytes of one directory entry, as the kernel sends them, become a typed [`Request`].
//!
//! `NAME` or `NAME?QUERY`, where QUERY is `key=value` pairs separated by `&` or `,`. In NAME,
//! `%3F` stands for `?` and `%25` for `%`; there are no other escapes, so that a file has one
//! spelling and no escape can smuggle in a slash or a NUL. Every other byte stands for itself.
//!
//! Pure: no I/O, no panic on any input. Nothing past this module sees a raw name.

use std::borrow::Cow;
use std::fmt;

use crate::rules::{Backing, Properties, Rom};

/// One parsed directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The file's own name in the store: one component, never empty, `.` or `..`.
    pub base: Vec<u8>,
    /// None when the entry had no `?`.
    pub query: Option<Query>,
}

impl Request {
    /// The three properties that decide, with the defaults for those not named.
    pub fn properties(&self) -> Properties {
        self.query.as_ref().map_or_else(Properties::default, |query| query.properties)
    }
}

/// What stood behind the `?`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pub properties: Properties,
    /// The identity of a private view that lasts.
    pub view: Option<Label>,
    /// The virtual machine that a view is accounted to; it decides nothing.
    pub vm: Option<Label>,
    /// Where a private view's pages are; None: as the mount says.
    pub backing: Option<Backing>,
}

/// An identity or a label: 1 to 64 of `[A-Za-z0-9._-]`, not starting with a dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    pub const MAX: usize = 64;

    pub fn new(text: &[u8]) -> Option<Self> {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        let fits = (1..=Self::MAX).contains(&text.len()) && text[0] != b'.' && text.iter().all(allowed);
        fits.then(|| Self(String::from_utf8_lossy(text).into_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl TryFrom<String> for Label {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text.as_bytes()).ok_or_else(|| NameError::bad_value("view", text.as_bytes()))
    }
}

/// Why a name is none. Each sentence says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    #[error("`{0}` holds a broken escape: write %3F for `?` and %25 for `%`; there are no others")]
    BrokenEscape(String),
    #[error("there is no file name before the `?`")]
    NoName,
    #[error("the query holds an empty pair: write key=value pairs with one `&` or `,` between two")]
    EmptyPair,
    #[error("`{0}` is not a key=value pair")]
    NotAPair(String),
    #[error("unknown key `{0}`: the keys are rom, readonly, share, view, vm and backing")]
    UnknownKey(String),
    #[error("the key `{0}` is given twice")]
    RepeatedKey(&'static str),
    #[error("{key}={value} is no value of that key: {expected}")]
    BadValue { key: &'static str, value: String, expected: &'static str },
}

impl NameError {
    fn bad_value(key: &'static str, value: &[u8]) -> Self {
        let expected = match key {
            "rom" => "it is on, off or auto",
            "readonly" | "share" => "it is on or off",
            "backing" => "it is overlay, memory or auto",
            _ => "it is 1 to 64 of A-Z a-z 0-9 . _ - and does not start with a dot",
        };
        Self::BadValue { key, value: printable(value), expected }
    }
}

/// Parses one directory entry.
///
/// ```
/// use templatefs::name::{self, NameError};
/// use templatefs::rules::Kind;
///
/// let request = name::parse(b"12.ram?rom=off&view=web-1")?;
/// assert_eq!(request.base, b"12.ram");
/// assert_eq!(request.properties().resolve(), Ok(Kind::Private));
/// assert_eq!(request.query.unwrap().view.unwrap().as_str(), "web-1");
///
/// assert_eq!(name::parse(b"12.ram?rom=0"), Err(NameError::BadValue {
///     key: "rom", value: "0".into(), expected: "it is on, off or auto",
/// }));
/// # Ok::<(), NameError>(())
/// ```
///
/// # Errors
/// What is no name: the sentence of [`NameError`] says what to write instead.
pub fn parse(raw: &[u8]) -> Result<Request, NameError> {
    let (name, query) = match raw.iter().position(|b| *b == b'?') {
        Some(at) => (&raw[..at], Some(&raw[at + 1..])),
        None => (raw, None),
    };
    let base = unescape(name)?;
    if matches!(base.as_slice(), b"" | b"." | b"..") {
        return Err(NameError::NoName);
    }
    Ok(Request { base, query: query.map(parse_query).transpose()? })
}

/// How a file's own name is written in a path: the inverse of what [`parse`] does to a name.
///
/// ```
/// use templatefs::name;
///
/// let written = name::escape(b"100%?.ram");
/// assert_eq!(&*written, b"100%25%3F.ram");
/// assert_eq!(name::parse(&written).unwrap().base, b"100%?.ram");
/// ```
pub fn escape(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.iter().any(|b| matches!(b, b'?' | b'%')) {
        return Cow::Borrowed(name);
    }
    let mut out = Vec::with_capacity(name.len() + 8);
    for b in name {
        match b {
            b'?' => out.extend_from_slice(b"%3F"),
            b'%' => out.extend_from_slice(b"%25"),
            other => out.push(*other),
        }
    }
    Cow::Owned(out)
}

/// Bytes for a person to read, on one line whatever they hold.
pub fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

fn unescape(name: &[u8]) -> Result<Vec<u8>, NameError> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            out.push(*first);
            rest = tail;
            continue;
        }
        match tail {
            [b'3', b'F' | b'f', after @ ..] => {
                out.push(b'?');
                rest = after;
            }
            [b'2', b'5', after @ ..] => {
                out.push(b'%');
                rest = after;
            }
            _ => return Err(NameError::BrokenEscape(printable(name))),
        }
    }
    Ok(out)
}

fn parse_query(query: &[u8]) -> Result<Query, NameError> {
    let (mut rom, mut readonly, mut share) = (None, None, None);
    let (mut view, mut vm, mut backing) = (None, None, None);
    for pair in query.split(|b| matches!(b, b'&' | b',')) {
        if pair.is_empty() {
            return Err(NameError::EmptyPair);
        }
        let at = pair.iter().position(|b| *b == b'=').ok_or_else(|| NameError::NotAPair(printable(pair)))?;
        let (key, value) = (&pair[..at], &pair[at + 1..]);
        match key {
            b"rom" => set(&mut rom, "rom", value, parse_rom)?,
            b"readonly" => set(&mut readonly, "readonly", value, parse_switch)?,
            b"share" => set(&mut share, "share", value, parse_switch)?,
            b"view" => set(&mut view, "view", value, Label::new)?,
            b"vm" => set(&mut vm, "vm", value, Label::new)?,
            b"backing" => set(&mut backing, "backing", value, Backing::parse)?,
            unknown => return Err(NameError::UnknownKey(printable(unknown))),
        }
    }
    let default = Properties::default();
    let properties = Properties {
        share: share.unwrap_or(default.share),
        readonly: readonly.unwrap_or(default.readonly),
        rom: rom.unwrap_or(default.rom),
    };
    Ok(Query { properties, view, vm, backing })
}

fn set<T>(
    slot: &mut Option<T>,
    key: &'static str,
    value: &[u8],
    parse: fn(&[u8]) -> Option<T>,
) -> Result<(), NameError> {
    if slot.is_some() {
        return Err(NameError::RepeatedKey(key));
    }
    *slot = Some(parse(value).ok_or_else(|| NameError::bad_value(key, value))?);
    Ok(())
}

fn parse_rom(value: &[u8]) -> Option<Rom> {
    match value {
        b"auto" => Some(Rom::Auto),
        b"on" => Some(Rom::On),
        b"off" => Some(Rom::Off),
        _ => None,
    }
}

fn parse_switch(value: &[u8]) -> Option<bool> {
    match value {
        b"on" => Some(true),
        b"off" => Some(false),
        _ => None,
    }
}

/// A template's path in the store as it is written in a path of the mount.
pub fn written(path: &[u8]) -> String {
    let parts: Vec<String> = path.split(|b| *b == b'/').map(|part| printable(&escape(part))).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(raw: &str) -> NameError {
        parse(raw.as_bytes()).expect_err(raw)
    }

    #[test]
    fn a_plain_name_has_no_query() {
        let request = parse(b"12.ram").unwrap();
        assert_eq!((request.base.as_slice(), &request.query), (&b"12.ram"[..], &None));
        assert_eq!(request.properties(), Properties { share: false, readonly: true, rom: Rom::Auto });
    }

    #[test]
    fn every_key_is_read_with_either_separator() {
        let request = parse(b"a?rom=off&readonly=off,share=on,view=web-1&vm=Web.2_x").unwrap();
        let query = request.query.unwrap();
        assert_eq!(query.properties, Properties { share: true, readonly: false, rom: Rom::Off });
        assert_eq!(query.view.unwrap().as_str(), "web-1");
        assert_eq!(query.vm.unwrap().as_str(), "Web.2_x");
    }

    #[test]
    fn escapes_stand_for_the_two_bytes_only() {
        assert_eq!(parse(b"50%25 done%3f?rom=on").unwrap().base, b"50% done?");
        for broken in ["%", "a%2", "a%41", "%00", "%2F", "a%zz", "a%3", "%%25"] {
            assert!(matches!(error(broken), NameError::BrokenEscape(_)), "{broken}");
        }
    }

    #[test]
    fn what_is_no_query_is_refused() {
        for empty in ["a?", "a?&", "a?rom=off&", "a?,rom=off", "a?rom=off&&vm=x"] {
            assert_eq!(error(empty), NameError::EmptyPair, "{empty}");
        }
        assert!(matches!(error("a?rom"), NameError::NotAPair(_)));
        assert!(matches!(error("a?rom=off?x=1"), NameError::BadValue { key: "rom", .. }));
        assert!(matches!(error("a?ROM=off"), NameError::UnknownKey(_)));
        assert!(matches!(error("a?=off"), NameError::UnknownKey(_)));
        assert_eq!(error("a?rom=off&rom=off"), NameError::RepeatedKey("rom"));
        for bad in ["rom=", "rom=yes", "readonly=auto", "share=1", "view=", "view=.x", "vm=a/b", "vm=ä"] {
            assert!(matches!(error(&format!("a?{bad}")), NameError::BadValue { .. }), "{bad}");
        }
        assert!(parse(format!("a?view={}", "v".repeat(64)).as_bytes()).is_ok());
        assert!(parse(format!("a?view={}", "v".repeat(65)).as_bytes()).is_err());
    }

    #[test]
    fn a_query_cannot_name_a_directory_above() {
        for none in ["?rom=off", ".?rom=off", "..?rom=off", ""] {
            assert_eq!(error(none), NameError::NoName, "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn every_listed_name_opens(name in proptest::collection::vec(1u8..=255, 1..300)) {
            prop_assume!(!matches!(name.as_slice(), b"." | b".."));
            let request = parse(&escape(&name)).unwrap();
            prop_assert_eq!(request.base, name);
            prop_assert_eq!(request.query, None);
        }

        #[test]
        fn no_bytes_panic(raw in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&raw);
        }

        #[test]
        fn no_query_panics(query in "[a-z=&,%?.]{0,60}") {
            let _ = parse(format!("a?{query}").as_bytes());
        }
    }
}
