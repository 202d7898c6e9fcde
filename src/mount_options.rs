//! The text behind `-o` becomes options of the command line, whose definition says which there are. Pure.
//!
//! The syntax is libfuse's (lib/fuse_opt.c): commas separate, a backslash takes the next byte as
//! it is, and a backslash with three octal digits is that byte.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::{Args, Command, FromArgMatches};

use crate::cli::MountOptions;
use crate::error::{Error, Result};
use crate::name::printable;

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

/// The options in the text of one `-o`, each by itself. Empty ones are skipped, as libfuse does.
pub fn parse(text: &OsStr) -> Result<Vec<MountOptions>> {
    let words = split(text.as_bytes());
    words.iter().filter(|word| !word.is_empty()).filter_map(|word| option(word).transpose()).collect()
}

fn option(word: &[u8]) -> Result<Option<MountOptions>> {
    let (key, value) = match word.iter().position(|b| *b == b'=') {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    };
    match key {
        b"ro" => Err(refused(
            "ro",
            "a private view must be writable; a path without a query is read-only as it is: leave ro out",
        )),
        b"exec" => Err(refused("exec", "a mount of templatefs is always noexec: leave exec out")),
        _ if is_ignored(word, key, value) => Ok(None),
        _ => as_argument(word, key, value).map(Some),
    }
}

/// What the long option that `key` names says with `value`.
fn as_argument(word: &[u8], key: &[u8], value: Option<&[u8]>) -> Result<MountOptions> {
    let command = MountOptions::augment_args(Command::new("mount").no_binary_name(true));
    let is_named = |long: &&str| !key.contains(&b'-') && long.replace('-', "_").as_bytes() == key;
    let named =
        command.get_arguments().find_map(|argument| Some((argument, argument.get_long().filter(is_named)?)));
    let Some((argument, long)) = named else {
        return Err(refused(&printable(word), "unknown option; `templatefs mount --help` lists them"));
    };
    let mut text = OsString::from(format!("--{long}"));
    match (argument.get_action().takes_values(), value) {
        (false, None) => {}
        (false, Some(_)) => return Err(refused(&printable(word), "this option takes no value")),
        (true, Some(value)) if !value.is_empty() => {
            text.push("=");
            text.push(OsStr::from_bytes(value));
        }
        (true, _) => {
            let key = printable(key);
            return Err(refused(&key, &format!("a value is missing: write {key}=VALUE")));
        }
    }
    let read = command.try_get_matches_from([text]).and_then(|found| MountOptions::from_arg_matches(&found));
    read.map_err(|error| refused(&printable(word), &in_one_line(&error)))
}

/// What clap found wrong, without the usage that follows.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    printable(lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").as_bytes())
}

fn is_ignored(word: &[u8], key: &[u8], value: Option<&[u8]>) -> bool {
    IGNORED.contains(&word) || (value.is_some() && IGNORED_KEYS.contains(&key)) || word.starts_with(b"x-")
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
    use std::path::PathBuf;

    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Vec<MountOptions> {
        parse(OsStr::new(text)).expect(text)
    }

    fn refusal(text: &str) -> String {
        parse(OsStr::new(text)).expect_err(text).to_string()
    }

    #[test]
    fn every_option_of_the_command_line_has_its_word() {
        let command = MountOptions::augment_args(Command::new("mount"));
        for argument in command.get_arguments() {
            let word = argument.get_long().unwrap().replace('-', "_");
            let value =
                argument.get_possible_values().first().map_or("7".into(), |one| one.get_name().to_owned());
            let text = if argument.get_action().takes_values() { format!("{word}={value}") } else { word };
            let options = parsed(&text);
            assert!(options.len() == 1 && options[0] != MountOptions::default(), "{text}");
        }
        let paths = MountOptions { state_dir: Some("/s=1".into()), ..MountOptions::default() };
        assert_eq!(parsed("state_dir=/s=1"), [paths]);
        let foreground = MountOptions { foreground: true, ..MountOptions::default() };
        assert_eq!(parsed("foreground,foreground"), [foreground.clone(), foreground]);
    }

    #[test]
    fn a_comma_in_a_value_is_escaped_as_libfuse_does() {
        let dir = |path: &str| [MountOptions { state_dir: Some(path.into()), ..MountOptions::default() }];
        assert_eq!(parsed(r"state_dir=/a\,b"), dir("/a,b"));
        assert_eq!(parsed(r"state_dir=/a\054b\040c"), dir("/a,b c"));
        assert_eq!(parsed(r"state_dir=/a\\b"), dir(r"/a\b"));
        assert_eq!(parsed(r"state_dir=/a\"), dir(r"/a\"));
        assert_eq!(parsed(r"state_dir=/a\\,allow_other").len(), 2);
        let bytes = parse(OsStr::from_bytes(b"state_dir=/\xff")).unwrap();
        assert_eq!(bytes[0].state_dir.as_ref().unwrap().as_os_str().as_bytes(), b"/\xff");
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
            ("allow-other", "-o allow-other: unknown option"),
            ("detached", "-o detached: unknown option"),
            ("help", "-o help: unknown option"),
            ("threads", "-o threads: a value is missing"),
            ("log_level=off", "-o log_level=off: invalid value"),
            ("log_level=a\nb", "-o log_level=a\\nb: "),
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
            let options = parsed(&format!("log_file={escaped},nonempty"));
            prop_assert_eq!(options[0].log_file.as_ref().unwrap(), &PathBuf::from(value));
            prop_assert!(options.len() == 2 && options[1].nonempty);
        }

        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(OsStr::from_bytes(&text));
        }
    }
}
