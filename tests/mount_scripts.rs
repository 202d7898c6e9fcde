//! What is shipped for hosts: the mount helper and the systemd unit.

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::clean_root::CleanRoot;
use common::files::open_rw;
use common::limit::{limit, on_expiry, poll};
use common::maps::Mapping;
use common::mounted::{binary, is_mounted, is_root};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/mount-scripts");

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("templatefs-test-").tempdir().unwrap();
        fs::create_dir(directory.path().join("store")).unwrap();
        fs::create_dir(directory.path().join("mnt")).unwrap();
        fs::write(directory.path().join("store/template"), b"template").unwrap();
        Self { directory }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn umount(&self) {
        if is_mounted(&self.at("mnt")) {
            let status = Command::new(binary()).arg("umount").arg(self.at("mnt")).status().unwrap();
            assert!(status.success());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.umount();
    }
}

#[test]
fn the_mount_helper_mounts_as_mount_8_calls_it() {
    let _limit = limit(Duration::from_secs(60));
    let place = Place::new();
    let mnt = place.at("mnt");
    let _detached = on_expiry({
        let mnt = mnt.clone();
        move || drop(Command::new("umount").arg("-l").arg(&mnt).status())
    });
    let helper = |options: &str| {
        Command::new(Path::new(SCRIPTS).join("mount.templatefs"))
            .args([place.at("store"), mnt.clone()])
            .args(["-v", "-o", options, "-t", "templatefs"])
            .env("TEMPLATEFS", binary())
            .output()
            .unwrap()
    };
    let refused = helper("nonsense");
    assert!(!refused.status.success());
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("nonsense") && message.lines().count() == 1, "{message}");
    assert!(!is_mounted(&mnt));

    let mounted = helper(&format!("noatime,_netdev,state_dir={}", place.at("state").display()));
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    assert_eq!(fs::read(mnt.join("template?rom=off")).unwrap(), b"template");
    place.umount();
    assert!(!is_mounted(&mnt));
}

#[test]
fn the_systemd_units_are_some_that_systemd_accepts() {
    let _limit = limit(Duration::from_secs(60));
    if Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: systemd-analyze is not installed");
        return;
    }
    let place = Place::new();
    // Where the unit says the program is, this one is.
    let text = fs::read_to_string(Path::new(SCRIPTS).join("templatefs@.service")).unwrap();
    assert!(text.contains("/usr/bin/templatefs"));
    let unit = place.at("templatefs@mnt-t.service");
    fs::write(&unit, text.replace("/usr/bin/templatefs", &binary().display().to_string())).unwrap();
    let mount = Path::new(SCRIPTS).join("mnt-t.mount");
    let output =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args([unit, mount]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let about = |line: &&str| line.contains("templatefs") || line.contains("mnt-t");
    assert!(output.status.success() && !said.lines().any(|line| about(&line)), "{said}");
}

