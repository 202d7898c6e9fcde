//! Which files may be opened, by Landlock (Linux 5.13): files that are open already stay so, and the
//! kernel's own opens of passed-through files are checked too (fs/backing-file.c, with the
//! credentials of whoever registered the file).
//!
//! What the store and the state directory hold is found beneath their inodes, wherever they are moved.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope,
};

use crate::bdi;
use crate::config::MountConfig;
use crate::listen::Address;
use crate::mount::Device;

/// The newest rules that are asked for; an older kernel gets those that it knows.
const NEWEST: ABI = ABI::V6;

/// Names of users and groups in a policy that is read again: the name service's files and libraries.
const NAMES: [&str; 5] = ["/etc", "/usr", "/lib", "/lib64", "/var/lib/sss"];

/// What the kernel tells of processes and of this one, and how many CPUs it may use.
const KERNEL: [&str; 2] = ["/proc", "/sys/fs/cgroup"];

/// Where this process may go from now on.
pub struct Places<'a> {
    store: BorrowedFd<'a>,
    /// Templates may be written.
    authoring: bool,
    readable: Vec<PathBuf>,
    /// Everything may be done beneath it but to make devices.
    state: PathBuf,
    /// How the kernel writes this mount back is set once it answers.
    settings: Option<PathBuf>,
    /// Where a file may be removed: the metrics' socket goes with the mount.
    emptied: Option<PathBuf>,
}

impl<'a> Places<'a> {
    pub fn of(config: &MountConfig, store: BorrowedFd<'a>, shown: Option<Device>) -> Self {
        let parent = |path: &Path| path.parent().map(Path::to_owned);
        let mut readable: Vec<PathBuf> = NAMES.into_iter().chain(KERNEL).map(PathBuf::from).collect();
        // A policy is often replaced by renaming another file over it.
        readable.extend(config.policy.as_deref().and_then(parent));
        let emptied = match &config.metrics_listen {
            Some(Address::Unix(path)) => parent(path),
            _ => None,
        };
        Self {
            store,
            authoring: config.allow_template_writes,
            readable,
            state: config.state_dir.clone().unwrap_or_default(),
            settings: shown.map(bdi::directory),
            emptied,
        }
    }

    fn ruleset(&self) -> Result<RulesetCreated, RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::WriteFile | AccessFs::Truncate;
        let change = AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::MakeSock
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir
            | AccessFs::Refer;
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        let store = if self.authoring { read | write } else { read };
        rules = rules.add_rule(PathBeneath::new(self.store, store))?;
        for path in &self.readable {
            rules = beneath(rules, path, read)?;
        }
        rules = beneath(rules, &self.state, read | write | change)?;
        rules = beneath(rules, Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
        if let Some(settings) = &self.settings {
            rules = beneath(rules, settings, read | write)?;
        }
        #[cfg(debug_assertions)]
        if let Some(directory) = crate::steps::directory() {
            rules = beneath(rules, &directory, read | AccessFs::RemoveFile)?;
        }
        match &self.emptied {
            Some(path) => beneath(rules, path, AccessFs::RemoveFile.into()),
            None => Ok(rules),
        }
    }
}

/// What is not there needs no rule.
fn beneath(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(fd) => rules.add_rule(PathBeneath::new(fd, access)),
        Err(_) => Ok(rules),
    }
}

/// What became of it.
pub struct Restricted(RestrictionStatus);

/// Restricts this thread and those that it starts. The file system's layout and other processes are
/// out of reach from then on too.
pub fn restrict(places: &Places<'_>) -> io::Result<Restricted> {
    places.ruleset().and_then(RulesetCreated::restrict_self).map(Restricted).map_err(io::Error::other)
}

impl Restricted {
    pub fn told(&self, in_force: &mut Vec<String>, lacking: &mut Vec<String>) {
        let version = match self.0.landlock {
            LandlockStatus::Available { effective_abi, .. } => format!(" (ABI {})", effective_abi as i32),
            _ => String::new(),
        };
        match self.0.ruleset {
            RulesetStatus::FullyEnforced => in_force.push(format!("Landlock{version}")),
            RulesetStatus::PartiallyEnforced => {
                in_force.push(format!("Landlock as far as this kernel knows it{version}"));
            }
            RulesetStatus::NotEnforced => lacking.push(match self.0.landlock {
                LandlockStatus::NotEnabled => {
                    "Landlock (built in, but left out of the boot parameter lsm=)".into()
                }
                _ => "Landlock (Linux 5.13)".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use super::*;

    /// On a thread of its own: it cannot be undone. Where the kernel has no Landlock it says so, and
    /// nothing is forbidden.
    #[test]
    fn what_lies_elsewhere_cannot_be_opened_or_the_kernel_lacks_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["store", "state", "else", "policies", "sockets"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), b"").unwrap();
        }
        let store = File::open(at("store")).unwrap();
        let restricted = std::thread::scope(|scope| {
            let confined = || {
                let places = Places {
                    store: store.as_fd(),
                    authoring: false,
                    readable: vec!["/proc".into(), at("policies"), at("not there")],
                    state: at("state"),
                    settings: None,
                    emptied: Some(at("sockets")),
                };
                rustix::thread::set_no_new_privs(true).unwrap();
                let restricted = restrict(&places).unwrap();
                let write = |name: &str| fs::write(at(name).join("new"), b"").is_ok();
                let read = |name: &str| fs::read(at(name).join("file")).is_ok();
                let remove = |name: &str| fs::remove_file(at(name).join("file")).is_ok();
                assert!(read("store") && read("policies") && read("state") && write("state"));
                fs::rename(at("state").join("new"), at("state").join("renamed")).unwrap();
                assert!(remove("state") && remove("sockets") && fs::read("/proc/self/stat").is_ok());
                (restricted, [read("else"), write("store"), write("policies"), remove("store")])
            };
            scope.spawn(confined).join().unwrap()
        });
        let (restricted, possible) = restricted;
        let (mut in_force, mut lacking) = (Vec::new(), Vec::new());
        restricted.told(&mut in_force, &mut lacking);
        let is_there = restricted.0.ruleset != RulesetStatus::NotEnforced;
        assert_eq!(possible, [!is_there; 4], "{in_force:?} {lacking:?}");
        assert_eq!((in_force.len(), lacking.len()), if is_there { (1, 0) } else { (0, 1) });
        if !is_there {
            println!("skipped: nothing is forbidden, since this kernel lacks {}", lacking[0]);
        }
    }
}
