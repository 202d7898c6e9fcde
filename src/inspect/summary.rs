//! Choosing, ordering and adding up the figures of views. Pure.
//!
//! A sum of which one part is unknown is unknown, as in [`super::Report`].

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{SetAsideReport, ViewReport};
use crate::name::Label;

/// A view, and the mount that it is on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listed<V = ViewReport> {
    pub mountpoint: String,
    #[serde(flatten)]
    pub view: V,
}

/// One that is set aside.
pub type ListedAside = Listed<SetAsideReport>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SortKey {
    #[default]
    Cost,
    Private,
    Copied,
    Cached,
    Saved,
    Age,
    Id,
    Template,
}

/// Which views are wanted; None: all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub template: Option<String>,
    pub uid: Option<u32>,
}

impl Filter {
    pub fn admits(&self, view: &ViewReport) -> bool {
        self.may_be(Some(&view.template), Some(view.uid))
    }

    /// Of what nothing is known all may be.
    pub fn may_admit(&self, view: &SetAsideReport) -> bool {
        self.may_be(view.template.as_deref(), view.uid)
    }

    fn may_be(&self, template: Option<&str>, uid: Option<u32>) -> bool {
        let template = self.template.as_deref().zip(template);
        let uid = self.uid.zip(uid);
        template.is_none_or(|(wanted, known)| wanted == known)
            && uid.is_none_or(|(wanted, known)| wanted == known)
    }
}

/// Figures largest first and unknown ones last; names in their order.
pub fn sort(views: &mut [Listed], key: SortKey) {
    views.sort_by(|a, b| compare(&a.view, &b.view, key).then_with(|| by_name(a, b)));
}

fn compare(a: &ViewReport, b: &ViewReport, key: SortKey) -> Ordering {
    let figure = |figure: fn(&ViewReport) -> Option<u64>| largest_first(figure(a), figure(b));
    match key {
        SortKey::Cost => figure(|view| view.cost_bytes),
        SortKey::Private => figure(|view| Some(view.private_bytes)),
        SortKey::Copied => figure(|view| view.cow_anon_bytes),
        SortKey::Cached => figure(|view| view.cached_bytes),
        SortKey::Saved => figure(|view| view.saved_bytes),
        SortKey::Age => b.age_seconds.total_cmp(&a.age_seconds),
        SortKey::Id => Ordering::Equal,
        SortKey::Template => natural(&a.template, &b.template),
    }
}

/// By id; where two mounts have the same, by mount.
pub fn by_name(a: &Listed, b: &Listed) -> Ordering {
    natural(&a.view.id, &b.view.id).then_with(|| a.mountpoint.cmp(&b.mountpoint))
}

pub fn largest_first<T: Ord>(a: Option<T>, b: Option<T>) -> Ordering {
    Reverse(a).cmp(&Reverse(b))
}

/// The order in which people count: `web-2` before `web-10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (Some(x), Some(y)) = (left.chars().next(), right.chars().next()) else {
            // Equal but for leading zeros is not the same.
            return left.len().cmp(&right.len()).then_with(|| a.cmp(b));
        };
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (m, n) = (take_number(&mut left), take_number(&mut right));
            m.len().cmp(&n.len()).then_with(|| m.cmp(n))
        } else {
            left = &left[x.len_utf8()..];
            right = &right[y.len_utf8()..];
            x.cmp(&y)
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// The digits at the front of `text`, without leading zeros.
fn take_number<'a>(text: &mut &'a str) -> &'a str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    number.trim_start_matches('0')
}

/// What several views come to; None is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sums {
    pub views: u64,
    pub cost_bytes: Option<u64>,
    pub private_bytes: Option<u64>,
    pub cow_anon_bytes: Option<u64>,
    pub cached_bytes: Option<u64>,
    pub saved_bytes: Option<u64>,
}

impl Sums {
    pub fn of<'a>(views: impl IntoIterator<Item = &'a ViewReport>) -> Self {
        let add = |sum: Option<u64>, figure: Option<u64>| Some(sum?.saturating_add(figure?));
        let mut sums = Self {
            views: 0,
            cost_bytes: Some(0),
            private_bytes: Some(0),
            cow_anon_bytes: Some(0),
            cached_bytes: Some(0),
            saved_bytes: Some(0),
        };
        for view in views {
            sums.views += 1;
            sums.cost_bytes = add(sums.cost_bytes, view.cost_bytes);
            sums.private_bytes = add(sums.private_bytes, Some(view.private_bytes));
            sums.cow_anon_bytes = add(sums.cow_anon_bytes, view.cow_anon_bytes);
            sums.cached_bytes = add(sums.cached_bytes, view.cached_bytes);
            sums.saved_bytes = add(sums.saved_bytes, view.saved_bytes);
        }
        sums
    }
}

