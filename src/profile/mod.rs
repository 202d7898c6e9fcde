//! The learned working sets: for each template, which pages its views touch.
//!
//! They are kept in the state directory, one file each, and last as long as that does. A profile
//! is advice: a wrong one costs time and memory, and never changes what a view shows.

mod learn;
mod set;
mod store;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

pub use learn::learn;
pub use set::{Profile, insert, runs};
pub use store::{MAX_FILE, ProfileError, decode, encode, key};

use crate::error::{Error, Result};
use crate::name::written;
use crate::overlay::PAGE;
use crate::store::Identity;

/// More templates than these: the profile that was not taught for longest goes.
const MAX_PROFILES: usize = 64;

pub struct Profiles {
    directory: PathBuf,
    by_key: Mutex<HashMap<String, Profile>>,
    /// Profiles whose files are older than they are.
    changed: Mutex<HashSet<String>>,
}

/// What `profiles.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileList {
    pub schema: u32,
    pub profiles: Vec<ProfileReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileReport {
    /// The path in the store, as it is written in a path of the mount.
    pub template: String,
    /// The name of its file below `profiles/`.
    pub key: String,
    pub template_bytes: u64,
    /// What the next view is expected to touch.
    pub pages: u64,
    pub bytes: u64,
    /// How many views taught it, since it was begun.
    pub views_total: u64,
    /// Seconds since the epoch.
    pub updated: u64,
    /// Views that wait with these pages in the page cache already.
    pub ready: u64,
}

impl Profiles {
    /// Takes over what is in `directory`. A profile that cannot be read is left out and reported.
    pub fn load(directory: &Path) -> Result<Self> {
        let context = |e| Error::io(format!("state directory {}", directory.display()), e);
        let mut by_key = HashMap::new();
        for entry in std::fs::read_dir(directory).map_err(context)? {
            let path = entry.map_err(context)?.path();
            if path.extension().is_none_or(|extension| extension != store::EXTENSION) {
                let _ = std::fs::remove_file(&path);
                continue;
            }
            match read(&path) {
                Ok(profile) => drop(by_key.insert(key(&profile.identity), profile)),
                Err(why) => {
                    log::error!("profile {}: {why}: it is ignored and learned anew", path.display());
                }
            }
        }
        let profiles = Self { by_key: Mutex::new(by_key), ..Self::none(directory) };
        profiles.shrink(&mut profiles.by_key.lock());
        Ok(profiles)
    }

    /// What is learned from now on.
    pub fn none(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), by_key: Mutex::default(), changed: Mutex::default() }
    }

    /// Adds what one view of a template touched. True if nothing was known of it before.
    pub fn teach(&self, template: &Path, identity: &Identity, pages: RoaringBitmap) -> bool {
        let key = key(identity);
        let mut by_key = self.by_key.lock();
        let template = template.as_os_str().as_encoded_bytes();
        let profile = by_key.entry(key.clone()).or_insert_with(|| Profile::new(template, identity));
        profile.template = template.to_vec();
        let was_unknown = profile.taught == 0;
        profile.teach(pages);
        let is_first = was_unknown && profile.taught > 0;
        profile.updated = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        by_key.retain(|_, profile| profile.taught > 0);
        self.shrink(&mut by_key);
        self.changed.lock().insert(key);
        is_first
    }

    /// Writes what was learned since the last time to the state directory.
    pub fn keep_changed(&self) {
        let changed = std::mem::take(&mut *self.changed.lock());
        for key in changed {
            if let Some(profile) = self.by_key.lock().get(&key) {
                self.keep(profile);
            }
        }
    }

    /// Replaces what is known of a template.
    pub fn import(&self, template: &Path, identity: &Identity, other: Profile) -> Result<()> {
        let shown = template.display();
        if other.identity.size != identity.size {
            return Err(Error::Invalid(format!(
                "{shown}: this profile is of a template of {} bytes, and {shown} has {}: export it from one that is \
                 the same",
                other.identity.size, identity.size
            )));
        }
        let template = template.as_os_str().as_encoded_bytes().to_vec();
        let profile = Profile { template, identity: identity.clone(), ..other };
        let mut by_key = self.by_key.lock();
        self.keep(&profile);
        by_key.insert(key(identity), profile);
        self.shrink(&mut by_key);
        Ok(())
    }

    /// The pages that the next view of a template is expected to touch.
    pub fn predicted(&self, identity: &Identity) -> RoaringBitmap {
        self.by_key.lock().get(&key(identity)).map(Profile::predicted).unwrap_or_default()
    }

    /// One profile as its file.
    pub fn export(&self, key: &str) -> Option<Vec<u8>> {
        self.by_key.lock().get(key).and_then(|profile| encode(profile).ok())
    }

    /// False where there is none.
    pub fn clear(&self, key: &str) -> bool {
        let removed = self.by_key.lock().remove(key).is_some();
        if removed {
            let _ = std::fs::remove_file(store::path(&self.directory, key));
        }
        removed
    }

    pub fn has(&self, key: &str) -> bool {
        self.by_key.lock().contains_key(key)
    }

    pub fn keys(&self) -> Vec<String> {
        self.by_key.lock().keys().cloned().collect()
    }

    /// By template; `ready` counts the views of it that wait.
    pub fn list(&self, ready: impl Fn(&Identity) -> u64) -> Vec<ProfileReport> {
        let by_key = self.by_key.lock();
        let report = |(key, profile): (&String, &Profile)| {
            let pages = profile.predicted().len();
            ProfileReport {
                template: written(&profile.template),
                key: key.clone(),
                template_bytes: profile.identity.size,
                pages,
                bytes: pages * PAGE,
                views_total: profile.taught,
                updated: profile.updated,
                ready: ready(&profile.identity),
            }
        };
        let mut list: Vec<ProfileReport> = by_key.iter().map(report).collect();
        list.sort_by(|a, b| (&a.template, &a.key).cmp(&(&b.template, &b.key)));
        list
    }

    fn keep(&self, profile: &Profile) {
        if let Err(error) = store::write(&self.directory, profile) {
            log::warn!("state directory {}: a profile is not kept: {error}", self.directory.display());
        }
    }

    fn shrink(&self, by_key: &mut HashMap<String, Profile>) {
        while by_key.len() > MAX_PROFILES {
            let oldest = by_key.iter().min_by_key(|(_, profile)| profile.updated).map(|(key, _)| key.clone());
            let Some(key) = oldest else { return };
            by_key.remove(&key);
            let _ = std::fs::remove_file(store::path(&self.directory, &key));
        }
    }
}

