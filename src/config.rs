//! The arguments of `mount`, checked. Nothing past this module sees a raw one.

mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use log::LevelFilter;

use crate::cli::{MountArgs, MountOptions};
use crate::engine::{Limits, Options};
use crate::error::{Error, Result};
use crate::listen::Address;
use crate::manifest::Fact;
use crate::mount_options;
use crate::rules::Backing;
use values::{
    absolute, address, backing, default_threads, facts, few, log_level, number, ratio, read_ahead, size,
    threads, words,
};

/// What a mount is to be. The paths are absolute but need not exist: a daemon leaves the
/// directory that it was started in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountConfig {
    pub store: PathBuf,
    pub mountpoint: PathBuf,
    /// None: the default place for this user.
    pub state_dir: Option<PathBuf>,
    pub allow_other: bool,
    pub allow_template_writes: bool,
    pub foreground: bool,
    pub nonempty: bool,
    /// 1 to 64.
    pub threads: usize,
    pub log_level: LevelFilter,
    pub log_file: Option<PathBuf>,
    pub metrics_listen: Option<Address>,
    pub backing: Backing,
    /// 0 to 64.
    pub pool: usize,
    /// 0 to 64.
    pub warm: usize,
    /// In bytes, for all private views together, times how much more may be promised.
    pub budget: Option<u64>,
    /// In thousandths, at least 1,000.
    pub overcommit: u64,
    /// In bytes, for one private view.
    pub max_private: Option<u64>,
    /// None: the default.
    pub max_views_per_user: Option<u64>,
    pub max_nodes_per_user: Option<u64>,
    /// A policy beside the store's own.
    pub policy: Option<PathBuf>,
    /// What the manifests of templates must vouch for before there are private views of them; sorted.
    pub require: Vec<Fact>,
    /// Bytes; None: the kernel's default.
    pub read_ahead: Option<u64>,
}

impl MountConfig {
    pub const MAX_THREADS: usize = 64;
    pub const MAX_POOL: usize = 64;
    /// A host has some hundred VMs, each of them some views.
    const VIEWS_PER_USER: u64 = 10_000;
    const NODES_PER_USER: u64 = 65_536;
    const THOUSANDTHS: u64 = 1000;
    pub const MAX_READ_AHEAD_KIB: u64 = 65536;

    /// `files` is how many the daemon may have open: a private view has two, and one user's must leave room
    /// for the others'.
    pub fn options(&self, files: u64) -> Options {
        Options {
            allow_template_writes: self.allow_template_writes,
            backing: self.backing,
            pool: self.pool,
            warm: self.warm,
            budget: self.promised(),
            max_private: self.max_private,
            per_user: Limits {
                nodes: self.max_nodes_per_user.unwrap_or(Self::NODES_PER_USER),
                views: self.max_views_per_user.unwrap_or(Self::VIEWS_PER_USER.min(files / 4)),
            },
        }
    }

    /// The budget with what may be promised beyond it.
    fn promised(&self) -> Option<u64> {
        let promised = u128::from(self.budget?) * u128::from(self.overcommit) / u128::from(Self::THOUSANDTHS);
        Some(u64::try_from(promised).unwrap_or(u64::MAX))
    }

    /// Long options and `-o` mean the same and may be mixed; one that is given twice must say the
    /// same both times.
    ///
    /// # Errors
    /// `Error::Invalid`, naming the option.
    pub fn from_args(args: MountArgs) -> Result<Self> {
        let mut given = Given(vec![args.options]);
        for text in &args.fstab_options {
            given.0.extend(mount_options::parse(text)?);
        }
        macro_rules! value {
            ($option:ident, $read:expr) => {
                given.value(stringify!($option), |options| options.$option.as_deref(), $read)?
            };
        }
        Ok(Self {
            store: absolute("STORE", &args.store)?,
            mountpoint: absolute("MOUNTPOINT", &args.mountpoint)?,
            allow_other: given.has(|options| options.allow_other),
            allow_template_writes: given.has(|options| options.allow_template_writes),
            foreground: given.has(|options| options.foreground),
            nonempty: given.has(|options| options.nonempty),
            threads: value!(threads, threads).unwrap_or_else(default_threads),
            log_level: value!(log_level, log_level).unwrap_or(LevelFilter::Info),
            log_file: value!(log_file, absolute),
            state_dir: value!(state_dir, absolute),
            metrics_listen: value!(metrics_listen, address),
            backing: value!(backing, backing).unwrap_or_default(),
            pool: value!(pool, few).unwrap_or(0),
            warm: value!(warm, few).unwrap_or(0),
            read_ahead: value!(read_ahead, read_ahead),
            policy: value!(policy, absolute),
            require: value!(require, facts).unwrap_or_default(),
            budget: value!(budget, size),
            overcommit: value!(overcommit, ratio).unwrap_or(Self::THOUSANDTHS),
            max_private: value!(max_private, size),
            max_views_per_user: value!(max_views_per_user, number),
            max_nodes_per_user: value!(max_nodes_per_user, number),
        })
    }
}

