//! Warm nodes against a model of the kernel: inodes that come and go, LOOKUPs that are thrown away,
//! and FORGETs that arrive late and in any order.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use proptest::prelude::*;

use super::nodes::WARM_LOOKUPS;
use super::tests::{Fixture, READ_WRITE, open_node};
use super::*;

const LOOKER: u32 = 99;

fn caller(pid: u32) -> Caller {
    Caller { uid: 0, gid: 0, pid }
}

#[derive(Debug, Clone)]
enum Step {
    Warm,
    /// The answer is meant, and held; or it is thrown away.
    LookUp {
        thread: u32,
        meant: bool,
    },
    /// Whoever holds a node lets go of it, after opening it or not.
    LetGo {
        which: usize,
        opened: bool,
    },
    /// The kernel needs memory: an inode that nobody holds goes.
    Evict {
        which: usize,
    },
    Forget {
        which: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<usize>();
    prop_oneof![
        2 => Just(Step::Warm),
        5 => (0..3u32, prop::bool::weighted(0.6)).prop_map(|(thread, meant)| Step::LookUp { thread, meant }),
        2 => (which, any::<bool>()).prop_map(|(which, opened)| Step::LetGo { which, opened }),
        3 => which.prop_map(|which| Step::Evict { which }),
        4 => which.prop_map(|which| Step::Forget { which }),
    ]
}

struct Kernel {
    engine: Engine,
    template: TemplateRef,
    /// LOOKUPs of each inode that the kernel has now.
    inodes: HashMap<u64, u64>,
    held: HashSet<u64>,
    /// Not delivered yet.
    forgets: Vec<(u64, u64)>,
}

impl Kernel {
    fn new(fixture: &Fixture) -> Self {
        let engine = fixture.engine_with(Options { warm: 2, ..Options::default() });
        let identity = engine.identity(Path::new("t")).unwrap();
        let template = TemplateRef { path: "t".into(), identity };
        Self { engine, template, inodes: HashMap::new(), held: HashSet::new(), forgets: Vec::new() }
    }

    fn warm(&mut self) -> u64 {
        let id = self.engine.begin_warming(&self.template, LOOKER).unwrap();
        assert!(self.engine.look_up_warming(&caller(LOOKER + 1), id).is_err(), "another process");
        for _ in 0..WARM_LOOKUPS {
            assert_eq!(self.engine.look_up_warming(&caller(LOOKER), id).unwrap().node, id);
        }
        self.inodes.insert(id, WARM_LOOKUPS);
        assert!(self.engine.end_warming(id));
        assert!(self.engine.look_up_warming(&caller(LOOKER), id).is_err(), "afterwards");
        assert!(open_node(&self.engine, &caller(0), id, READ_WRITE).is_err(), "it is no view yet");
        self.engine.publish_warm(id, self.template.clone(), 1);
        id
    }

    fn look_up(&mut self, thread: u32, meant: bool) -> u64 {
        let node = self.engine.lookup(&caller(thread), ROOT, b"t?rom=off").unwrap().node;
        if meant {
            assert!(self.held.insert(node), "node {node} is two views at once");
            *self.inodes.entry(node).or_default() += 1;
        } else {
            self.forgets.push((node, 1));
        }
        node
    }

    fn let_go(&mut self, node: u64, opened: bool) {
        if opened {
            let handle = open_node(&self.engine, &caller(0), node, READ_WRITE).unwrap().handle;
            self.engine.release(handle);
        }
        self.held.remove(&node);
    }

    fn evict(&mut self, node: u64) {
        if !self.held.contains(&node)
            && let Some(lookups) = self.inodes.remove(&node)
        {
            self.forgets.push((node, lookups));
        }
    }

    fn forget(&mut self, which: usize) {
        if !self.forgets.is_empty() {
            let (node, lookups) = self.forgets.swap_remove(which % self.forgets.len());
            self.engine.forget(node, lookups);
        }
    }

