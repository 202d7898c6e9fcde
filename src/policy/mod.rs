//! What of a store may be used, by whom and how much of it: `templatefs.toml`. Pure.
//!
//! Rules only take away: whoever opens a file needs the consent of each rule that matches its
//! path, in each policy of the mount. So their order means nothing, and no rule opens what another
//! one closed.

mod file;
mod guard;

use std::path::Path;

use globset::{Glob, GlobSet};

pub use file::Names;
pub use guard::Guard;

use crate::error::{Error, Result};
use crate::manifest::{Fact, SUFFIX};
use crate::rules::Kind;

/// The rules of one file.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// None: the rule says nothing about it.
#[derive(Debug)]
struct Rule {
    /// File, number and patterns, for messages.
    title: String,
    paths: GlobSet,
    allow: Option<Vec<&'static str>>,
    who: Option<Who>,
    max_size: Option<u64>,
    max_views: Option<u64>,
    /// What a template's manifest must vouch for before there are private views of it.
    require: Vec<Fact>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Who {
    users: Vec<u32>,
    groups: Vec<u32>,
}

/// Somebody's wish to open something.
pub struct Wish<'a> {
    pub path: &'a Path,
    pub kind: Kind,
    pub uid: u32,
    /// All of the caller's groups; asked for only where a rule names groups.
    pub groups: &'a dyn Fn() -> Vec<u32>,
    /// How large what is opened is.
    pub size: u64,
}

impl Policy {
    /// Lets nobody open anything.
    fn closed() -> Self {
        let title = "a policy that could not be read when this daemon took over";
        Self { rules: vec![Rule { allow: Some(vec![]), ..Rule::of_everything(title) }] }
    }

    /// Of every template the same is required, by an option of the mount.
    fn requiring(facts: &[Fact]) -> Self {
        Self { rules: vec![Rule { require: facts.to_vec(), ..Rule::of_everything("--require") }] }
    }

    /// EACCES, or EFBIG for a view that is too large.
    pub fn check(&self, wish: &Wish<'_>) -> Result<()> {
        self.matching(wish.path).try_for_each(|rule| rule.check(wish))
    }

    /// How large a private view of the template at `path` may become, and which rule says so.
    pub fn max_size<'a>(&'a self, path: &'a Path) -> Option<(u64, &'a str)> {
        let limits = self.matching(path).filter_map(|rule| Some((rule.max_size?, rule.title.as_str())));
        limits.min_by_key(|(limit, _)| *limit)
    }

    /// How many private views of the template at `path` may be open at once.
    pub fn max_views<'a>(&'a self, path: &'a Path) -> Option<(u64, &'a str)> {
        let limits = self.matching(path).filter_map(|rule| Some((rule.max_views?, rule.title.as_str())));
        limits.min_by_key(|(limit, _)| *limit)
    }

    /// What the manifest of the template at `path` must vouch for, and which rule says so.
    pub fn required<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (Fact, &'a str)> {
        self.matching(path).flat_map(|rule| rule.require.iter().map(|fact| (*fact, rule.title.as_str())))
    }

    fn matching<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.paths.is_match(path))
    }
}

impl Rule {
    fn of_everything(title: &str) -> Self {
        let everything = GlobSet::builder().add(Glob::new("**").expect("a glob")).build().expect("a set");
        Self {
            title: title.to_owned(),
            paths: everything,
            allow: None,
            who: None,
            max_size: None,
            max_views: None,
            require: Vec::new(),
        }
    }

    fn check(&self, wish: &Wish<'_>) -> Result<()> {
        let (path, title) = (wish.path.display(), &self.title);
        let kind = wish.kind.as_str();
        if let Some(allow) = self.allow.as_ref().filter(|allow| !allow.contains(&kind)) {
            let allowed = if allow.is_empty() { "nothing".to_owned() } else { allow.join(" and ") };
            return Err(Error::Denied(format!(
                "{path}: {title} allows {allowed} of it, and this would be {kind}: change the query, or the policy"
            )));
        }
        if self.who.as_ref().is_some_and(|who| !who.includes(wish)) {
            return Err(Error::Denied(format!(
                "{path}: {title} does not name user {}: add the user or one of its groups there",
                wish.uid
            )));
        }
        if let Some(limit) = self.max_size.filter(|limit| wish.kind.is_private() && wish.size > *limit) {
            return Err(too_large(wish.path, wish.size, limit, title));
        }
        Ok(())
    }
}

impl Who {
    fn includes(&self, wish: &Wish<'_>) -> bool {
        let in_group = || (wish.groups)().iter().any(|group| self.groups.contains(group));
        wish.uid == 0 || self.users.contains(&wish.uid) || (!self.groups.is_empty() && in_group())
    }
}

/// EACCES: nobody vouches for what a rule requires of a template.
pub fn not_vouched_for(path: &Path, fact: Fact, title: &str, manifest: Option<&Path>) -> Error {
    let (path, fact) = (path.display(), fact.as_str());
    let what = match manifest {
        Some(manifest) => format!("its manifest {} does not vouch for it", manifest.display()),
        None => format!("it has no manifest (such as {path}{SUFFIX})"),
    };
    Error::Denied(format!(
        "{path}: {title} requires {fact} of it, and {what}: make the template so and say --safe {fact} when it is captured, \
         imported or committed, or do not require it"
    ))
}

/// EFBIG: a view would be longer than a rule lets it be.
pub fn too_large(path: &Path, size: u64, limit: u64, title: &str) -> Error {
    Error::TooLarge(format!(
        "{}: {title} lets a private view have {limit} bytes, and this one would have {size}: raise that limit",
        path.display()
    ))
}

#[cfg(test)]
mod tests;
