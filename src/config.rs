//! The arguments of `mount`, checked. Nothing past this module sees a raw one.

mod values;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use log::LevelFilter;

use crate::cli::MountArgs;
use crate::engine::{Limits, Options};
use crate::error::{Error, Result};
use crate::listen::Address;
use crate::manifest::Fact;
use crate::mount_options::{self, MountOption};
use crate::rules::Backing;
use values::{
    absolute, backing, default_threads, facts, few, log_level, number, ratio, read_ahead, size, threads,
    words,
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
        let mut given = Given::default();
        for option in from_flags(&args) {
            given.take(option)?;
        }
        for text in &args.options {
            for option in mount_options::parse(text)? {
                given.take(option)?;
            }
        }
        Ok(Self {
            store: absolute("STORE", &args.store)?,
            mountpoint: absolute("MOUNTPOINT", &args.mountpoint)?,
            state_dir: given.state_dir,
            allow_other: given.allow_other,
            allow_template_writes: given.allow_template_writes,
            foreground: given.foreground,
            nonempty: given.nonempty,
            threads: given.threads.unwrap_or_else(default_threads),
            log_level: given.log_level.unwrap_or(LevelFilter::Info),
            log_file: given.log_file,
            metrics_listen: given.metrics_listen,
            backing: given.backing.unwrap_or_default(),
            pool: given.pool.unwrap_or(0),
            warm: given.warm.unwrap_or(0),
            read_ahead: given.read_ahead,
            policy: given.policy,
            require: given.require.unwrap_or_default(),
            budget: given.budget,
            overcommit: given.overcommit.unwrap_or(Self::THOUSANDTHS),
            max_private: given.max_private,
            max_views_per_user: given.max_views_per_user,
            max_nodes_per_user: given.max_nodes_per_user,
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

/// The long options as the words of `-o`, so that there is one meaning.
fn from_flags(args: &MountArgs) -> impl Iterator<Item = MountOption> {
    let path = |path: &Option<PathBuf>| path.clone().map(OsString::from);
    [
        args.allow_other.then_some(MountOption::AllowOther),
        args.allow_template_writes.then_some(MountOption::AllowTemplateWrites),
        args.foreground.then_some(MountOption::Foreground),
        args.nonempty.then_some(MountOption::Nonempty),
        args.threads.clone().map(MountOption::Threads),
        args.log_level.clone().map(MountOption::LogLevel),
        path(&args.log_file).map(MountOption::LogFile),
        path(&args.state_dir).map(MountOption::StateDir),
        path(&args.policy).map(MountOption::Policy),
        args.require.clone().map(MountOption::Require),
        args.budget.clone().map(MountOption::Budget),
        args.overcommit.clone().map(MountOption::Overcommit),
        args.max_private.clone().map(MountOption::MaxPrivate),
        args.max_views_per_user.clone().map(MountOption::MaxViewsPerUser),
        args.max_nodes_per_user.clone().map(MountOption::MaxNodesPerUser),
        args.metrics_listen.clone().map(MountOption::MetricsListen),
        args.backing.clone().map(MountOption::Backing),
        args.pool.clone().map(MountOption::Pool),
        args.warm.clone().map(MountOption::Warm),
        args.read_ahead.clone().map(MountOption::ReadAhead),
    ]
    .into_iter()
    .flatten()
}

#[derive(Default)]
struct Given {
    state_dir: Option<PathBuf>,
    allow_other: bool,
    allow_template_writes: bool,
    foreground: bool,
    nonempty: bool,
    threads: Option<usize>,
    log_level: Option<LevelFilter>,
    log_file: Option<PathBuf>,
    metrics_listen: Option<Address>,
    backing: Option<Backing>,
    pool: Option<usize>,
    warm: Option<usize>,
    read_ahead: Option<u64>,
    policy: Option<PathBuf>,
    require: Option<Vec<Fact>>,
    budget: Option<u64>,
    overcommit: Option<u64>,
    max_private: Option<u64>,
    max_views_per_user: Option<u64>,
    max_nodes_per_user: Option<u64>,
}

impl Given {
    fn take(&mut self, option: MountOption) -> Result<()> {
        match option {
            MountOption::AllowOther => self.allow_other = true,
            MountOption::AllowTemplateWrites => self.allow_template_writes = true,
            MountOption::Foreground => self.foreground = true,
            MountOption::Nonempty => self.nonempty = true,
            MountOption::Threads(text) => once(&mut self.threads, "threads", threads(&text)?)?,
            MountOption::LogLevel(text) => once(&mut self.log_level, "log_level", log_level(&text)?)?,
            MountOption::LogFile(path) => {
                once(&mut self.log_file, "log_file", absolute("log_file", Path::new(&path))?)?;
            }
            MountOption::StateDir(path) => {
                once(&mut self.state_dir, "state_dir", absolute("state_dir", Path::new(&path))?)?;
            }
            MountOption::Budget(text) => once(&mut self.budget, "budget", size("budget", &text)?)?,
            MountOption::Overcommit(text) => once(&mut self.overcommit, "overcommit", ratio(&text)?)?,
            MountOption::MaxPrivate(text) => {
                once(&mut self.max_private, "max_private", size("max_private", &text)?)?;
            }
            MountOption::MaxViewsPerUser(text) => {
                once(
                    &mut self.max_views_per_user,
                    "max_views_per_user",
                    number("max_views_per_user", &text)?,
                )?;
            }
            MountOption::MaxNodesPerUser(text) => {
                once(
                    &mut self.max_nodes_per_user,
                    "max_nodes_per_user",
                    number("max_nodes_per_user", &text)?,
                )?;
            }
            MountOption::Policy(path) => {
                once(&mut self.policy, "policy", absolute("policy", Path::new(&path))?)?;
            }
            MountOption::Require(text) => once(&mut self.require, "require", facts(&text)?)?,
            MountOption::MetricsListen(text) => {
                once(&mut self.metrics_listen, "metrics_listen", Address::parse(&text)?)?;
            }
            MountOption::Backing(text) => once(&mut self.backing, "backing", backing(&text)?)?,
            MountOption::ReadAhead(text) => once(&mut self.read_ahead, "read_ahead", read_ahead(&text)?)?,
            MountOption::Pool(text) => once(&mut self.pool, "pool", few("pool", &text)?)?,
            MountOption::Warm(text) => once(&mut self.warm, "warm", few("warm", &text)?)?,
        }
        Ok(())
    }
}

fn once<T: PartialEq>(slot: &mut Option<T>, option: &str, value: T) -> Result<()> {
    match slot {
        Some(earlier) if *earlier != value => {
            Err(Error::Invalid(format!("{option} is given twice with different values: keep one")))
        }
        _ => {
            *slot = Some(value);
            Ok(())
        }
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
