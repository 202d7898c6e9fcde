//! The text behind `-o` becomes typed options. Pure.
//!
//! The syntax is libfuse's (lib/fuse_opt.c): commas separate, a backslash takes the next byte as
//! it is, and a backslash with three octal digits is that byte.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::error::{Error, Result};
use crate::name::printable;

/// One option that means something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountOption {
    AllowOther,
    AllowTemplateWrites,
    Foreground,
    Nonempty,
    Threads(String),
    LogLevel(String),
    LogFile(OsString),
    StateDir(OsString),
    Policy(OsString),
    Require(String),
    Budget(String),
    Overcommit(String),
    MaxPrivate(String),
    MaxViewsPerUser(String),
    MaxNodesPerUser(String),
    MetricsListen(String),
    Backing(String),
    Pool(String),
    Warm(String),
    ReadAhead(String),
}

/// Words that say what a mount of templatefs is anyway, or that are for mount(8) and systemd.
///
/// `dev` and `suid` are among them because mount.fuse3 adds each to every line that does not say
/// `nodev` or `nosuid`: refusing them would refuse plain fstab lines. The mount is nodev and
/// nosuid all the same.
const IGNORED: [&[u8]; 24] = [
    b"rw",
    b"defaults",
    b"nosuid",
    b"suid",
    b"nodev",
    b"dev",
    b"noexec",
    b"auto",
    b"noauto",
    b"user",
    b"users",
    b"nouser",
    b"owner",
    b"group",
    b"nofail",
    b"_netdev",
    b"async",
    b"atime",
    b"noatime",
    b"relatime",
    b"norelatime",
    b"nodiratime",
    b"default_permissions",
    b"silent",
];

/// The same with a value.
const IGNORED_KEYS: [&[u8]; 4] = [b"fsname", b"subtype", b"comment", b"user"];

/// The options in the text of one `-o`. Empty ones are skipped, as libfuse does.
pub fn parse(text: &OsStr) -> Result<Vec<MountOption>> {
    let words = split(text.as_bytes());
    words.iter().filter(|word| !word.is_empty()).filter_map(|word| option(word).transpose()).collect()
}

fn option(word: &[u8]) -> Result<Option<MountOption>> {
    let (key, value) = match word.iter().position(|b| *b == b'=') {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    };
    let option = match key {
        b"allow_other" => flag(word, value, MountOption::AllowOther)?,
        b"allow_template_writes" => flag(word, value, MountOption::AllowTemplateWrites)?,
        b"foreground" => flag(word, value, MountOption::Foreground)?,
        b"nonempty" => flag(word, value, MountOption::Nonempty)?,
        b"threads" => MountOption::Threads(text(key, value)?),
        b"log_level" => MountOption::LogLevel(text(key, value)?),
        b"log_file" => MountOption::LogFile(path(key, value)?),
        b"state_dir" => MountOption::StateDir(path(key, value)?),
        b"budget" => MountOption::Budget(text(key, value)?),
        b"overcommit" => MountOption::Overcommit(text(key, value)?),
        b"max_private" => MountOption::MaxPrivate(text(key, value)?),
        b"max_views_per_user" => MountOption::MaxViewsPerUser(text(key, value)?),
        b"max_nodes_per_user" => MountOption::MaxNodesPerUser(text(key, value)?),
        b"policy" => MountOption::Policy(path(key, value)?),
        b"require" => MountOption::Require(text(key, value)?),
        b"metrics_listen" => MountOption::MetricsListen(text(key, value)?),
        b"backing" => MountOption::Backing(text(key, value)?),
        b"pool" => MountOption::Pool(text(key, value)?),
        b"warm" => MountOption::Warm(text(key, value)?),
        b"read_ahead" => MountOption::ReadAhead(text(key, value)?),
        b"ro" => {
            return Err(refused(
                "ro",
                "a private view must be writable; a path without a query is read-only as it is: leave ro out",
            ));
        }
        b"exec" => return Err(refused("exec", "a mount of templatefs is always noexec: leave exec out")),
        _ if is_ignored(word, key, value) => return Ok(None),
        _ => return Err(refused(&printable(word), "unknown option; `templatefs mount --help` lists them")),
    };
    Ok(Some(option))
}

fn is_ignored(word: &[u8], key: &[u8], value: Option<&[u8]>) -> bool {
    IGNORED.contains(&word) || (value.is_some() && IGNORED_KEYS.contains(&key)) || word.starts_with(b"x-")
}

