//! A power cut at each instant of a run.
//!
//! What was done to files since they were last brought to disk may be there or not: each sector of
//! 512 bytes as it was at any time since, the length likewise, and each name that was made,
//! changed or removed since the directory was last brought to disk, in any combination. A sector is
//! written as a whole or not at all. Afterwards a view holds what it held at its last sync, or in
//! each sector something newer; and one that was synced is there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use super::super::boot::Boot;
use super::super::disk::script::{self, Done};
use super::faults::{after, assert_nothing_unclaimed, changes, content, try_to};
use super::*;
use crate::name::Label;
use crate::views::Views;

const SECTOR: usize = 512;

/// A disk, and what is on its way there.
#[derive(Default)]
struct Disk {
    files: Vec<File>,
    /// Which file has an inode number now.
    numbers: HashMap<u64, usize>,
    names: BTreeMap<PathBuf, usize>,
    names_on_disk: BTreeMap<PathBuf, usize>,
    pending_names: Vec<Renamed>,
}

/// As it is on disk, and after each change since.
struct File(Vec<Vec<u8>>);

#[derive(Clone)]
enum Renamed {
    To(PathBuf, usize),
    Away(PathBuf),
}

impl Disk {
    fn apply(&mut self, done: &Done) {
        let number = |file: &u64| self.numbers[file];
        match done {
            Done::Make { path, file } => {
                self.numbers.insert(*file, self.files.len());
                self.rename(Renamed::To(path.clone(), self.files.len()));
                self.files.push(File(vec![Vec::new()]));
            }
            Done::Write { file, bytes, offset } => {
                let (file, at) = (number(file), *offset as usize);
                self.change(file, |content| {
                    content.resize(content.len().max(at + bytes.len()), 0);
                    content[at..at + bytes.len()].copy_from_slice(bytes);
                });
            }
            Done::SetLength { file, length } => {
                self.change(number(file), |content| content.resize(*length as usize, 0));
            }
            Done::Punch { file, bytes } => {
                self.change(number(file), |content| zero(content, bytes.start, bytes.end - bytes.start));
            }
            Done::Sync { file } => {
                let file = number(file);
                let last = self.files[file].0.pop().unwrap();
                self.files[file].0 = vec![last];
            }
            Done::Rename { from, to } => {
                let file = self.names[from];
                self.rename(Renamed::Away(from.clone()));
                self.rename(Renamed::To(to.clone(), file));
            }
            Done::Remove { path } => self.rename(Renamed::Away(path.clone())),
            Done::SyncDirectory => {
                self.names_on_disk = self.names.clone();
                self.pending_names.clear();
            }
        }
    }

    fn change(&mut self, file: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.files[file].0.last().unwrap().clone();
        change(&mut content);
        self.files[file].0.push(content);
    }

    fn rename(&mut self, renamed: Renamed) {
        renamed.apply(&mut self.names);
        self.pending_names.push(renamed);
    }

    /// The files after a power cut.
    fn cut(&self, lost: &mut Lost) -> tempfile::TempDir {
        let mut names = self.names_on_disk.clone();
        for (index, renamed) in self.pending_names.iter().enumerate() {
            if lost.name_arrives(index) {
                renamed.apply(&mut names);
            }
        }
        let directory = state_directory();
        for (path, file) in names {
            let content = self.files[file].cut(file, lost);
            std::fs::write(directory.path().join(path.file_name().unwrap()), content).unwrap();
        }
        directory
    }
}

impl Renamed {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::To(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Away(path) => drop(names.remove(path)),
        }
    }
}

impl File {
    fn sector(&self, version: usize, sector: usize) -> &[u8] {
        let content = self.0[version].get(sector * SECTOR..).unwrap_or_default();
        &content[..content.len().min(SECTOR)]
    }