impl MountConfig {
    /// The arguments that [`Self::from_args`] makes the same of.
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args = Vec::<OsString>::new();
        let switches = [
            (self.allow_other, "--allow-other"),
            (self.allow_template_writes, "--allow-template-writes"),
            (self.foreground, "--foreground"),
            (self.nonempty, "--nonempty"),
        ];
        args.extend(switches.iter().filter(|(on, _)| *on).map(|(_, word)| word.into()));
        let level = self.log_level.as_str().to_ascii_lowercase();
        let values = [
            ("--threads", Some(self.threads.to_string().into())),
            ("--log-level", Some(level.into())),
            ("--log-file", self.log_file.clone().map(OsString::from)),
            ("--state-dir", self.state_dir.clone().map(OsString::from)),
            ("--policy", self.policy.clone().map(OsString::from)),
            ("--require", (!self.require.is_empty()).then(|| words(&self.require).into())),
            ("--budget", self.budget.map(|bytes| bytes.to_string().into())),
            ("--overcommit", Some((self.overcommit as f64 / Self::THOUSANDTHS as f64).to_string().into())),
            ("--max-private", self.max_private.map(|bytes| bytes.to_string().into())),
            ("--max-views-per-user", self.max_views_per_user.map(|count| count.to_string().into())),
            ("--max-nodes-per-user", self.max_nodes_per_user.map(|count| count.to_string().into())),
            ("--backing", Some(self.backing.as_str().into())),
            ("--pool", Some(self.pool.to_string().into())),
            ("--warm", Some(self.warm.to_string().into())),
            ("--read-ahead", self.read_ahead.map(|bytes| (bytes / 1024).to_string().into())),
            ("--metrics-listen", self.metrics_listen.as_ref().map(|address| address.option().into())),
        ];
        for (word, value) in values {
            args.extend(value.into_iter().flat_map(|value| [word.into(), value]));
        }
        args.extend(["--".into(), self.store.clone().into(), self.mountpoint.clone().into()]);
        args
    }
}

/// What was given, where it was given.
struct Given(Vec<MountOptions>);

impl Given {
    fn has(&self, switch: fn(&MountOptions) -> bool) -> bool {
        self.0.iter().any(switch)
    }

    /// What the texts of an option say, which `read` is told the name of.
    fn value<Raw: ?Sized, T: PartialEq>(
        &self,
        option: &str,
        raw: fn(&MountOptions) -> Option<&Raw>,
        read: impl Fn(&str, &Raw) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut said = None;
        for text in self.0.iter().filter_map(raw) {
            let value = read(option, text)?;
            if said.as_ref().is_some_and(|earlier| *earlier != value) {
                return Err(Error::Invalid(format!(
                    "{option} is given twice with different values: keep one"
                )));
            }
            said = Some(value);
        }
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, with_mount_inserted};
    use clap::Parser;

    fn config(words: &[&str]) -> Result<MountConfig> {
        let args = ["templatefs", "/s", "/m"].iter().chain(words).map(OsString::from).collect();
        match Cli::try_parse_from(with_mount_inserted(args)).unwrap().command {
            Command::Mount(args) => MountConfig::from_args(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_the_careful_ones() {
        let config = config(&[]).unwrap();
        assert_eq!((config.store, config.mountpoint), ("/s".into(), "/m".into()));
        assert!(
            !config.allow_other && !config.allow_template_writes && !config.nonempty && !config.foreground
        );
        assert_eq!((config.log_level, config.log_file, config.state_dir), (LevelFilter::Info, None, None));
        assert!((2..=8).contains(&config.threads));
    }

    #[test]
    fn long_options_and_o_mean_the_same() {
        let long = config(&[
            "--allow-other",
            "--allow-template-writes",
            "--foreground",
            "--nonempty",
            "--threads=3",
            "--log-level=debug",
            "--log-file=/l",
            "--state-dir=/d",
            "--metrics-listen=unix:/m",
        ]);
        let comma = config(&[
            "-o",
            "rw,allow_other,allow_template_writes,foreground",
            "-o",
            "nonempty,threads=3,log_level=debug,log_file=/l,state_dir=/d,metrics_listen=unix:/m",
        ]);
        assert_eq!(long.unwrap(), comma.unwrap());
    }

    #[test]
    fn the_serving_process_is_told_the_same() {
        let all = "rw,allow_other,allow_template_writes,foreground,nonempty,threads=3,log_level=debug,log_file=/l,\
                   state_dir=/-d,metrics_listen=127.0.0.1:9,backing=auto,pool=3,warm=5,read_ahead=512,policy=/p,require=vmgenid\\,no-ssh-keys,budget=3GiB,\
                   overcommit=1.5,max_private=1000,max_views_per_user=7,max_nodes_per_user=9";
        for words in [&[][..], &["-o", all], &["-o", "metrics_listen=unix:/m"]] {
            let config = config(words).unwrap();
            let mut args = vec![OsString::from("templatefs"), "mount".into()];
            args.extend(config.to_args());
            match Cli::try_parse_from(args).unwrap().command {
                Command::Mount(args) => assert_eq!(MountConfig::from_args(args).unwrap(), config),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_said_twice_must_be_said_alike() {
        assert_eq!(config(&["--threads=4", "-o", "threads=4,threads=04"]).unwrap().threads, 4);
        assert!(config(&["-f", "-o", "foreground,foreground"]).unwrap().foreground);
        for words in [
            &["--threads=4", "-o", "threads=5"][..],
            &["-o", "log_level=info", "-o", "log_level=warn"],
            &["--state-dir=/a", "-ostate_dir=/b"],
            &["-o", "log_file=/a,log_file=/b"],
        ] {
            let error = config(words).unwrap_err().to_string();
            assert!(error.contains("given twice with different values"), "{error}");
        }
    }

    #[test]
    fn bad_values_are_named() {
        for (word, named) in [
            ("threads=0", "threads=0"),
            ("threads=65", "1 to 64"),
            ("threads=many", "threads=many"),
            ("log_level=off", "log_level=off"),
            ("log_level=INFO", "error, warn"),
            ("ro", "-o ro"),
            ("metrics_listen=0.0.0.0:9", "metrics_listen=0.0.0.0:9"),
        ] {
            let error = config(&["-o", word]).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn relative_paths_are_made_absolute() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(config(&["-o", "state_dir=d"]).unwrap().state_dir, Some(here.join("d")));
    }
}
