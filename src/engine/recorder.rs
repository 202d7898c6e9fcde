//! Keeps the ledger in a journal, where a successor finds it.

use std::collections::{HashSet, VecDeque};
use std::path::Path;

use parking_lot::Mutex;

use super::ledger::{Entry, Ledger, RESENT};
use crate::error::{Error, Result};
use crate::journal::Journal;

/// One without a journal records nothing: this mount has no successor.
#[derive(Default)]
pub struct Recorder(Option<Recording>);

struct Recording {
    /// Held while its file is written, which may take any time.
    writing: Mutex<Writing>,
    /// What is on record; never held while a file is waited for.
    ledger: Mutex<Ledger>,
}

struct Writing {
    journal: Journal,
    /// What has happened and could not be written yet, in its order. It only ends what is on record, so
    /// that it cannot grow beyond that.
    owed: VecDeque<Vec<u8>>,
    /// How long the journal was when it held nothing superfluous.
    compact: u64,
}

/// A journal is rewritten when it is several times as long as it need be, and at least this long.
const WORTH_REWRITING: u64 = 1 << 20;

impl Recorder {
    /// Starts the records of a new mount.
    pub fn create(path: &Path) -> Result<Self> {
        let journal = Journal::create(path)?;
        Ok(Self::new(journal, Ledger::default()))
    }

    /// Goes on with the records of a mount whose process died, and of which `known` have taken over
    /// already at least. It may be [behind](Self::is_behind) then.
    pub fn take_over(path: &Path, known: u64) -> Result<Self> {
        let recorder = Self::open(path)?;
        let before = recorder.read(|ledger| ledger.takeovers).max(known);
        recorder.record_past(Entry::Takeovers { count: before.saturating_add(1) });
        Ok(recorder)
    }

    /// What cannot be read is reported and left out.
    fn open(path: &Path) -> Result<Self> {
        let (journal, replay) = Journal::open(path)?;
        let mut ledger = Ledger::default();
        let report = |what: String| log::error!("{}: {what}; what it told is lost", path.display());
        replay.damaged.iter().for_each(|at| report(format!("the journal is damaged at byte {at}")));
        for body in &replay.bodies {
            match serde_json::from_slice(body) {
                Ok(entry) => ledger.apply(entry),
                Err(e) => report(format!("the journal holds an entry of another kind ({e})")),
            }
        }
        Ok(Self::new(journal, ledger))
    }

    /// What is on record, without a change to it. An entry that this version does not know is an
    /// error: whoever wrote it needs it.
    pub fn peek(path: &Path) -> Result<Ledger> {
        let mut ledger = Ledger::default();
        for body in Journal::peek(path)?.bodies {
            let entry = serde_json::from_slice(&body).map_err(|e| {
                Error::Stale(format!("{}: the journal holds an entry of another kind ({e})", path.display()))
            })?;
            ledger.apply(entry);
        }
        Ok(ledger)
    }

    fn new(journal: Journal, ledger: Ledger) -> Self {
        let compact = journal.len();
        let writing = Mutex::new(Writing { journal, owed: VecDeque::new(), compact });
        Self(Some(Recording { writing, ledger: Mutex::new(ledger) }))
    }

    /// Once this returns the entry outlives this process.
    pub fn record(&self, entry: Entry) -> Result<()> {
        let Some(recording) = &self.0 else { return Ok(()) };
        let body = encoded(&entry);
        let mut writing = recording.writing.lock();
        writing.catch_up()?;
        writing.journal.append(&body)?;
        recording.ledger.lock().apply(entry);
        writing.compact_if_worth_it(&recording.ledger);
        Ok(())
    }

    /// For what has happened already. What cannot be written now is written before anything else; a
    /// successor before that knows too much, which costs memory only.
    pub fn record_past(&self, entry: Entry) {
        let Some(recording) = &self.0 else { return };
        let body = encoded(&entry);
        let mut writing = recording.writing.lock();
        recording.ledger.lock().apply(entry);
        writing.owed.push_back(body);
        match writing.catch_up() {
            Ok(()) => writing.compact_if_worth_it(&recording.ledger),
            Err(error) => log::warn!("{error}"),
        }
    }