    fn apply(&mut self, step: Step) {
        let nth = |mut nodes: Vec<u64>, which: usize| {
            nodes.sort_unstable();
            (!nodes.is_empty()).then(|| nodes[which % nodes.len()])
        };
        match step {
            Step::Warm => drop(self.warm()),
            Step::LookUp { thread, meant } => drop(self.look_up(thread, meant)),
            Step::LetGo { which, opened } => {
                if let Some(node) = nth(self.held.iter().copied().collect(), which) {
                    self.let_go(node, opened);
                }
            }
            Step::Evict { which } => {
                let loose = self.inodes.keys().filter(|node| !self.held.contains(node)).copied();
                if let Some(node) = nth(loose.collect(), which) {
                    self.evict(node);
                }
            }
            Step::Forget { which } => self.forget(which),
        }
    }

    /// The kernel lets go of all.
    fn end(mut self) {
        self.held.clear();
        for node in self.inodes.keys().copied().collect::<Vec<_>>() {
            self.evict(node);
        }
        while !self.forgets.is_empty() {
            self.forget(0);
        }
        assert_eq!(self.engine.ready(&self.template.identity), 0);
        assert_eq!(self.engine.nodes.count(), 1, "the root alone is left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn no_node_is_ever_two_views(steps in proptest::collection::vec(step(), 1..60)) {
        let fixture = Fixture::new(&[7; 3 * 4096]);
        let mut kernel = Kernel::new(&fixture);
        steps.into_iter().for_each(|step| kernel.apply(step));
        kernel.end();
    }
}

#[test]
fn one_whose_lookup_was_thrown_away_is_handed_out_again_as_warm_as_it_was() {
    let fixture = Fixture::new(&[7; 3 * 4096]);
    let mut kernel = Kernel::new(&fixture);
    let warm = kernel.warm();
    assert_eq!(kernel.look_up(1, false), warm);
    assert_ne!(kernel.look_up(2, false), warm, "it has not come back yet");
    kernel.forget(0);
    assert_eq!(kernel.engine.ready(&kernel.template.identity), 1);
    assert_eq!(kernel.look_up(1, true), warm);
    assert_eq!(kernel.engine.nodes.get(warm).unwrap().counters.values().prefetched, 1);
    kernel.let_go(warm, true);
    kernel.end();
}

/// One FORGET of a LOOKUP could be taken for that of the other.
#[test]
fn one_that_the_kernel_dropped_just_before_is_a_cold_view_and_stays_its_holders() {
    let fixture = Fixture::new(&[7; 3 * 4096]);
    let mut kernel = Kernel::new(&fixture);
    let warm = kernel.warm();
    kernel.evict(warm);
    assert_eq!(kernel.look_up(1, true), warm);
    kernel.forget(0);
    assert_eq!(kernel.engine.ready(&kernel.template.identity), 0);
    assert_eq!(kernel.engine.nodes.get(warm).unwrap().counters.values().prefetched, 0);
    assert_ne!(kernel.look_up(2, true), warm);
    kernel.end();
}

/// A template was given up when memory was short for a moment, until it was opened again.
#[test]
fn a_template_waits_until_memory_is_there_again() {
    let fixture = Fixture::new(&[7; 3 * 4096]);
    let kernel = Kernel::new(&fixture);
    let (engine, hour) = (&kernel.engine, std::time::Duration::from_secs(3600));
    engine.warm_from_now_on(&kernel.template);
    engine.pause_warming(hour);
    std::thread::scope(|scope| {
        let next = scope.spawn(|| engine.next_warm_work());
        engine.drop_warm(70);
        assert!(matches!(next.join().unwrap(), WarmWork::Drop(70)), "other work goes on");
    });
    engine.pause_warming(std::time::Duration::ZERO);
    let WarmWork::Prepare(template) = engine.next_warm_work() else { panic!("given up") };
    assert_eq!(template.identity, kernel.template.identity);
}
