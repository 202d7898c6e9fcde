//! What one user, and what the views of one template, may have at once: node ids that the kernel holds,
//! open files, private views. Whoever floods the mount meets an error, and the others meet nobody's
//! flood.
//!
//! Root and the user who mounts have no bounds of this kind: they may end the daemon anyhow. They are counted
//! all the same.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;

use crate::error::{Error, Result};

/// For each user who has bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Node ids, and as many open files.
    pub nodes: u64,
    /// Private views that are open.
    pub views: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { nodes: u64::MAX, views: u64::MAX }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    Node,
    OpenFile,
    View,
}

impl Thing {
    fn limit(self, limits: Limits) -> u64 {
        match self {
            Self::Node | Self::OpenFile => limits.nodes,
            Self::View => limits.views,
        }
    }
}

#[derive(Default)]
pub struct Shares {
    limits: Limits,
    /// Who has none, beside root.
    unbounded: u32,
    users: DashMap<u32, Arc<User>>,
    /// Open private views, by the template's file.
    templates: DashMap<(u64, u64), Arc<AtomicU64>>,
    /// Where users are named who have many nodes.
    crowded: OnceLock<SyncSender<u32>>,
}

#[derive(Default)]
struct User {
    nodes: AtomicU64,
    files: AtomicU64,
    views: AtomicU64,
    /// It was named, and nobody has looked yet.
    named: AtomicBool,
}

impl User {
    fn count(&self, thing: Thing) -> &AtomicU64 {
        match thing {
            Thing::Node => &self.nodes,
            Thing::OpenFile => &self.files,
            Thing::View => &self.views,
        }
    }
}