/// The views with one vm label, on whatever mounts; `vm` is None for those without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmReport {
    pub vm: Option<Label>,
    #[serde(flatten)]
    pub sums: Sums,
}

/// None where a VM has nothing to sort by under this key.
pub fn by_vm(views: &[Listed], key: SortKey) -> Option<Vec<VmReport>> {
    let figure: fn(&Sums) -> Option<u64> = match key {
        SortKey::Cost => |sums| sums.cost_bytes,
        SortKey::Private => |sums| sums.private_bytes,
        SortKey::Copied => |sums| sums.cow_anon_bytes,
        SortKey::Cached => |sums| sums.cached_bytes,
        SortKey::Saved => |sums| sums.saved_bytes,
        SortKey::Id => |_| None,
        SortKey::Age | SortKey::Template => return None,
    };
    let mut groups: BTreeMap<Option<&Label>, Vec<&ViewReport>> = BTreeMap::new();
    for Listed { view, .. } in views {
        groups.entry(view.vm.as_ref()).or_default().push(view);
    }
    let sum = |(vm, views): (Option<&Label>, Vec<_>)| VmReport { vm: vm.cloned(), sums: Sums::of(views) };
    let mut vms: Vec<VmReport> = groups.into_iter().map(sum).collect();
    vms.sort_by(|a, b| {
        largest_first(figure(&a.sums), figure(&b.sums)).then_with(|| by_label(a.vm.as_ref(), b.vm.as_ref()))
    });
    Some(vms)
}

/// Those without a label last.
pub fn by_label(a: Option<&Label>, b: Option<&Label>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => natural(a.as_str(), b.as_str()),
        (a, b) => a.is_none().cmp(&b.is_none()),
    }
}

