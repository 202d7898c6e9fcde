//! QEMU's table, all twelve combinations of share, readonly and rom: what a real mount does, and that it
//! accepts and refuses what a real QEMU does on the same file.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use common::files::{
    assert_refused, bytes_at, errno, open_create, open_ro, open_ro_truncating, open_rw, truncate,
};
use common::limit::limit;
use common::mounted::{Mounted, Options, again_as_ordinary_user, is_root};
use common::qemu::probe_backend;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rom,
    Private,
    PrivateIfWritable,
    Template,
    Refused(&'static str),
}
use Kind::{Private, PrivateIfWritable, Refused, Rom, Template};

const E1: &str = "property 'rom' = 'off' is incompatible with 'readonly' = 'on' and 'share' = 'on'";
const E2: &str = "property 'rom' = 'on' is not supported with 'readonly' = 'off'";

/// share, readonly, rom.
const RULES: [(&str, &str, &str, Kind); 12] = [
    ("off", "off", "auto", PrivateIfWritable),
    ("off", "off", "off", PrivateIfWritable),
    ("off", "off", "on", Refused(E2)),
    ("off", "on", "auto", Rom),
    ("off", "on", "off", Private),
    ("off", "on", "on", Rom),
    ("on", "off", "auto", Template),
    ("on", "off", "off", Template),
    ("on", "off", "on", Refused(E2)),
    ("on", "on", "auto", Rom),
    ("on", "on", "off", Refused(E1)),
    ("on", "on", "on", Rom),
];

const CONTENT: &[u8] = b"what the template holds";

/// For each combination, on a template that its owner may write and on one that nobody may: a template of its
/// own, so that no view of one row is still being closed in the next.
fn for_each_row(mounted: &Mounted, content: &[u8], mut check: impl FnMut(Kind, bool, &Path, &Path)) {
    for (mode, writable) in [(0o644, true), (0o444, false)] {
        for (row, (share, readonly, rom, kind)) in RULES.into_iter().enumerate() {
            let name = format!("{mode:o}-{row}");
            let template = mounted.template(&name, content);
            fs::set_permissions(&template, Permissions::from_mode(mode)).unwrap();
            let query = format!("share={share}&readonly={readonly}&rom={rom}");
            let path = mounted.path(&format!("{name}?{query}"));
            // Root may write any file, as in QEMU.
            check(kind, writable || is_root(), &path, &template);
        }
    }
}

fn is_rom(path: &Path, template: &Path) {
    let rom = open_ro(path).unwrap();
    assert_eq!(bytes_at(&rom, 0, CONTENT.len()).unwrap(), CONTENT, "{path:?}");
    assert_refused(open_rw(path), Errno::ACCESS, path);
    assert_refused(fs::OpenOptions::new().write(true).open(path), Errno::ACCESS, path);
    assert_refused(fs::OpenOptions::new().append(true).open(path), Errno::ACCESS, path);
    assert_refused(open_create(path), Errno::ACCESS, path);
    assert_refused(fs::File::create(path), Errno::ACCESS, path);
    assert_refused(open_ro_truncating(path), Errno::ACCESS, path);
    for size in [0, 1, CONTENT.len() as i64, 1 << 30] {
        assert_refused(truncate(path, size), Errno::ACCESS, (path, size));
    }
    // A descriptor that is open for reading is refused by the kernel itself, of any file.
    assert_refused(rom.set_len(0), Errno::INVAL, path);
    assert_eq!(fs::read(template).unwrap(), CONTENT);
}

fn is_private(path: &Path, template: &Path) {
    let view = open_rw(path).unwrap();
    assert_eq!(bytes_at(&view, 0, CONTENT.len()).unwrap(), CONTENT, "{path:?}");
    view.write_all_at(b"WHAT", 0).unwrap();
    view.set_len(7).unwrap();
    assert_eq!(bytes_at(&view, 0, 7).unwrap(), b"WHAT th", "{path:?}");
    assert_eq!(fs::read(path).unwrap(), CONTENT, "another view of {path:?}");
    assert_eq!(fs::read(template).unwrap(), CONTENT);
}

