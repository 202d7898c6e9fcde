//! QEMU's own answer to each combination of share, readonly and rom on a plain file.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::limit::limit;
use common::qemu::{ordinary_user, probe_backend};

/// share, readonly, rom; what QEMU says, where the file is writable and where it is not: "" is consent.
const RULES: [(&str, &str, &str, &str, &str); 12] = [
    ("off", "off", "auto", "", EACCES),
    ("off", "off", "off", "", EACCES),
    ("off", "off", "on", E2, E2),
    ("off", "on", "auto", "", ""),
    ("off", "on", "off", "", ""),
    ("off", "on", "on", "", ""),
    ("on", "off", "auto", "", EACCES),
    ("on", "off", "off", "", EACCES),
    ("on", "off", "on", E2, E2),
    ("on", "on", "auto", "", ""),
    ("on", "on", "off", E1, E1),
    ("on", "on", "on", "", ""),
];
const EACCES: &str = "Permission denied";
const E1: &str = "property 'rom' = 'off' is incompatible with 'readonly' = 'on' and 'share' = 'on'";
const E2: &str = "property 'rom' = 'on' is not supported with 'readonly' = 'off'";

#[test]
fn qemu_follows_the_table() {
    let _limit = limit(Duration::from_secs(120));
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let file = directory.path().join("file");
    fs::write(&file, vec![1; 1 << 20]).unwrap();
    for (mode, writable) in [(0o666, true), (0o444, false)] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        for (share, readonly, rom, yes, no) in RULES {
            let options = format!("share={share},readonly={readonly},rom={rom}");
            let answer = probe_backend(&file, &options, ordinary_user());
            let message = answer.err().unwrap_or_default();
            let wanted = if writable { yes } else { no };
            println!("{mode:o} {options}: {message:?}");
            assert_eq!(message.is_empty(), wanted.is_empty(), "{mode:o} {options}");
            assert!(message.contains(wanted), "{mode:o} {options}: {message}");
        }
    }
}