fn flag(word: &[u8], value: Option<&[u8]>, option: MountOption) -> Result<MountOption> {
    match value {
        None => Ok(option),
        Some(_) => Err(refused(&printable(word), "this option takes no value")),
    }
}

fn text(key: &[u8], value: Option<&[u8]>) -> Result<String> {
    path(key, value).map(|value| printable(value.as_bytes()))
}

fn path(key: &[u8], value: Option<&[u8]>) -> Result<OsString> {
    match value {
        Some(value) if !value.is_empty() => Ok(OsString::from_vec(value.to_vec())),
        _ => {
            let key = printable(key);
            Err(refused(&key, &format!("a value is missing: write {key}=VALUE")))
        }
    }
}

fn refused(option: &str, why: &str) -> Error {
    Error::Invalid(format!("-o {option}: {why}"))
}

fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let last = words.len() - 1;
        rest = match (first, tail) {
            (b',', _) => {
                words.push(Vec::new());
                tail
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                words[last].push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                after
            }
            (b'\\', [escaped, after @ ..]) => {
                words[last].push(*escaped);
                after
            }
            _ => {
                words[last].push(*first);
                tail
            }
        };
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Vec<MountOption> {
        parse(OsStr::new(text)).expect(text)
    }

    fn refusal(text: &str) -> String {
        parse(OsStr::new(text)).expect_err(text).to_string()
    }

    #[test]
    fn every_option_has_its_word() {
        use MountOption::*;
        assert_eq!(
            parsed("allow_other,allow_template_writes,foreground,nonempty,threads=4,log_level=warn"),
            [
                AllowOther,
                AllowTemplateWrites,
                Foreground,
                Nonempty,
                Threads("4".into()),
                LogLevel("warn".into())
            ]
        );
        assert_eq!(parsed("metrics_listen=[::1]:0"), [MetricsListen("[::1]:0".into())]);
        assert_eq!(parsed("log_file=/l,state_dir=/s=1"), [LogFile("/l".into()), StateDir("/s=1".into())]);
    }

    #[test]
    fn a_comma_in_a_value_is_escaped_as_libfuse_does() {
        let dir = |path: &str| vec![MountOption::StateDir(path.into())];
        assert_eq!(parsed(r"state_dir=/a\,b"), dir("/a,b"));
        assert_eq!(parsed(r"state_dir=/a\054b\040c"), dir("/a,b c"));
        assert_eq!(parsed(r"state_dir=/a\\b"), dir(r"/a\b"));
        assert_eq!(parsed(r"state_dir=/a\"), dir(r"/a\"));
        assert_eq!(parsed(r"state_dir=/a\\,allow_other").len(), 2);
    }

    /// What mount.fuse3 hands over for `defaults,user,x-systemd.automount`, and more of its kind.
    #[test]
    fn the_usual_words_of_fstab_are_taken() {
        let words = "rw,defaults,nosuid,nodev,noexec,noauto,auto,user,users,nouser,nofail,_netdev,relatime,\
                     noatime,default_permissions,fsname=a,subtype=b,comment=c,user=joe,x-systemd.automount,\
                     x-gvfs-name=T,dev,suid,,";
        assert_eq!(parsed(words), []);
        assert_eq!(parsed(""), []);
    }

    #[test]
    fn what_contradicts_or_is_unknown_is_named() {
        for (text, named) in [
            ("allow_other,ro", "-o ro:"),
            ("exec", "-o exec:"),
            ("allow_others", "-o allow_others: unknown option"),
            ("size=1G", "-o size=1G: unknown option"),
            ("fsname", "-o fsname: unknown option"),
            ("allow_other=1", "-o allow_other=1: this option takes no value"),
            ("threads", "-o threads: a value is missing"),
            ("state_dir=", "-o state_dir: a value is missing"),
            ("a\nb", "-o a\\nb: unknown option"),
        ] {
            let text = refusal(text);
            assert!(text.starts_with(named) && !text.contains('\n'), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_escaped_value_comes_back(value in "[a-z,\\\\ /0-7]{1,20}") {
            let escaped = value.replace('\\', r"\\").replace(',', r"\,");
            prop_assert_eq!(
                parsed(&format!("log_file={escaped},nonempty")),
                [MountOption::LogFile(value.into()), MountOption::Nonempty]
            );
        }

        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(OsStr::from_bytes(&text));
        }
    }
}