    fn cut(&self, file: usize, lost: &mut Lost) -> Vec<u8> {
        let last = self.0.len() - 1;
        let length = lost.version(file, last, |version| self.0[version].len() != self.0[version + 1].len());
        let mut content = vec![0; self.0[length].len()];
        for (index, sector) in content.chunks_mut(SECTOR).enumerate() {
            let version = lost.version(file, last, |version| {
                self.sector(version, index) != self.sector(version + 1, index)
            });
            let found = self.sector(version, index);
            let known = found.len().min(sector.len());
            sector[..known].copy_from_slice(&found[..known]);
        }
        content
    }
}

/// What a power cut takes.
enum Lost {
    Everything,
    Nothing,
    /// One change of one file; or one name.
    Change(usize, usize),
    Name(usize),
    /// All but this.
    AllBut(usize, usize),
    Some(Random),
}

impl Lost {
    fn name_arrives(&mut self, index: usize) -> bool {
        match self {
            Self::Everything => false,
            Self::Nothing | Self::Change(..) | Self::AllBut(..) => true,
            Self::Name(lost) => *lost != index,
            Self::Some(random) => random.below(2) == 0,
        }
    }

    /// Which version of something there is of a file: 0 is the one that was on disk. `differs` tells
    /// whether it differs between a version and the next.
    fn version(&mut self, file: usize, last: usize, differs: impl Fn(usize) -> bool) -> usize {
        match self {
            Self::Everything => 0,
            Self::Nothing | Self::Name(_) => last,
            Self::Change(in_file, change) if *in_file == file && differs(*change) => *change,
            Self::Change(..) => last,
            Self::AllBut(in_file, change) if *in_file == file && differs(*change) => *change + 1,
            Self::AllBut(..) => 0,
            Self::Some(random) => random.below(last as u64 + 1) as usize,
        }
    }
}

/// What was done to a view, and what was promised.
#[derive(Default)]
struct Run {
    done: Vec<Done>,
    /// The view's content, and how many operations there were by then.
    contents: Vec<(usize, Vec<u8>)>,
    /// Which content was synced, and how many operations there were when that was said.
    synced: Vec<(usize, usize)>,
    /// When it began to go, and when it was said to be gone.
    gone: Option<(usize, usize)>,
}

#[derive(Debug, Clone)]
enum Step {
    Change(Op),
    Sync,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Kept,
    Removed,
    /// As one that is open when its name is discarded.
    Renamed,
}

fn recorded(fixture: &Fixture, steps: &[Step], end: End) -> Run {
    script::fail(None);
    script::set_boot(Some(Boot(1)));
    script::record();
    let mut run = Run::default();
    let view = fixture.create();
    let mut model = fixture.content.clone();
    run.contents.push((script::recorded(), model.clone()));
    for step in steps {
        match step {
            Step::Change(op) => {
                try_to(&view, op).unwrap();
                model = after(&model, op);
                run.contents.push((script::recorded(), model.clone()));
            }
            Step::Sync => {
                view.sync().unwrap();
                run.synced.push((script::recorded(), run.contents.len() - 1));
            }
        }
    }
    let before = script::recorded();
    match end {
        End::Kept => {}
        End::Removed => remove_files(fixture.state.path(), KEY).unwrap(),
        End::Renamed => rename_files(fixture.state.path(), KEY, "u-64").unwrap(),
    }
    if !matches!(end, End::Kept) {
        run.gone = Some((before, script::recorded()));
    }
    run.done = script::take_record();
    run
}

