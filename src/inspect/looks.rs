//! What processes have of views: each process is looked at once, however many views it maps.

use std::collections::{BTreeMap, HashMap};

use super::patience::{Patience, Subject};
use super::processes::{Mapper, Mappers};
use super::resident::{Resident, residents};
use crate::access::Caller;
use crate::caller::{comm, uid_of};
use crate::mount::Device;

/// Files that a process is asked for at once: what it may take is limited (patience.rs).
const AT_ONCE: usize = 64;

/// All that /proc tells of some views at one moment.
pub struct Looks {
    pub mappers: Mappers,
    /// By process and node; what is not here could not be read.
    found: HashMap<(u32, u64), Resident>,
    caller: Caller,
    people: HashMap<u32, Person>,
}

#[derive(Clone)]
struct Person {
    uid: Option<u32>,
    comm: String,
}

impl Looks {
    /// Looks at the processes that map these nodes, where `caller` may know of them.
    pub fn take(caller: &Caller, device: Device, nodes: impl Iterator<Item = u64>) -> Self {
        let mappers = Mappers::scan(device);
        let mut processes: BTreeMap<u32, Vec<(u64, Mapper)>> = BTreeMap::new();
        for node in nodes {
            for mapper in mappers.of(node) {
                processes.entry(mapper.pid).or_default().push((node, mapper.clone()));
            }
        }
        let mut looks =
            Self { mappers, found: HashMap::new(), caller: caller.clone(), people: HashMap::new() };
        let mut patience = Patience::new();
        for (pid, files) in processes {
            if !looks.may_see(pid) {
                continue;
            }
            for files in files.chunks(AT_ONCE) {
                let mappers: Vec<Mapper> = files.iter().map(|(_, mapper)| mapper.clone()).collect();
                let Some(Ok(found)) = patience.look(Subject::Process(pid), move || residents(&mappers))
                else {
                    break;
                };
                looks.found.extend(files.iter().map(|(node, _)| (pid, *node)).zip(found));
            }
        }
        looks
    }

    /// May `caller` know what this process has?
    pub fn may_see(&mut self, pid: u32) -> bool {
        self.caller.uid == 0 || self.uid(pid) == Some(self.caller.uid)
    }

    /// What a process has of a node; None where that could not be read.
    pub fn of(&self, pid: u32, node: u64) -> Option<&Resident> {
        self.found.get(&(pid, node))
    }

    pub fn uid(&mut self, pid: u32) -> Option<u32> {
        self.person(pid).uid
    }

    pub fn comm(&mut self, pid: u32) -> String {
        self.person(pid).comm.clone()
    }

    fn person(&mut self, pid: u32) -> &Person {
        self.people.entry(pid).or_insert_with(|| Person { uid: uid_of(pid), comm: comm(pid) })
    }
}

/// A process that has ended holds nothing any more.
pub fn has_ended(pid: u32) -> bool {
    uid_of(pid).is_none()
}
