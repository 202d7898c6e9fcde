//! What a service manager hands to a process that it starts: descriptors that an earlier process of the same unit
//! has left with it (fdstore.rs), by sd_listen_fds(3).

use std::os::fd::OwnedFd;

use super::fdstore::key_of;
use crate::error::{Error, Result};
use crate::keeper::Kept;
use crate::sys;

pub const ENVIRONMENT: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The first descriptor that is handed over.
const FIRST: i32 = 3;
/// As sd_listen_fds_with_names(3) calls what has no name.
const NAMELESS: &str = "unknown";

/// All that is handed to this process. To be called once, before it opens or starts anything.
pub fn received() -> Result<Kept> {
    let [pid, count, names] = ENVIRONMENT.map(|variable| std::env::var(variable).ok());
    let names = parse(std::process::id(), pid.as_deref(), count.as_deref(), names.as_deref())?;
    let mut kept = Kept::new();
    for (number, name) in (FIRST..).zip(names) {
        let descriptor: Option<OwnedFd> = sys::inherited(number);
        let missing = || Error::Invalid(format!("LISTEN_FDS: descriptor {number} ({name}) is not open"));
        kept.insert(key_of(&name), descriptor.ok_or_else(missing)?);
    }
    Ok(kept)
}

/// The names of what is handed over, in the order of the descriptors. None are, or those for another process, are no
/// error.
fn parse(own_pid: u32, pid: Option<&str>, count: Option<&str>, names: Option<&str>) -> Result<Vec<String>> {
    if pid.is_none_or(|pid| pid != own_pid.to_string()) {
        return Ok(Vec::new());
    }
    let unfit = |why: &str| Error::Invalid(format!("LISTEN_FDS: {why}; only a service manager is to set it"));
    let count: u16 = count.unwrap_or("0").parse().map_err(|_| unfit("it is no number that can be"))?;
    let count = usize::from(count);
    let names: Vec<String> = match names.filter(|names| !names.is_empty()) {
        Some(names) => names.split(':').map(Into::into).collect(),
        None => vec![NAMELESS.into(); count],
    };
    match names.len() == count {
        true => Ok(names),
        false => Err(unfit("there are not as many names in LISTEN_FDNAMES")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_for_the_process_that_they_name_and_may_be_none() {
        let parse = |pid, count, names| parse(7, pid, count, names);
        let some = parse(Some("7"), Some("2"), Some("device:memory/3")).unwrap();
        assert_eq!(some, ["device", "memory/3"]);
        for (pid, count, names) in [
            (None, None, None),
            (Some("8"), Some("2"), Some("device:lock")),
            (Some("7"), None, None),
            (Some("7"), Some("0"), None),
            (Some("7"), Some("0"), Some("")),
        ] {
            assert!(parse(pid, count, names).unwrap().is_empty(), "{pid:?} {count:?} {names:?}");
        }
        assert_eq!(parse(Some("7"), Some("1"), Some("")).unwrap(), [NAMELESS]);
        for (count, names) in
            [("many", ""), ("-1", ""), ("1000000", ""), ("1", "a:b"), ("2", "a"), ("0", "a")]
        {
            assert!(parse(Some("7"), Some(count), Some(names)).is_err(), "{count} {names}");
        }
    }
}