fn read(path: &Path) -> std::io::Result<Profile> {
    if std::fs::metadata(path)?.len() > store::MAX_FILE {
        return Err(std::io::Error::other("it is too long"));
    }
    let profile = decode(&std::fs::read(path)?).map_err(std::io::Error::other)?;
    match path.file_stem().is_some_and(|stem| stem == key(&profile.identity).as_str()) {
        true => Ok(profile),
        false => Err(std::io::Error::other("it goes by another template's name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(ino: u64) -> Identity {
        Identity { dev: 1, ino, size: 1 << 20, mtime_ns: 3, btime_ns: None }
    }

    fn pages(range: std::ops::Range<u32>) -> RoaringBitmap {
        range.collect()
    }

    #[test]
    fn what_was_learned_lasts_and_can_be_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = Profiles::load(dir.path()).unwrap();
        assert!(!profiles.teach(Path::new("a"), &identity(1), pages(0..0)), "nothing is known yet");
        assert!(profiles.teach(Path::new("a"), &identity(1), pages(0..10)));
        assert!(!profiles.teach(Path::new("a"), &identity(1), pages(0..0)));
        assert!(!profiles.teach(Path::new("a"), &identity(1), pages(0..10)));
        profiles.teach(Path::new("b"), &identity(2), pages(5..6));
        profiles.teach(Path::new("c"), &identity(3), pages(0..0));
        profiles.keep_changed();
        let again = Profiles::load(dir.path()).unwrap();
        assert_eq!(again.predicted(&Identity { dev: 9, ..identity(1) }), pages(0..10));
        assert_eq!(again.list(|_| 0).len(), 2);
        assert!(again.clear(&key(&identity(1))) && !again.clear(&key(&identity(1))));
        let list = Profiles::load(dir.path()).unwrap().list(|_| 4);
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].template.as_str(), list[0].pages, list[0].ready), ("b", 1, 4));
    }

    #[test]
    fn a_damaged_profile_is_ignored_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = Profiles::load(dir.path()).unwrap();
        profiles.teach(Path::new("a"), &identity(1), pages(0..10));
        profiles.teach(Path::new("b"), &identity(2), pages(0..10));
        profiles.keep_changed();
        let path = store::path(dir.path(), &key(&identity(1)));
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let again = Profiles::load(dir.path()).unwrap();
        assert!(again.predicted(&identity(1)).is_empty());
        assert_eq!(again.predicted(&identity(2)), pages(0..10));
        again.teach(Path::new("a"), &identity(1), pages(3..4));
        again.keep_changed();
        assert_eq!(Profiles::load(dir.path()).unwrap().predicted(&identity(1)), pages(3..4));
    }

    #[test]
    fn the_number_of_profiles_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = Profiles::load(dir.path()).unwrap();
        for ino in 0..MAX_PROFILES as u64 + 5 {
            profiles.teach(Path::new("t"), &identity(ino), pages(0..1));
            profiles.keep_changed();
        }
        assert_eq!(profiles.list(|_| 0).len(), MAX_PROFILES);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), MAX_PROFILES);
    }
}
