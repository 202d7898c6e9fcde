//! Whatever the kernel asks, and whenever the process dies: each request is answered, a view holds what was
//! written to it and nobody else's, and the templates are what they were.

mod content;
mod files;
mod kernel;
mod operation;
mod protocol;
mod tree;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use arbitrary::{Arbitrary, Unstructured};
use templatefs::engine::{FIRST_FOREIGN, Options, RESENT, ROOT};
use templatefs::name::Label;

use super::scratch;
use content::{Content, WINDOW};
use kernel::{Kernel, LONGEST, Reply, number};
use operation::{Name, Number, Operation, Which};
use protocol::{
    BATCH_FORGET, FALLOCATE, FORGET, FSYNC, GETXATTR, LOOKUP, NAMES_CHANGE, OPEN, OPENDIR, READ, READDIR,
    RELEASE, RELEASEDIR, STATFS, UNLINK, WRITE, fixed_part,
};
use tree::{Found, Tree};

/// No input is longer, in requests.
const OPERATIONS: usize = 64;

type Shared = Rc<RefCell<Content>>;

/// As the first byte says, views are bounded; the others are operations.
pub fn hold(input: &[u8]) {
    let Some((bounded, bytes)) = input.split_first() else { return };
    let max_private = (bounded % 2 == 1).then_some(1 << 16);
    let tree = Tree::new();
    let state = scratch();
    let mut users = Users::new(&tree, Kernel::mount(tree.path(), state.path(), options(max_private)));
    let mut bytes = Unstructured::new(bytes);
    for _ in 0..OPERATIONS {
        let Ok(operation) = Operation::arbitrary(&mut bytes) else { break };
        if !cfg!(fuzzing) {
            println!("{operation:?}");
        }
        users.run(operation);
        if bytes.is_empty() {
            break;
        }
    }
    users.look_at_everything();
    users.kernel.unmount();
    tree.assert_unchanged();
}

fn options(max_private: Option<u64>) -> Options {
    Options { max_private, ..Options::default() }
}

/// What a node is to those who found it.
struct Node {
    found: Found,
    /// Of a view, once it is there.
    content: Option<Shared>,
    opens: u32,
    /// It was a view without a name, and is gone.
    spent: bool,
}

#[derive(Clone)]
struct Handle {
    node: u64,
    content: Shared,
    /// It shows the template, which nothing changes.
    template: bool,
}

/// All who use the mount.
struct Users<'a> {
    tree: &'a Tree,
    kernel: Kernel,
    nodes: HashMap<u64, Node>,
    node_ids: Vec<u64>,
    handles: HashMap<u64, Handle>,
    handle_ids: Vec<u64>,
    views: HashMap<Label, Shared>,
    /// The next request is done twice.
    twice: bool,
    uid: u32,
}

impl<'a> Users<'a> {
    fn new(tree: &'a Tree, kernel: Kernel) -> Self {
        let root = Node { found: Found::Directory(String::new()), content: None, opens: 0, spent: false };
        Self {
            tree,
            kernel,
            nodes: HashMap::from([(ROOT, root)]),
            node_ids: vec![ROOT],
            handles: HashMap::new(),
            handle_ids: vec![],
            views: HashMap::new(),
            twice: false,
            uid: 0,
        }
    }