/// Type=notify: systemd is told when the mount answers, not before. What it logs goes to stderr, the journal's.
#[test]
fn a_daemon_in_the_foreground_tells_systemd_when_it_is_ready() {
    let _limit = limit(Duration::from_secs(60));
    let place = Place::new();
    let socket = UnixDatagram::bind(place.at("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut daemon = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(binary())
        .args(["mount", "--foreground", "--state-dir"])
        .args([place.at("state"), place.at("store"), place.at("mnt")])
        .env("NOTIFY_SOCKET", place.at("notify"))
        .stderr(fs::File::create(place.at("stderr")).unwrap())
        .spawn()
        .unwrap();
    // What is kept of the mount is told before (fd_store.rs).
    let mut message = [0; 256];
    let ready = || socket.recv(&mut message).map(|length| message[..length].trim_ascii() == b"READY=1");
    assert!(std::iter::repeat_with(ready).any(Result::unwrap));
    assert!(is_mounted(&place.at("mnt")));
    place.umount();
    let status = poll(Duration::from_secs(30), || daemon.try_wait().unwrap()).expect("the daemon ends");
    assert!(status.success());
    let log = fs::read_to_string(place.at("stderr")).unwrap();
    assert!(log.contains("is mounted on") && log.contains("is unmounted"), "{log}");
    assert!(!place.at("state/daemon.log").exists(), "and nowhere else");
}

/// A mount was refused on the trigger that autofs puts there: "something is mounted there already".
#[test]
fn autofs_mounts_the_store_when_somebody_looks_and_unmounts_it_when_nobody_does() {
    let _limit = limit(Duration::from_secs(120));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let autofs = cache.join("templatefs-tests/autofs");
    if !is_root() || !autofs.join("usr/sbin/automount").exists() {
        println!("skipped: it needs root and autofs (tests/run unpacks it)");
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &str| fs::copy(from, shared.path().join(to)).unwrap();
    copy(binary(), "templatefs");
    copy(&Path::new(SCRIPTS).join("mount.templatefs"), "mount.templatefs");
    copy(&Path::new(SCRIPTS).join("auto.templatefs"), "auto.templatefs");
    let status =
        Command::new("cp").arg("-a").arg(&autofs).arg(shared.path().join("autofs")).status().unwrap();
    assert!(status.success());
    let root = match CleanRoot::new(shared.path()) {
        Ok(root) => root,
        Err(why) => return println!("skipped: no root to install into: {why}"),
    };
    root.ok("cp -a /media/autofs/usr/. /usr/; cp /media/templatefs /usr/bin/; cp /media/mount.templatefs /usr/sbin/");
    root.ok(
        "cp /media/auto.templatefs /etc/; echo '/- /etc/auto.templatefs --timeout=300' >/etc/auto.master",
    );
    root.ok("mkdir /srv/templates; echo template >/srv/templates/t");
    let missing =
        root.sh("ldd /usr/sbin/automount /usr/lib/*/autofs/*.so | grep 'not found' | grep -v libautofs");
    if missing.status.success() {
        return println!("skipped: autofs needs {}", String::from_utf8_lossy(&missing.stdout));
    }
    // A process group of its own: the kernel lets that one look behind its trigger.
    root.ok("setsid automount --foreground --verbose >/media/log 2>&1 &");
    let ready = poll(Duration::from_secs(30), || {
        root.sh("grep -q ' /mnt/t autofs ' /proc/mounts").status.success().then_some(())
    });
    let log = || fs::read_to_string(shared.path().join("log")).unwrap();
    if ready.is_none() && log().contains("test mount forbidden") {
        return println!("skipped: this kernel mounts no autofs: {}", log());
    }
    assert!(ready.is_some(), "{}", log());
    assert_eq!(root.sh("cat '/mnt/t/t?rom=off'").stdout, b"template\n", "{}", log());
    root.ok("grep -q ' /mnt/t fuse.templatefs ' /proc/mounts");
    let unmounted = poll(Duration::from_secs(60), || {
        root.ok("pkill -USR1 -x automount");
        let mounted = root.sh("grep -q ' /mnt/t fuse.templatefs ' /proc/mounts");
        (!mounted.status.success()).then_some(())
    });
    assert!(unmounted.is_some(), "{}", log());
}

/// What the unit leaves of root's capabilities.
fn units_capabilities() -> Vec<String> {
    let text = fs::read_to_string(Path::new(SCRIPTS).join("templatefs@.service")).unwrap();
    let set = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a set");
    set.split_whitespace().map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase()).collect()
}

#[test]
fn a_mount_needs_no_more_than_the_units_capabilities() {
    let _limit = limit(Duration::from_secs(60));
    if !is_root() {
        println!("skipped: an ordinary user has no capability anyway");
        return;
    }
    let place = Place::new();
    let mnt = place.at("mnt");
    let _detached = on_expiry({
        let mnt = mnt.clone();
        move || drop(Command::new("umount").arg("-l").arg(&mnt).status())
    });
    let all = Command::new("setpriv").arg("--list-caps").output().expect("setpriv (util-linux)");
    let kept = units_capabilities();
    let all = String::from_utf8(all.stdout).unwrap();
    let dropped = all.lines().filter(|name| !kept.iter().any(|kept| kept == name));
    let dropped: Vec<String> = dropped.map(|name| format!("-{name}")).collect();
    assert!(dropped.len() > 20, "{dropped:?}");
    let confined = |arguments: &[&std::ffi::OsStr]| {
        let mut command = Command::new("setpriv");
        command.arg("--no-new-privs").arg(format!("--bounding-set={}", dropped.join(",")));
        let output = command.arg(binary()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (state, store) = (place.at("state"), place.at("store"));
    confined(&["mount".as_ref(), "--state-dir".as_ref(), state.as_ref(), store.as_ref(), mnt.as_ref()]);
    let view = mnt.join("template?rom=off&view=v");
    fs::write(&view, b"written").unwrap();
    let held = open_rw(&view).unwrap();
    let mapped = Mapping::shared(&held).unwrap();
    // This process has more rights than any of the mount's.
    let views: serde_json::Value =
        serde_json::from_slice(&fs::read(mnt.join(".templatefs/views.json")).unwrap()).unwrap();
    let process = &views["views"][0]["processes"][0];
    assert_eq!(process["pid"], std::process::id(), "{views}");
    assert_eq!(process["mapped_bytes"], 4096, "{views}");
    drop((mapped, held));
    confined(&["umount".as_ref(), mnt.as_ref()]);
    assert!(!is_mounted(&mnt));
}
