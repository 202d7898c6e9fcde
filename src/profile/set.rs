//! Which pages the views of a template touch. Pure.

use std::collections::VecDeque;
use std::ops::Range;

use roaring::RoaringBitmap;

use crate::overlay::PAGE;
use crate::store::Identity;

/// How many views are remembered: the last ones.
pub const VIEWS: usize = 8;
/// Of one view: 4 GiB. What lies behind is left out.
pub const MAX_PAGES: u64 = 1 << 20;

/// What was learned of one template.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its path in the store, as raw bytes, and which file that was.
    pub template: Vec<u8>,
    pub identity: Identity,
    /// How many views have taught it, also those that are not remembered any more.
    pub taught: u64,
    /// Seconds since the epoch.
    pub updated: u64,
    /// The pages of each of the last views, oldest first.
    pub views: VecDeque<RoaringBitmap>,
}

impl Profile {
    pub fn new(template: &[u8], identity: &Identity) -> Self {
        Self {
            template: template.to_vec(),
            identity: identity.clone(),
            taught: 0,
            updated: 0,
            views: VecDeque::new(),
        }
    }

    /// Adds what one view touched. One that touched nothing of the template teaches nothing.
    pub fn teach(&mut self, mut pages: RoaringBitmap) {
        let end = u32::try_from(self.identity.size.div_ceil(PAGE)).unwrap_or(u32::MAX);
        pages.remove_range(end..);
        pages.remove_biggest(pages.len().saturating_sub(MAX_PAGES));
        if pages.is_empty() {
            return;
        }
        pages.optimize();
        self.views.push_back(pages);
        while self.views.len() > VIEWS {
            self.views.pop_front();
        }
        self.taught += 1;
    }

    /// The pages that at least half of the views touched.
    pub fn predicted(&self) -> RoaringBitmap {
        let needed = self.views.len().div_ceil(2);
        let mut predicted = RoaringBitmap::new();
        // Only pages of views up to the last `needed - 1` could be missing from all others.
        for page in self.views.iter().take(self.views.len() + 1 - needed.max(1)).flatten() {
            if !predicted.contains(page) && self.views.iter().filter(|v| v.contains(page)).count() >= needed {
                predicted.insert(page);
            }
        }
        predicted
    }
}

/// Runs of pages, in order, none longer than `limit` pages.
pub fn runs(pages: &RoaringBitmap, limit: u32) -> Vec<Range<u64>> {
    let mut runs = Vec::new();
    let mut iter = pages.iter();
    while let Some(range) = iter.next_range() {
        let (mut start, end) = (u64::from(*range.start()), u64::from(*range.end()) + 1);
        while start < end {
            let stop = end.min(start + u64::from(limit));
            runs.push(start..stop);
            start = stop;
        }
    }
    runs
}

/// Pages beyond 16 TiB are left out.
pub fn insert(pages: &mut RoaringBitmap, range: Range<u64>) {
    let clamp = |page: u64| u32::try_from(page).unwrap_or(u32::MAX);
    pages.insert_range(clamp(range.start)..clamp(range.end));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn profile(pages: u64) -> Profile {
        let identity = Identity { dev: 1, ino: 2, size: pages * PAGE - 1, mtime_ns: 3, btime_ns: None };
        Profile::new(b"t", &identity)
    }

    fn set(pages: impl IntoIterator<Item = u32>) -> RoaringBitmap {
        pages.into_iter().collect()
    }

    #[test]
    fn nothing_beyond_the_templates_end_is_learned() {
        let mut profile = profile(10);
        profile.teach(set([9, 10, 11, u32::MAX]));
        assert_eq!(profile.predicted(), set([9]));
        profile.teach(set([10]));
        assert_eq!(profile.taught, 1, "a view that touched nothing of the template says nothing");
    }

    #[test]
    fn one_views_pages_are_bounded() {
        let mut profile = profile(2 * MAX_PAGES);
        let mut all = RoaringBitmap::new();
        insert(&mut all, 0..2 * MAX_PAGES);
        profile.teach(all);
        assert_eq!(profile.predicted().len(), MAX_PAGES);
    }

    #[test]
    fn runs_are_cut_to_what_goes_at_once() {
        let pages = set((0..5).chain([7]).chain(9..12));
        assert_eq!(runs(&pages, 2), [0..2, 2..4, 4..5, 7..8, 9..11, 11..12]);
        assert_eq!(runs(&RoaringBitmap::new(), 2), []);
    }

    proptest! {
        #[test]
        fn predicted_is_what_half_of_the_last_views_touched(
            views in proptest::collection::vec(proptest::collection::btree_set(0u32..40, 1..40), 1..12)
        ) {
            let mut profile = profile(40);
            for view in &views {
                profile.teach(set(view.iter().copied()));
            }
            let last = &views[views.len().saturating_sub(VIEWS)..];
            let often = |page: &u32| 2 * last.iter().filter(|view| view.contains(page)).count() >= last.len();
            prop_assert_eq!(profile.predicted(), set((0..40).filter(often)));
            prop_assert_eq!(profile.taught, views.len() as u64);
        }
    }
}