    fn run(&mut self, operation: Operation) {
        match operation {
            Operation::Lookup { parent, name } => self.look_up(parent, &name),
            Operation::Forget { node, lookups: Number(lookups) } => {
                let (id, node) = (self.kernel.next(), self.node(node));
                self.kernel.tell(id, FORGET, node, 0, &lookups.to_ne_bytes());
            }
            Operation::ForgetMany { nodes } => {
                let nodes = &nodes[..nodes.len().min(64)];
                let mut body = words(&[nodes.len() as u64]);
                for (node, Number(lookups)) in nodes {
                    body.extend(words(&[self.node(*node), *lookups]));
                }
                let id = self.kernel.next();
                self.kernel.tell(id, BATCH_FORGET, 0, 0, &body);
            }
            Operation::Getattr { node } => self.getattr(node),
            Operation::Setattr { node, handle, size, mode, owner, times } => {
                self.setattr(node, handle, size, mode, owner, times);
            }
            Operation::Open { node, flags } => self.open(node, &flags),
            Operation::Read { handle, offset: Number(offset), size } => {
                let handle = self.handle(handle);
                self.read(handle, offset, u64::from(size));
            }
            Operation::Write { handle, offset, data, flags } => self.write(handle, offset, &data, flags),
            Operation::Release { handle, flags } => self.release(handle, flags),
            Operation::Fsync { handle, flags } => {
                let handle = self.handle(handle);
                let _ = self.ask(FSYNC, self.node_of(handle), &words(&[handle, flags.into()]));
            }
            Operation::Allocate { handle, offset, length, mode } => {
                self.allocate(handle, offset, length, &mode)
            }
            Operation::Seek { handle, offset, whence } => self.seek(handle, offset, whence),
            Operation::Unlink { parent, name } => self.unlink(parent, &name),
            Operation::List { node, handle: Number(handle), offset: Number(offset), size } => {
                let node = self.node(node);
                let opened = self.ask(OPENDIR, node, &words(&[0]));
                let handle = opened.map_or(handle, |opened| number(&opened, 0, 8));
                let read = words(&[handle, offset, size.into(), 0, 0]);
                if let Ok(entries) = self.ask(READDIR, node, &read) {
                    assert!(entries.len() <= usize::from(size));
                }
                let _ = self.ask(RELEASEDIR, node, &words(&[handle, 0, 0]));
            }
            Operation::Statfs { node } => {
                let node = self.node(node);
                assert!(self.ask(STATFS, node, &[]).is_ok());
            }
            Operation::Getxattr { node, name, size } => {
                // What a look at other processes would tell is no matter of the request.
                let names =
                    ["security.capability", "system.posix_acl_access", "user.templatefs.id", "user.x"];
                let name = names[usize::from(name) % names.len()];
                let body = [&words(&[size.into()]), name.as_bytes(), &[0]].concat();
                let node = self.node(node);
                let _ = self.ask(GETXATTR, node, &body);
            }
            Operation::Name { opcode, node, name } => {
                let opcode = NAMES_CHANGE[usize::from(opcode) % NAMES_CHANGE.len()];
                let (node, name) = (self.node(node), [&name.0[..], &[0]].concat());
                // Of a value the kernel says truly how long it is.
                let fixed = [words(&[name.len() as u64]), vec![0; 8]].concat();
                let body = [&fixed[..fixed_part(opcode)], &name, &name].concat();
                assert!(self.ask(opcode, node, &body).is_err(), "{opcode}");
            }
            Operation::Other { opcode, node, body } => {
                let node = self.node(node);
                // DESTROY would end the session, and to FORGET there is no answer. What has a property
                // of its own is asked above.
                if opcode > 47 || [31, 32, 33, 34, 37, 39, 40, 44, 47].contains(&opcode) {
                    let _ = self.ask(opcode.into(), node, &body[..body.len().min(LONGEST)]);
                }
            }
            Operation::Die { done: false } => self.die(self.handles.len()),
            Operation::Die { done: true } => self.twice = true,
        }
    }

    /// One whose answer nobody saw is asked again of another process.
    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Reply {
        let id = self.kernel.next();
        let first = self.kernel.ask(id, opcode, node, self.uid, body);
        if !std::mem::take(&mut self.twice) {
            return first;
        }
        let known = body.len() >= 8 && self.handles.contains_key(&number(body, 0, 8));
        let open = match (opcode, &first) {
            (OPEN, Ok(_)) => self.handles.len() + 1,
            (RELEASE, Ok(_)) => self.handles.len() - usize::from(known),
            _ => self.handles.len(),
        };
        self.die(open);
        let second = self.kernel.ask(id | RESENT, opcode, node, self.uid, body);
        if [OPEN, RELEASE, UNLINK, WRITE, READ, FALLOCATE].contains(&opcode) && first.is_ok() {
            assert_eq!(
                second.as_ref().err(),
                None,
                "{opcode} was done, and is refused when it is sent again"
            );
        }
        if opcode == OPEN
            && let (Ok(first), Ok(second)) = (&first, &second)
        {
            assert_eq!(first[..8], second[..8], "one OPEN has opened two");
        }
        second
    }

