//! The policies of a mount, as they are now: the store's own, and the operator's (`--policy`).

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Group, User};
use parking_lot::RwLock;

use super::{Names, Policy, Wish};
use crate::error::{Error, Result};
use crate::manifest::Fact;
use crate::store::{self, Store};

/// More than any policy needs.
const MAX_LENGTH: u64 = 1 << 20;

/// By default there are none.
#[derive(Default)]
pub struct Guard {
    /// The operator's file, beside the store's own.
    operators: Option<PathBuf>,
    /// An option of the mount.
    require: Vec<Fact>,
    policies: RwLock<Arc<Vec<Policy>>>,
}

impl Guard {
    /// # Errors
    /// A policy that cannot be read or understood: nothing may be served then.
    pub fn load(store: &dyn Store, operators: Option<PathBuf>, require: Vec<Fact>) -> Result<Self> {
        let guard = Self { operators, require, policies: RwLock::default() };
        guard.reload(store)?;
        Ok(guard)
    }

    /// Refuses whatever is new, until a reload.
    pub fn closed(operators: Option<PathBuf>, require: Vec<Fact>) -> Self {
        Self { operators, require, policies: RwLock::new(Arc::new(vec![Policy::closed()])) }
    }

    /// Takes the files as they are now; where one cannot be used all stays as it was. What is open
    /// stays open.
    pub fn reload(&self, store: &dyn Store) -> Result<()> {
        let mut policies = read_all(store, self.operators.as_deref())?;
        if !self.require.is_empty() {
            policies.push(Policy::requiring(&self.require));
        }
        *self.policies.write() = Arc::new(policies);
        Ok(())
    }

    pub fn check(&self, wish: &Wish<'_>) -> Result<()> {
        self.now().iter().try_for_each(|policy| policy.check(wish))
    }

    /// As [`Policy::max_size`], of all policies.
    pub fn max_size(&self, path: &Path) -> Option<(u64, String)> {
        let policies = self.now();
        let limit =
            policies.iter().filter_map(|policy| policy.max_size(path)).min_by_key(|(limit, _)| *limit);
        limit.map(|(limit, title)| (limit, title.to_owned()))
    }

    /// As [`Policy::max_views`], of all policies.
    pub fn max_views(&self, path: &Path) -> Option<(u64, String)> {
        let policies = self.now();
        let limit =
            policies.iter().filter_map(|policy| policy.max_views(path)).min_by_key(|(limit, _)| *limit);
        limit.map(|(limit, title)| (limit, title.to_owned()))
    }

    /// As [`Policy::required`], of all policies.
    pub fn required(&self, path: &Path) -> Vec<(Fact, String)> {
        let policies = self.now();
        let all = policies.iter().flat_map(|policy| policy.required(path));
        all.map(|(fact, title)| (fact, title.to_owned())).collect()
    }

    fn now(&self) -> Arc<Vec<Policy>> {
        self.policies.read().clone()
    }
}

fn read_all(store: &dyn Store, operators: Option<&Path>) -> Result<Vec<Policy>> {
    let mut policies = Vec::new();
    if let Some(file) = store.policy()? {
        policies.push(read(file, store::POLICY)?);
    }
    if let Some(path) = operators {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| Error::io(format!("policy {name}"), e))?;
        policies.push(read(file, &name)?);
    }
    Ok(policies)
}

/// A file that others may write is no policy.
fn read(file: File, name: &str) -> Result<Policy> {
    let context = |e| Error::io(format!("policy {name}"), e);
    let metadata = file.metadata().map_err(context)?;
    let own = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    if !metadata.is_file() || !own || metadata.mode() & 0o022 != 0 {
        return Err(Error::Invalid(format!(
            "policy {name}: it must be a file of root or of this user that nobody else may write: change its owner and \
             mode"
        )));
    }
    if metadata.len() > MAX_LENGTH {
        return Err(Error::TooLarge(format!("policy {name}: longer than {MAX_LENGTH} bytes: shorten it")));
    }
    let mut text = String::new();
    file.take(MAX_LENGTH).read_to_string(&mut text).map_err(context)?;
    let user = |name: &str| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
    let group = |name: &str| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
    Policy::parse(&text, name, &Names { user: &user, group: &group })
}
