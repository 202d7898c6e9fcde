//! Who may do what on a mount that several users reach. Users are made up: numbers are enough. Needs root.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::io::Errno;

use common::files::{SOON, assert_refused, bytes_at, open_ro, open_rw, view_files};
use common::limit::{limit, poll};
use common::mounted::{Mounted, Options, binary, is_root, run_as};

/// User, group and supplementary groups.
#[derive(Debug, Clone, Copy)]
struct User(u32, u32, &'static [u32]);

const ANN: User = User(4001, 4001, &[]);
const BOB: User = User(4002, 4002, &[]);
const READERS: u32 = 5000;

impl User {
    /// Runs a line of shell in which `$1` is the path, and `$2` the program under test.
    fn sh(self, script: &str, path: &Path) -> Output {
        let mut command = run_as(self.0, self.1, self.2);
        command.args(["sh", "-c", script, "sh"]).arg(path).arg(binary()).env("LC_ALL", "C").current_dir("/");
        command.output().unwrap()
    }

    #[track_caller]
    fn may(self, script: &str, path: &Path) -> String {
        let output = self.sh(script, path);
        assert!(output.status.success(), "{self:?}: {script} {path:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn may_not(self, script: &str, path: &Path) {
        let output = self.sh(script, path);
        let message = String::from_utf8_lossy(&output.stderr);
        let refused = [
            "Permission denied",
            "Operation not permitted",
            "cannot open",
            "Permission denied (os error 13)",
        ]
        .iter()
        .any(|text| message.contains(text));
        assert!(!output.status.success() && refused, "{self:?}: {script} {path:?}: {output:?}");
    }
}

const READ: &str = r#"cat "$1" >/dev/null"#;
const STAT: &str = r#"stat "$1""#;
/// O_RDWR, then two bytes are written.
const WRITE: &str = r#"printf hi 1<>"$1""#;
const TRUNCATE: &str = r#"truncate -s 1 "$1""#;

fn shared_mount(arguments: &[&'static str]) -> Option<Mounted> {
    if !is_root() {
        println!("skipped: needs root, who can be several users");
        return None;
    }
    let mut all = vec!["--allow-other"];
    all.extend(arguments);
    Some(Mounted::start(Options { arguments: all, ..Options::default() }))
}

/// A template with this owner, group and mode.
fn template(mounted: &Mounted, name: &str, owner: u32, group: u32, mode: u32) {
    let path = mounted.template(name, b"template");
    chown(&path, Some(owner), Some(group)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

const PRIVATE: [&str; 4] = ["?rom=off", "?rom=off&view=v", "?rom=off&vm=m", "?readonly=off"];

#[track_caller]
fn may_read(mounted: &Mounted, user: User, name: &str) {
    user.may(READ, &mounted.path(name));
    for query in ["?vm=x", "?rom=off", "?share=on"] {
        user.may(READ, &mounted.path(&format!("{name}{query}")));
    }
    let private = mounted.path(&format!("{name}?rom=off"));
    assert!(
        user.may(r#"stat -c '%u %g %a' "$1""#, &private).starts_with(&format!("{} {} 600", user.0, user.1))
    );
    user.may(WRITE, &private);
    user.may(TRUNCATE, &private);
}

#[track_caller]
fn may_not_read(mounted: &Mounted, user: User, name: &str) {
    for query in ["", "?vm=x", "?share=on"] {
        user.may_not(READ, &mounted.path(&format!("{name}{query}")));
    }
    for query in PRIVATE {
        let path = mounted.path(&format!("{name}{query}"));
        for script in [READ, STAT, WRITE, TRUNCATE, r#"exec 3<"$1""#] {
            user.may_not(script, &path);
        }
    }
    assert!(view_files(mounted).is_empty(), "{name}");
}

#[test]
fn who_may_not_read_a_template_may_not_through_any_view() {
    let _limit = limit(Duration::from_secs(60));
    let Some(mounted) = shared_mount(&["--allow-template-writes"]) else { return };
    template(&mounted, "secret", 0, 0, 0o600);
    template(&mounted, "anns", ANN.0, 0, 0o400);
    template(&mounted, "not-anns", ANN.0, 0, 0o044);
    template(&mounted, "all", 0, 0, 0o444);
    may_not_read(&mounted, ANN, "secret");
    may_not_read(&mounted, BOB, "secret");
    may_not_read(&mounted, BOB, "anns");
    may_not_read(&mounted, ANN, "not-anns");
    for script in [READ, WRITE, TRUNCATE] {
        ANN.may_not(script, &mounted.path("secret?share=on&readonly=off"));
    }
    may_read(&mounted, ANN, "anns");
    may_read(&mounted, BOB, "not-anns");
    may_read(&mounted, ANN, "all");
    mounted.wait_for_log("user 4001 may not read it in the store");
}

#[test]
fn supplementary_groups_count() {
    let _limit = limit(Duration::from_secs(60));
    let Some(mounted) = shared_mount(&[]) else { return };
    template(&mounted, "readers", 0, READERS, 0o640);
    template(&mounted, "not-readers", 0, READERS, 0o604);
    may_not_read(&mounted, ANN, "readers");
    may_not_read(&mounted, User(4001, 4001, &[4999, 5001]), "readers");
    may_read(&mounted, User(4001, 4001, &[4999, READERS]), "readers");
    may_read(&mounted, User(4001, READERS, &[]), "readers");
    may_read(&mounted, ANN, "not-readers");
    may_not_read(&mounted, User(4001, 4001, &[READERS]), "not-readers");
}

#[test]
fn the_stores_access_lists_count() {
    let _limit = limit(Duration::from_secs(60));
    let Some(mounted) = shared_mount(&[]) else { return };
    if Command::new("setfacl").arg("--version").output().is_err() {
        println!("skipped: needs setfacl (package acl)");
        return;
    }
    let access = |name: &str, entries: &str| {
        template(&mounted, name, 0, 0, 0o600);
        let status = Command::new("setfacl").args(["-m", entries]).arg(mounted.store.join(name)).status();
        assert!(status.unwrap().success(), "{name}: a store on a filesystem without ACLs?");
    };
    access("for-ann", "u:4001:r");
    access("for-readers", "g:5000:r");
    access("masked", "u:4001:r,m::---");
    access("not-for-ann", "u:4001:---,o::r");
    may_read(&mounted, ANN, "for-ann");
    may_not_read(&mounted, BOB, "for-ann");
    may_read(&mounted, User(4002, 4002, &[READERS]), "for-readers");
    may_not_read(&mounted, ANN, "for-readers");
    may_not_read(&mounted, ANN, "masked");
    may_not_read(&mounted, ANN, "not-for-ann");
    may_read(&mounted, BOB, "not-for-ann");

    access("dir/t", "u:4001:r");
    let status =
        Command::new("setfacl").args(["-m", "u:4001:x,g::---"]).arg(mounted.store.join("dir")).status();
    assert!(status.unwrap().success());
    fs::set_permissions(mounted.store.join("dir"), Permissions::from_mode(0o710)).unwrap();
    may_read(&mounted, ANN, "dir/t");
    BOB.may_not(READ, &mounted.path("dir/t"));
    BOB.may_not(STAT, &mounted.path("dir/t"));
    ANN.may_not(r#"ls "$1""#, &mounted.path("dir"));
}

#[test]
fn access_lists_decide_who_writes_a_template() {
    let _limit = limit(Duration::from_secs(60));
    let Some(mounted) = shared_mount(&["--allow-template-writes"]) else { return };
    if Command::new("setfacl").arg("--version").output().is_err() {
        println!("skipped: needs setfacl (package acl)");
        return;
    }
    // The list's mask, rw, is what the mode shows of the group, whose own entry is r.
    template(&mounted, "t", 0, READERS, 0o644);
    let status = Command::new("setfacl").args(["-m", "u:4001:rw"]).arg(mounted.store.join("t")).status();
    assert!(status.unwrap().success());
    let path = mounted.path("t?share=on&readonly=off");
    for user in [BOB, User(4002, READERS, &[]), User(4002, 4002, &[READERS])] {
        user.may_not(WRITE, &path);
        user.may_not(TRUNCATE, &path);
        user.may_not(WRITE, &mounted.path("t?readonly=off"));
    }
    ANN.may(WRITE, &path);
    assert_eq!(fs::read(mounted.store.join("t")).unwrap(), b"himplate");
}

#[test]
fn a_directory_that_one_may_not_search_hides_its_templates() {
    let _limit = limit(Duration::from_secs(60));
    let Some(mounted) = shared_mount(&[]) else { return };
    for (name, mode) in [("closed", 0o700), ("known", 0o711), ("readers", 0o750)] {
        template(&mounted, &format!("{name}/t"), 0, 0, 0o444);
        chown(mounted.store.join(name), None, Some(READERS)).unwrap();
        fs::set_permissions(mounted.store.join(name), Permissions::from_mode(mode)).unwrap();
    }
    for query in ["", "?rom=off", "?rom=off&view=v"] {
        ANN.may_not(READ, &mounted.path(&format!("closed/t{query}")));
        ANN.may_not(READ, &mounted.path(&format!("readers/t{query}")));
        ANN.may(READ, &mounted.path(&format!("known/t{query}")));
        User(4002, 4002, &[READERS])
            .may(READ, &mounted.path(&format!("readers/t{}", query.replace("=v", "=w"))));
    }
    ANN.may_not(r#"ls "$1""#, &mounted.path("known"));
    ANN.may(r#"ls "$1""#, &mounted.path(""));
}

#[test]
fn another_users_named_view_can_be_looked_at_and_nothing_else() {
    let _limit = limit(Duration::from_secs(60));
    let Some(mounted) = shared_mount(&[]) else { return };
    template(&mounted, "t", 0, 0, 0o444);
    let view = mounted.path("t?rom=off&view=anns");
    ANN.may(WRITE, &view);
    let seen = fs::metadata(&view).unwrap();
    assert_eq!((seen.uid(), seen.gid(), seen.mode() & 0o7777, seen.blocks()), (ANN.0, ANN.1, 0o600, 8));
    // Modes decide nothing here: the view stays its owner's.
    for mode in ["0600", "0666"] {
        ANN.may(&format!(r#"chmod {mode} "$1""#), &view);
        assert!(BOB.may(r#"stat -c %u "$1""#, &view).starts_with("4001"), "{mode}");
        for script in [
            READ,
            WRITE,
            TRUNCATE,
            r#"chmod 0600 "$1""#,
            r#"chown 4002 "$1""#,
            r#"rm -f "$1""#,
            r#"mv "$1" "$1.x""#,
            r#""$2" discard "$1""#,
        ] {
            BOB.may_not(script, &view);
        }
    }
    let discard_by_name = BOB.sh(r#""$2" discard "$1" anns"#, &mounted.mountpoint);
    let message = String::from_utf8_lossy(&discard_by_name.stderr);
    assert!(!discard_by_name.status.success() && message.contains("no view named anns"), "{message}");
    assert!(
        !BOB.may(r#""$2" views "$1""#, &mounted.mountpoint).contains("anns"),
        "he is not even told of it"
    );
    assert!(ANN.may(r#""$2" views "$1""#, &mounted.mountpoint).contains("anns"));
    assert_eq!(fs::read(&view).unwrap(), b"himplate", "root may, and nothing has changed");
    mounted.wait_for_log("belongs to user 4001");

    ANN.may(r#""$2" discard "$1""#, &view);
    BOB.may(WRITE, &view);
    assert_eq!(fs::metadata(&view).unwrap().uid(), BOB.0, "the name is free again");
    BOB.may(r#""$2" discard "$1" anns"#, &mounted.mountpoint);
    assert!(view_files(&mounted).is_empty());
}

#[test]
fn without_allow_other_the_mount_is_its_users_alone() {
    let _limit = limit(Duration::from_secs(60));
    if !is_root() {
        println!("skipped: needs root, who can be several users");
        return;
    }
    let mounted = Mounted::start(Options::default());
    template(&mounted, "t", 0, 0, 0o444);
    for (script, name) in
        [(READ, "t"), (STAT, "t"), (WRITE, "t?rom=off"), (STAT, "t?rom=off"), (r#"ls "$1""#, "")]
    {
        ANN.may_not(script, &mounted.path(name));
    }
    // Not even root reaches a mount of an ordinary user.
    let users = Mounted::start(Options::as_user("nobody"));
    assert_refused(fs::metadata(users.path("t")), Errno::ACCESS, "root on a user's mount");
}

#[test]
fn a_template_is_written_by_those_who_may_write_its_file() {
    let _limit = limit(Duration::from_secs(60));
    let Some(mounted) = shared_mount(&["--allow-template-writes"]) else { return };
    template(&mounted, "anns", ANN.0, READERS, 0o664);
    template(&mounted, "roots", 0, 0, 0o644);
    let (anns, roots) =
        (mounted.path("anns?share=on&readonly=off"), mounted.path("roots?share=on&readonly=off"));
    for (user, path) in [(BOB, &anns), (ANN, &roots), (BOB, &roots)] {
        user.may_not(WRITE, path);
        user.may_not(TRUNCATE, path);
        user.may_not(r#"rm -f "$1""#, path);
        user.may_not(READ, &mounted.path("anns?readonly=off").with_file_name("roots?readonly=off"));
    }
    ANN.may(WRITE, &anns);
    User(4002, 4002, &[READERS]).may(r#"printf HI 1<>"$1""#, &anns);
    assert_eq!(fs::read(mounted.store.join("anns")).unwrap(), b"HImplate");
    assert_eq!(fs::read(mounted.store.join("roots")).unwrap(), b"template");
}

/// Opens once whatever used the template before has been closed entirely.
fn open_soon(path: &Path) -> fs::File {
    let opened = poll(SOON, || match open_rw(path) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::TXTBSY) => None,
        result => Some(result.unwrap()),
    });
    opened.expect("the template is free")
}

#[test]
fn a_template_is_either_written_or_used() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::with(&["--allow-template-writes"]));
    let file = mounted.template("t", b"template");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let itself = mounted.path("t?share=on&readonly=off");
    for name in ["t", "t?rom=off", "t?rom=off&view=v"] {
        let used = open_ro(mounted.path(name)).unwrap();
        assert_refused(open_rw(&itself), Errno::TXTBSY, name);
        assert_refused(common::files::truncate(&itself, 0), Errno::TXTBSY, name);
        assert_eq!(bytes_at(&used, 0, 8).unwrap(), b"template");
    }
    assert_refused(open_rw(&itself), Errno::TXTBSY, "a named view needs it, also when closed");
    mounted.wait_for_log("view v was made from this template");
    fs::remove_file(mounted.path("t?rom=off&view=v")).unwrap();

    let author = open_soon(&itself);
    author.write_all_at(b"TEMPLATE", 0).unwrap();
    for name in ["t", "t?rom=off", "t?rom=off&view=w", "t?readonly=off"] {
        assert_refused(open_ro(mounted.path(name)), Errno::TXTBSY, name);
        assert_refused(open_rw(mounted.path(name)), Errno::TXTBSY, name);
    }
    mounted.wait_for_log("being written through the mount");
    open_rw(&itself).unwrap().write_all_at(b"Two", 0).unwrap();
    drop(author);
    assert_eq!(bytes_at(&open_soon(&mounted.path("t?rom=off")), 0, 8).unwrap(), b"TwoPLATE");
    assert_eq!(fs::read(file).unwrap(), b"TwoPLATE");
}