    /// So many files are open.
    fn die(&mut self, open: usize) {
        self.twice = false;
        let recovered = self.kernel.die(self.tree.path());
        assert_eq!((recovered.files, recovered.set_aside), (open, 0));
    }

    fn look_up(&mut self, parent: Which, Name(name): &Name) {
        let parent = self.node(parent);
        let Ok(entry) = self.ask(LOOKUP, parent, &[name, &[0][..]].concat()) else { return };
        let (id, size) = (number(&entry, 0, 8), number(&entry, 48, 8));
        assert_eq!(number(&entry, 40, 8), id);
        if id >= FIRST_FOREIGN {
            return;
        }
        let directory = match self.nodes.get(&parent).map(|node| &node.found) {
            Some(Found::Directory(path)) => path.clone(),
            _ => panic!("{name:?} in node {parent}, which is no directory"),
        };
        let found = self.tree.find(&directory, name);
        match self.nodes.get(&id) {
            Some(known) => {
                assert!(known.found.is_as(&found), "node {id} was {:?}, and is {found:?}", known.found)
            }
            None => {
                self.nodes.insert(id, Node { found: found.clone(), content: None, opens: 0, spent: false });
                self.node_ids.push(id);
            }
        }
        if let Found::Rom(template) | Found::Private { template, view: None } = found {
            assert_eq!(size, self.tree.content(template).size, "{name:?}");
        }
    }

    fn unlink(&mut self, parent: Which, Name(name): &Name) {
        let parent = self.node(parent);
        if self.ask(UNLINK, parent, &[name, &[0][..]].concat()).is_err() || parent >= FIRST_FOREIGN {
            return;
        }
        let directory = match &self.nodes[&parent].found {
            Found::Directory(path) => path.clone(),
            other => panic!("{name:?} in {other:?}"),
        };
        let Found::Private { view: Some(view), .. } = self.tree.find(&directory, name) else {
            panic!("{name:?} is no view with a name, and was removed");
        };
        self.views.remove(&view);
    }

    /// Each open file shows what its view holds.
    fn look_at_everything(&mut self) {
        self.twice = false;
        for id in self.handle_ids.clone() {
            self.read(id, 0, WINDOW / 2);
            self.read(id, WINDOW / 2, WINDOW / 2);
            let size = self.handles[&id].content.borrow().size;
            self.read(id, size.saturating_sub(100), 200);
        }
    }

    /// The content of a node that is a view, from now on if it was none.
    fn view_at(&mut self, id: u64) -> Option<Shared> {
        let node = self.nodes.get_mut(&id)?;
        let Found::Private { template, view } = &node.found else { return None };
        let new = || Shared::new(self.tree.content(*template).into());
        let content = node.content.get_or_insert_with(|| match view {
            Some(view) => self.views.entry(view.clone()).or_insert_with(new).clone(),
            None => new(),
        });
        Some(content.clone())
    }

    fn written_through(&self, handle: u64) -> Shared {
        let Some(handle) = self.handles.get(&handle) else { panic!("handle {handle} is not open") };
        assert!(!handle.template, "a template was written");
        handle.content.clone()
    }

    fn node_of(&self, handle: u64) -> u64 {
        self.handles.get(&handle).map_or(ROOT, |handle| handle.node)
    }

    fn node(&self, which: Which) -> u64 {
        chosen(which, &self.node_ids)
    }

    fn handle(&self, which: Which) -> u64 {
        chosen(which, &self.handle_ids)
    }
}

fn chosen(which: Which, known: &[u64]) -> u64 {
    match which {
        Which::Known(index) if !known.is_empty() => known[usize::from(index) % known.len()],
        Which::Latest if !known.is_empty() => known[known.len() - 1],
        Which::Known(_) | Which::Latest => 1,
        Which::Any(Number(number)) => number,
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