/// How many VMs the views belong to, as far as they say so.
pub fn count_vms(views: &[Listed]) -> usize {
    views.iter().filter_map(|listed| listed.view.vm.as_ref()).collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
pub mod samples {
    use super::{Listed, ListedAside};
    use crate::inspect::{ProcessReport, SetAsideReport, ViewReport};
    use crate::name::Label;

    /// A VMM of which nothing could be read.
    pub fn process(pid: u32) -> ProcessReport {
        ProcessReport {
            pid,
            comm: "qemu-system-x86".into(),
            uid: None,
            writable: true,
            mappings: None,
            mapped_bytes: None,
            resident_bytes: None,
            cow_anon_bytes: None,
            cow_swap_bytes: None,
        }
    }

    /// Of which nothing is known, and that nobody has open.
    pub fn set_aside(id: &str) -> ListedAside {
        let (id, reason) = (id.into(), "it is damaged".into());
        let view = SetAsideReport { id, template: None, uid: None, opens: 0, files: None, reason };
        ListedAside { mountpoint: "/mnt/t".into(), view }
    }

    /// A private view of 1 MiB that costs nothing yet.
    pub fn listed(id: &str, vm: Option<&str>, change: impl FnOnce(&mut ViewReport)) -> Listed {
        let mut view = ViewReport {
            id: id.into(),
            template: "debian/12.ram".into(),
            vm: vm.and_then(|vm| Label::new(vm.as_bytes())),
            kind: "private".into(),
            backing: "overlay".into(),
            backing_reason: None,
            uid: 1000,
            size_bytes: 1 << 20,
            template_bytes: 1 << 20,
            shown_bytes: 1 << 20,
            data_bytes: Some(1 << 20),
            private_bytes: 0,
            zero_bytes: 0,
            cow_anon_bytes: Some(0),
            cow_swap_bytes: Some(0),
            cached_bytes: Some(0),
            dirty_bytes: Some(0),
            held_bytes: 0,
            shared_clean_bytes: Some(0),
            cost_bytes: Some(0),
            saved_bytes: Some(1 << 20),
            opens: 1,
            opens_total: 1,
            reads_total: 0,
            read_bytes_total: 0,
            writes_total: 0,
            write_bytes_total: 0,
            faults_served_total: 0,
            prefetched_pages_total: 0,
            errors_total: 0,
            age_seconds: 1.0,
            opener: None,
            processes: Vec::new(),
        };
        change(&mut view);
        Listed { mountpoint: "/mnt/t".into(), view }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{listed, set_aside};
    use super::*;

    fn views() -> Vec<Listed> {
        vec![
            listed("web-10", Some("web"), |view| {
                (view.cost_bytes, view.private_bytes, view.age_seconds) = (Some(5), 5, 9.0);
            }),
            listed("web-2", Some("web"), |view| view.cost_bytes = Some(7)),
            listed("@65", None, |view| (view.cost_bytes, view.cow_anon_bytes) = (None, None)),
            listed("db", Some("db"), |view| {
                (view.cost_bytes, view.uid, view.template) = (Some(7), 0, "a.ram".into());
            }),
        ]
    }

    #[test]
    fn figures_come_largest_first_and_unknown_ones_last() {
        for (key, ids) in [
            (SortKey::Cost, ["db", "web-2", "web-10", "@65"]),
            (SortKey::Private, ["web-10", "@65", "db", "web-2"]),
            (SortKey::Copied, ["db", "web-2", "web-10", "@65"]),
            (SortKey::Age, ["web-10", "@65", "db", "web-2"]),
            (SortKey::Id, ["@65", "db", "web-2", "web-10"]),
            (SortKey::Template, ["db", "@65", "web-2", "web-10"]),
        ] {
            let mut views = views();
            sort(&mut views, key);
            assert_eq!(views.iter().map(|listed| &*listed.view.id).collect::<Vec<_>>(), ids, "{key:?}");
        }
    }

    #[test]
    fn people_count_in_natural_order() {
        let mut names = ["b", "a10", "a9", "a", "a09b", "", "a010", "ä", "a9b"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["", "a", "a9", "a09b", "a9b", "a010", "a10", "b", "ä"]);
        assert_eq!(natural("a1", "a1"), Ordering::Equal);
    }

    #[test]
    fn unknown_and_known_is_unknown() {
        let views = views();
        let all = Sums::of(views.iter().map(|listed| &listed.view));
        assert_eq!((all.views, all.cost_bytes, all.cow_anon_bytes), (4, None, None));
        assert_eq!((all.private_bytes, all.cached_bytes), (Some(5), Some(0)));
        let known = Sums::of(views.iter().map(|l| &l.view).filter(|view| view.cost_bytes.is_some()));
        assert_eq!((known.cost_bytes, known.saved_bytes), (Some(19), Some(3 << 20)));
        assert_eq!(Sums::of([]).cost_bytes, Some(0));
    }

    #[test]
    fn what_carries_one_label_is_added_up() {
        let vms = by_vm(&views(), SortKey::Cost).unwrap();
        let shown = |vm: &VmReport| (vm.vm.as_ref().map(Label::to_string), vm.sums.views, vm.sums.cost_bytes);
        assert_eq!(
            vms.iter().map(shown).collect::<Vec<_>>(),
            [(Some("web".into()), 2, Some(12)), (Some("db".into()), 1, Some(7)), (None, 1, None)]
        );
        let labels = by_vm(&views(), SortKey::Id).unwrap();
        assert_eq!(labels[0].vm.as_ref().map(Label::as_str), Some("db"));
        assert_eq!((by_vm(&views(), SortKey::Age), count_vms(&views())), (None, 2));
    }

    #[test]
    fn a_filter_asks_for_all_that_it_names() {
        let chosen = |filter: Filter| {
            let views = views().into_iter().filter(|listed| filter.admits(&listed.view));
            views.map(|listed| listed.view.id).collect::<Vec<_>>()
        };
        assert_eq!(chosen(Filter::default()).len(), 4);
        assert_eq!(chosen(Filter { template: Some("a.ram".into()), uid: None }), ["db"]);
        assert_eq!(chosen(Filter { uid: Some(1000), template: None }), ["web-10", "web-2", "@65"]);
        assert!(chosen(Filter { template: Some("a.ram".into()), uid: Some(1000) }).is_empty());
    }

    #[test]
    fn what_is_not_known_of_a_view_that_is_set_aside_may_be_what_is_asked_for() {
        let mut view = set_aside("a").view;
        let wanted = |template: &str, uid| Filter { template: Some(template.into()), uid: Some(uid) };
        assert!(wanted("a.ram", 0).may_admit(&view));
        (view.template, view.uid) = (Some("a.ram".into()), Some(0));
        assert!(wanted("a.ram", 0).may_admit(&view));
        assert!(!wanted("b.ram", 0).may_admit(&view) && !wanted("a.ram", 1000).may_admit(&view));
    }
}