impl Run {
    /// Looks at what a power cut left after so many operations.
    fn check(&self, fixture: &Fixture, count: usize, left: &Path, what: &str) {
        let synced = self.synced.iter().rev().find(|(at, _)| *at <= count).map(|(_, content)| *content);
        let begun = self.contents.iter().position(|(at, _)| *at >= count).unwrap_or(self.contents.len() - 1);
        // While nothing has come to disk the view shows the template.
        let known: Vec<&Vec<u8>> =
            self.contents[synced.unwrap_or(0)..=begun].iter().map(|(_, content)| content).collect();
        let name = Label::new(NAME.as_bytes()).unwrap();
        let views = Views::load(left, &HashSet::new(), &BTreeMap::new()).unwrap();
        let found = views.find(&name).unwrap_or_else(|error| panic!("{what}: {error}"));
        let may_be_gone = synced.is_none() || self.gone.is_some_and(|(begun, _)| begun < count);
        let must_be_gone = self.gone.is_some_and(|(_, over)| over <= count);
        if found.is_none() {
            assert!(may_be_gone, "{what}: the view is gone");
            assert_eq!(std::fs::read_dir(left).unwrap().count(), 0, "{what}: nothing of it stays");
            return;
        }
        assert!(!must_be_gone, "{what}: the view is there again");
        let view = fixture.open_in(left);
        let content = content(&view);
        assert!(known.iter().any(|known| known.len() == content.len()), "{what}: {} bytes", content.len());
        for (index, sector) in content.chunks(SECTOR).enumerate() {
            let is = |known: &&Vec<u8>| {
                let known = known.get(index * SECTOR..).unwrap_or_default();
                let length = known.len().min(sector.len());
                sector[..length] == known[..length] && sector[length..].iter().all(|byte| *byte == 0)
            };
            // A cut is on record for itself, and may come to disk without what was written before.
            let is_cut = known.iter().any(|known| {
                let length = known.len();
                length > index * SECTOR && length < index * SECTOR + SECTOR
            });
            let byte_is =
                |at: usize| known.iter().any(|k| k.get(index * SECTOR + at).unwrap_or(&0) == &sector[at]);
            assert!(
                known.iter().any(is) || is_cut && (0..sector.len()).all(byte_is),
                "{what}: sector {index} (page {})",
                index / 8
            );
        }
        assert_nothing_unclaimed(left, &view);
    }
}

fn cut_everywhere(fixture: &Fixture, run: &Run, random: &mut Random) {
    script::set_boot(Some(Boot(2)));
    let mut disk = Disk::default();
    for count in 0..=run.done.len() {
        let mut losses = vec![Lost::Everything, Lost::Nothing];
        losses.extend((0..2).map(|_| Lost::Some(Random::new(random.next()))));
        // Before something is brought to disk the most of it is on its way.
        if matches!(run.done.get(count), None | Some(Done::Sync { .. } | Done::SyncDirectory)) {
            losses.extend((0..disk.pending_names.len()).map(Lost::Name));
            for (index, file) in disk.files.iter().enumerate() {
                losses.extend((0..file.0.len() - 1).map(|change| Lost::Change(index, change)));
                losses.extend((0..file.0.len() - 1).map(|change| Lost::AllBut(index, change)));
            }
        }
        for (index, mut lost) in losses.into_iter().enumerate() {
            let left = disk.cut(&mut lost);
            let what = format!("after {count} of {} operations, loss {index}", run.done.len());
            run.check(fixture, count, left.path(), &what);
        }
        if let Some(done) = run.done.get(count) {
            disk.apply(done);
        }
    }
    script::set_boot(None);
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => changes(12 * PAGE).prop_map(Step::Change), 1 => Just(Step::Sync)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Prints the failing case and its seed; PROPTEST_RNG_SEED reruns it, PROPTEST_CASES runs more.
    #[test]
    fn what_was_synced_outlives_a_power_cut_at_any_instant(
        size in prop_oneof![Just(PAGE + 1), Just(10 * PAGE), 0..12 * PAGE],
        steps in proptest::collection::vec(step(), 1..12),
        end in prop_oneof![2 => Just(End::Kept), 1 => Just(End::Removed), 1 => Just(End::Renamed)],
        seed in any::<u64>(),
    ) {
        let fixture = Fixture::new(size);
        let run = recorded(&fixture, &steps, end);
        cut_everywhere(&fixture, &run, &mut Random::new(seed));
    }
}