#[test]
fn each_row_is_what_the_table_says() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::default());
    for_each_row(&mounted, CONTENT, |kind, writable, path, template| match kind {
        Rom => is_rom(path, template),
        PrivateIfWritable if !writable => {
            assert_refused(open_rw(path), Errno::ACCESS, path);
            assert_refused(open_ro(path), Errno::ACCESS, path);
            assert_refused(fs::metadata(path), Errno::ACCESS, path);
        }
        Private | PrivateIfWritable => is_private(path, template),
        Template => {
            assert_refused(open_rw(path), Errno::ROFS, path);
            assert_refused(open_ro(path), Errno::ROFS, path);
            assert_refused(open_create(path), Errno::ROFS, path);
            assert_refused(truncate(path, 0), Errno::ROFS, path);
            assert_refused(fs::metadata(path), Errno::ROFS, path);
            assert_eq!(fs::read(template).unwrap(), CONTENT);
        }
        Refused(message) => {
            assert_refused(open_rw(path), Errno::INVAL, path);
            assert_refused(open_ro(path), Errno::INVAL, path);
            assert_refused(open_create(path), Errno::INVAL, path);
            assert_refused(fs::metadata(path), Errno::INVAL, path);
            mounted.wait_for_log(&format!("{}: {message}", path.file_name().unwrap().display()));
        }
    });
    mounted.wait_for_log("--allow-template-writes");
}

#[test]
fn an_ordinary_users_rows_are_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("each_row_is_what_the_table_says");
}

#[test]
fn where_it_is_allowed_the_template_itself_is_written() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::with(&["--allow-template-writes"]));
    for_each_row(&mounted, CONTENT, |kind, writable, path, template| match kind {
        Rom => is_rom(path, template),
        Private => is_private(path, template),
        PrivateIfWritable if writable => is_private(path, template),
        PrivateIfWritable => assert_refused(open_rw(path), Errno::ACCESS, path),
        Template if writable => {
            let file = open_rw(path).unwrap();
            file.write_all_at(b"WHAT", 0).unwrap();
            file.write_all_at(b"more", CONTENT.len() as u64).unwrap();
            assert!(fs::read(template).unwrap().starts_with(b"WHAT the"), "{path:?}");
            assert!(fs::read(template).unwrap().ends_with(b"more"), "{path:?}");
            file.set_len(4).unwrap();
            assert_eq!(fs::read(template).unwrap(), b"WHAT", "{path:?}");
            drop(file);
            truncate(path, 2).unwrap();
            assert_eq!(fs::read(template).unwrap(), b"WH", "{path:?}");
        }
        Template => {
            assert_refused(open_rw(path), Errno::ACCESS, path);
            assert_refused(truncate(path, 0), Errno::ACCESS, path);
            assert_eq!(fs::read(template).unwrap(), CONTENT);
        }
        Refused(_) => assert_refused(open_rw(path), Errno::INVAL, path),
    });
}

#[test]
fn an_ordinary_user_writes_templates_only_where_their_modes_let_him() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("where_it_is_allowed_the_template_itself_is_written");
}

/// QEMU is given the plain file and the mount the same file, opened as QEMU would open it.
#[test]
fn a_mount_accepts_what_qemu_accepts() {
    let _limit = limit(Duration::from_secs(120));
    let mounted = Mounted::start(Options::with(&["--allow-template-writes"]));
    for_each_row(&mounted, &vec![1; 1 << 20], |kind, writable, path, template| {
        // As root both files are writable, and so half of the rows say it all.
        if is_root() && template.file_name().unwrap().as_encoded_bytes().starts_with(b"644") {
            return;
        }
        let query = path.to_str().unwrap().split_once('?').unwrap().1;
        let qemu = probe_backend(template, &query.replace('&', ","), None);
        let opened = if query.contains("readonly=on") { open_ro(path) } else { open_rw(path) };
        assert_eq!(qemu.is_ok(), opened.is_ok(), "{path:?}: {qemu:?}, {opened:?}");
        let message = qemu.err().unwrap_or_default();
        match kind {
            Refused(said) => {
                assert!(message.contains(said), "{path:?}: {message}");
                mounted.wait_for_log(&format!("{}: {said}", path.file_name().unwrap().display()));
            }
            PrivateIfWritable | Template if !writable => {
                assert!(message.contains("Permission denied"), "{path:?}: {message}");
                assert_eq!(errno(opened), Some(Errno::ACCESS), "{path:?}");
            }
            _ => assert!(message.is_empty(), "{path:?}: {message}"),
        }
    });
}

#[test]
fn as_an_ordinary_user_too_a_mount_accepts_what_qemu_accepts() {
    let _limit = limit(Duration::from_secs(120));
    again_as_ordinary_user("a_mount_accepts_what_qemu_accepts");
}