/// One of what a user has, for as long as this value lives.
pub struct Claim {
    user: Arc<User>,
    thing: Thing,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.user.count(self.thing).fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open private view, as its user's and as one of its template's.
pub struct ViewClaim {
    _of_user: Claim,
    of_template: Arc<AtomicU64>,
}

impl Drop for ViewClaim {
    fn drop(&mut self) {
        self.of_template.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shares {
    pub fn new(limits: Limits, unbounded: u32) -> Self {
        Self { limits, unbounded, ..Self::default() }
    }

    /// # Errors
    /// `Error::Quota` where the user has as many as it may.
    pub fn claim(&self, uid: u32, thing: Thing) -> Result<Claim> {
        let claim = self.owe(uid, thing);
        let limit = if [0, self.unbounded].contains(&uid) { u64::MAX } else { thing.limit(self.limits) };
        let has = claim.user.count(thing).load(Ordering::Relaxed);
        if thing == Thing::Node && has > limit - limit / 4 {
            self.name_crowded(uid, &claim.user);
        }
        if has <= limit {
            return Ok(claim);
        }
        Err(Error::Quota(match thing {
            Thing::Node => format!(
                "user {uid} has {limit} names in use or cached, as many as --max-nodes-per-user lets it: close files, or \
                 raise that limit"
            ),
            Thing::OpenFile => format!(
                "user {uid} has {limit} files open, as many as --max-nodes-per-user lets it: close some, or raise that \
                 limit"
            ),
            Thing::View => format!(
                "user {uid} has {limit} private views open, as many as --max-views-per-user lets it: close some, or raise \
                 that limit"
            ),
        }))
    }

    /// Of what there is anyhow, such as what an earlier daemon has given out.
    pub fn owe(&self, uid: u32, thing: Thing) -> Claim {
        let user = match self.users.get(&uid) {
            Some(user) => user.clone(),
            None => self.users.entry(uid).or_default().clone(),
        };
        user.count(thing).fetch_add(1, Ordering::Relaxed);
        Claim { user, thing }
    }

    /// A private view that is about to be open, of a template that may have `limit` of them; None if it has
    /// as many.
    pub fn claim_view(
        &self,
        uid: u32,
        template: (u64, u64),
        limit: Option<u64>,
    ) -> Result<Option<ViewClaim>> {
        let claim = self.with_template(self.claim(uid, Thing::View)?, template);
        let has = claim.of_template.load(Ordering::Relaxed);
        Ok(Some(claim).filter(|_| limit.is_none_or(|limit| has <= limit)))
    }

    pub fn owe_view(&self, uid: u32, template: (u64, u64)) -> ViewClaim {
        self.with_template(self.owe(uid, Thing::View), template)
    }

    fn with_template(&self, of_user: Claim, template: (u64, u64)) -> ViewClaim {
        let of_template = self.templates.entry(template).or_default().clone();
        of_template.fetch_add(1, Ordering::Relaxed);
        ViewClaim { _of_user: of_user, of_template }
    }

    /// Where users are named whose nodes come near their limit; told once.
    pub fn tell_crowded(&self, to: SyncSender<u32>) {
        let _ = self.crowded.set(to);
    }

    fn name_crowded(&self, uid: u32, user: &User) {
        if let Some(to) = self.crowded.get()
            && !user.named.swap(true, Ordering::Relaxed)
            && to.try_send(uid).is_err()
        {
            user.named.store(false, Ordering::Relaxed);
        }
    }

    /// The user may be named again.
    pub fn looked_at(&self, uid: u32) {
        if let Some(user) = self.users.get(&uid) {
            user.named.store(false, Ordering::Relaxed);
        }
    }

    /// How many nodes of a user should be left, once it was named.
    pub fn comfortable_nodes(&self) -> u64 {
        self.limits.nodes / 2
    }

    pub fn has(&self, uid: u32, thing: Thing) -> u64 {
        self.users.get(&uid).map_or(0, |user| user.count(thing).load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn a_user_has_as_many_as_it_may_and_the_others_are_not_asked() {
        let shares = Shares::new(Limits { nodes: 4, views: 1 }, 9);
        let mut held: Vec<Claim> = (0..4).map(|_| shares.claim(7, Thing::Node).unwrap()).collect();
        let refused = shares.claim(7, Thing::Node).err().unwrap();
        assert!(matches!(&refused, Error::Quota(why) if why.contains("user 7") && !why.contains('\n')));
        assert!(shares.claim(8, Thing::Node).is_ok());
        assert!(shares.claim(7, Thing::OpenFile).is_ok(), "they are counted apart");
        held.pop();
        assert!(shares.claim(7, Thing::Node).is_ok(), "what was refused is not counted");
        held.extend((0..10).map(|_| shares.owe(7, Thing::Node)));
        assert_eq!(shares.has(7, Thing::Node), 13);
        drop(held);
        assert_eq!(shares.has(7, Thing::Node), 0);
        for unbounded in [0, 9] {
            let many: Vec<Result<Claim>> = (0..100).map(|_| shares.claim(unbounded, Thing::Node)).collect();
            assert!(many.iter().all(Result::is_ok), "user {unbounded} has no bounds");
        }
    }

    #[test]
    fn the_views_of_a_template_are_counted_whoever_has_them() {
        let shares = Shares::new(Limits { nodes: 9, views: 1 }, 0);
        let owed = shares.owe_view(7, (1, 2));
        assert!(shares.claim_view(7, (1, 3), None).is_err(), "the user's own limit");
        assert!(shares.claim_view(8, (1, 2), Some(1)).unwrap().is_none());
        assert!(shares.claim_view(8, (1, 3), Some(1)).unwrap().is_some());
        drop(owed);
        assert!(shares.claim_view(8, (1, 2), Some(1)).unwrap().is_some());
    }

    #[test]
    fn a_user_is_named_once_it_comes_near_its_limit_and_again_after_somebody_looked() {
        let shares = Shares::new(Limits { nodes: 8, views: 8 }, 0);
        let (to, named) = sync_channel(1);
        shares.tell_crowded(to);
        let _held: Vec<Claim> = (0..6).map(|_| shares.claim(7, Thing::Node).unwrap()).collect();
        assert!(named.try_recv().is_err());
        let _more = [shares.claim(7, Thing::Node).unwrap(), shares.claim(7, Thing::Node).unwrap()];
        assert_eq!((named.try_recv(), named.try_recv().is_err()), (Ok(7), true));
        shares.looked_at(7);
        assert!(shares.claim(7, Thing::Node).is_err());
        assert_eq!(named.try_recv(), Ok(7));
    }
}
