//! The value of an option, from its name and text. Each error names the option.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use log::LevelFilter;

use super::MountConfig;
use crate::error::{Error, Result};
use crate::listen::Address;
use crate::manifest::Fact;
use crate::name::printable;
use crate::rules::Backing;

pub fn threads(option: &str, text: &str) -> Result<usize> {
    text.parse().ok().filter(|n| (1..=MountConfig::MAX_THREADS).contains(n)).ok_or_else(|| {
        let text = printable(text.as_bytes());
        Error::Invalid(format!("{option}={text}: it is a number from 1 to {}", MountConfig::MAX_THREADS))
    })
}

pub fn backing(option: &str, text: &str) -> Result<Backing> {
    Backing::parse(text.as_bytes()).ok_or_else(|| {
        let text = printable(text.as_bytes());
        Error::Invalid(format!("{option}={text}: it is overlay, memory or auto"))
    })
}

pub fn facts(option: &str, text: &str) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    // A comma is awkward behind -o.
    for word in text.split([',', ':']) {
        facts.push(Fact::parse(word).ok_or_else(|| {
            let word = printable(word.as_bytes());
            Error::Invalid(format!("{option}={word}: the facts are {}", Fact::names()))
        })?);
    }
    facts.sort_unstable();
    facts.dedup();
    Ok(facts)
}

pub fn words(facts: &[Fact]) -> String {
    facts.iter().map(|fact| fact.as_str()).collect::<Vec<_>>().join(",")
}

/// How many of something to keep ready.
pub fn few(option: &str, text: &str) -> Result<usize> {
    text.parse().ok().filter(|n| *n <= MountConfig::MAX_POOL).ok_or_else(|| {
        let text = printable(text.as_bytes());
        Error::Invalid(format!("{option}={text}: it is a number from 0 to {}", MountConfig::MAX_POOL))
    })
}

/// How many of something there may be.
pub fn number(option: &str, text: &str) -> Result<u64> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
        let text = printable(text.as_bytes());
        Error::Invalid(format!("{option}={text}: it is a number from 1"))
    })
}

pub fn size(option: &str, text: &str) -> Result<u64> {
    text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| {
        let text = printable(text.as_bytes());
        Error::Invalid(format!("{option}={text}: it is a number of bytes, or as 64GiB"))
    })
}

/// In thousandths.
pub fn ratio(option: &str, text: &str) -> Result<u64> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (1.0..=1000.0).contains(ratio));
    ratio.map(|ratio| (ratio * MountConfig::THOUSANDTHS as f64).round() as u64).ok_or_else(|| {
        let text = printable(text.as_bytes());
        Error::Invalid(format!("{option}={text}: it is a number from 1 to 1000, such as 1.5"))
    })
}

/// In KiB, as the kernel's own setting.
pub fn read_ahead(option: &str, text: &str) -> Result<u64> {
    let kib = text.parse().ok().filter(|kib| (0..=MountConfig::MAX_READ_AHEAD_KIB).contains(kib));
    kib.map(|kib: u64| kib * 1024).ok_or_else(|| {
        let text = printable(text.as_bytes());
        Error::Invalid(format!(
            "{option}={text}: it is a number of KiB from 0 to {}",
            MountConfig::MAX_READ_AHEAD_KIB
        ))
    })
}

pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

/// A daemon that cannot tell why it refused something helps nobody: `off` is no level here.
pub fn log_level(option: &str, text: &str) -> Result<LevelFilter> {
    match text {
        "error" => Ok(LevelFilter::Error),
        "warn" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        "trace" => Ok(LevelFilter::Trace),
        _ => {
            let text = printable(text.as_bytes());
            Err(Error::Invalid(format!("{option}={text}: it is error, warn, info, debug or trace")))
        }
    }
}

/// Names the option by itself.
pub fn address(_option: &str, text: &str) -> Result<Address> {
    Address::parse(text)
}

pub fn absolute(what: &str, path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::Invalid(format!("{what} is empty: give a path")));
    }
    std::path::absolute(path).map_err(|source| Error::io(format!("{what} {path:?}"), source))
}