    /// Is there something that happened and could not be written?
    pub fn is_behind(&self) -> bool {
        self.0.as_ref().is_some_and(|recording| !recording.writing.lock().owed.is_empty())
    }

    pub fn catch_up(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |recording| recording.writing.lock().catch_up())
    }

    /// Was this request done by a daemon that died before it could answer?
    pub fn has_discarded(&self, request: u64) -> bool {
        request & RESENT != 0 && self.read(|ledger| ledger.discarded.contains(&(request & !RESENT)))
    }

    pub fn read<T: Default>(&self, what: impl FnOnce(&Ledger) -> T) -> T {
        self.0.as_ref().map_or_else(T::default, |recording| what(&recording.ledger.lock()))
    }

    /// Nodes whose views are open.
    pub fn open_nodes(&self) -> HashSet<u64> {
        self.read(|ledger| ledger.open.values().map(|file| file.node).collect())
    }
}

impl Writing {
    fn catch_up(&mut self) -> Result<()> {
        while let Some(body) = self.owed.front() {
            self.journal.append(body)?;
            self.owed.pop_front();
        }
        Ok(())
    }

    fn compact_if_worth_it(&mut self, ledger: &Mutex<Ledger>) {
        if self.journal.len() < WORTH_REWRITING.max(4 * self.compact) {
            return;
        }
        let bodies: Vec<Vec<u8>> = ledger.lock().entries().iter().map(encoded).collect();
        match self.journal.rewrite(&bodies) {
            Ok(()) => self.compact = self.journal.len(),
            // It goes on growing, and is tried again later.
            Err(error) => {
                log::warn!("{error}");
                self.compact = self.journal.len();
            }
        }
    }
}

fn encoded(entry: &Entry) -> Vec<u8> {
    // Numbers, bytes and labels: there is nothing in an entry that JSON could refuse.
    serde_json::to_vec(entry).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_grows_is_rewritten_and_says_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let recorder = Recorder::create(&path).unwrap();
        recorder.record(Entry::Directory { node: 64, path: "kept".into() }).unwrap();
        let mut longest = 0;
        for node in 65..13_000 {
            recorder.record(Entry::Directory { node, path: "gone".into() }).unwrap();
            recorder.record(Entry::Forgotten { node }).unwrap();
            longest = longest.max(std::fs::metadata(&path).unwrap().len());
        }
        assert!(longest < 2 * WORTH_REWRITING, "{longest}");
        drop(recorder);
        let again = Recorder::open(&path).unwrap();
        assert_eq!(again.read(|ledger| ledger.directories.len()), 1);
    }

    #[test]
    fn what_could_not_be_written_is_written_before_anything_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        Recorder::create(&path).unwrap().record(Entry::Directory { node: 64, path: "a".into() }).unwrap();
        let recorder = Recorder::open(&path).unwrap();
        // What is no regular file is not written.
        let aside = directory.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();
        recorder.record_past(Entry::Takeovers { count: 7 });
        recorder.record_past(Entry::Forgotten { node: 64 });
        assert!(recorder.is_behind() && recorder.catch_up().is_err());
        let again = || recorder.record(Entry::Directory { node: 64, path: "b".into() });
        assert!(again().is_err());
        assert_eq!(recorder.read(|ledger| (ledger.takeovers, ledger.directories.len())), (7, 0));
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        again().unwrap();
        assert!(!recorder.is_behind());
        let ledger = Recorder::peek(&path).unwrap();
        assert_eq!((ledger.takeovers, ledger.directories[&64].as_path()), (7, Path::new("b")));
    }

    #[test]
    fn a_request_counts_as_done_only_when_it_is_sent_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        Recorder::create(&path).unwrap().record(Entry::Discarded { request: 6 }).unwrap();
        let again = Recorder::open(&path).unwrap();
        assert!(again.has_discarded(6 | RESENT));
        assert!(!again.has_discarded(6) && !again.has_discarded(8 | RESENT));
    }
}
