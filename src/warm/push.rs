//! Gives the kernel the pages of a profile, from the template.

use std::io;
use std::thread;
use std::time::{Duration, SystemTime};

use super::instantiate::instantiate;
use super::{Kernel, pressure};
use crate::engine::{Engine, TemplateRef};
use crate::overlay::PAGE;
use crate::profile::{Profiles, runs};
use crate::store::{Template, system_time};

/// What goes at once, in pages: 1 MiB.
const RUN: u32 = 256;
/// A file that is written twice within a tick of its filesystem's clock shows no difference.
const SETTLED: Duration = Duration::from_millis(50);

pub enum Prepared {
    /// A node that holds so many pages of the profile.
    Warm {
        node: u64,
        pages: u64,
    },
    NothingLearned,
    MemoryIsShort,
}

pub fn prepare(
    engine: &Engine,
    profiles: &Profiles,
    kernel: &impl Kernel,
    template: &TemplateRef,
) -> io::Result<Prepared> {
    let pages = profiles.predicted(&template.identity);
    if pages.is_empty() {
        return Ok(Prepared::NothingLearned);
    }
    if pressure::is_short(engine.warm_bytes() + pages.len() * PAGE) {
        return Ok(Prepared::MemoryIsShort);
    }
    wait_until_settled(template.identity.mtime_ns);
    let file = engine.unpinned(template).map_err(io::Error::other)?;
    let node = instantiate(engine, template)?;
    let pushed = push(kernel, node, file.as_ref(), runs(&pages, RUN)).and_then(|pushed| {
        // What changed meanwhile is no template of this view.
        match file.unchanged()? {
            true => Ok(pushed),
            false => Err(io::Error::other("the template changed while its pages were read")),
        }
    });
    match pushed {
        Ok(pages) => Ok(Prepared::Warm { node, pages }),
        Err(error) => {
            kernel.drop_entry(node);
            Err(error)
        }
    }
}

/// Pushes what there is room for. The runs end with the template's last page, of which only the
/// part that is there goes.
fn push(
    kernel: &impl Kernel,
    node: u64,
    template: &dyn Template,
    runs: Vec<std::ops::Range<u64>>,
) -> io::Result<u64> {
    let size = template.identity().size;
    let mut buffer = vec![0; (u64::from(RUN) * PAGE) as usize];
    let mut pushed = 0;
    let mut unchecked = 0;
    for run in runs {
        let (start, end) = (run.start * PAGE, (run.end * PAGE).min(size));
        if start >= end {
            break;
        }
        unchecked += end - start;
        if unchecked >= pressure::STEP {
            unchecked = 0;
            if pressure::is_short(pressure::STEP) {
                break;
            }
        }
        let data = &mut buffer[..(end - start) as usize];
        template.read_at(data, start)?;
        kernel.store(node, start, data)?;
        pushed += run.end - run.start;
    }
    Ok(pushed)
}

fn wait_until_settled(mtime_ns: i128) {
    let seconds = i64::try_from(mtime_ns.div_euclid(1_000_000_000)).unwrap_or(0);
    let modified = system_time(seconds, mtime_ns.rem_euclid(1_000_000_000) as u32);
    if let Ok(age) = SystemTime::now().duration_since(modified) {
        thread::sleep(SETTLED.saturating_sub(age));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use std::path::Path;

    use super::*;
    use crate::store::{DirectoryStore, Found, Store};

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl Kernel for Recorder {
        fn store(&self, node: u64, offset: u64, data: &[u8]) -> io::Result<()> {
            assert_eq!(node, 70);
            self.0.lock().unwrap().push((offset, data.to_vec()));
            Ok(())
        }

        fn drop_entry(&self, _node: u64) {}

        fn drop_all_entries(&self) {}
    }

    #[test]
    fn nothing_goes_beyond_the_templates_end() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..3 * PAGE + 5).map(|at| (at / 7) as u8).collect();
        std::fs::write(dir.path().join("t"), &content).unwrap();
        let store = DirectoryStore::open(dir.path()).unwrap();
        let Found::Template(_, identity) = store.find(Path::new("t")).unwrap() else { panic!() };
        let template = store.pin(Path::new("t"), &identity).unwrap();
        let kernel = Recorder::default();
        assert_eq!(push(&kernel, 70, template.as_ref(), vec![1..2, 3..4, 4..9, 20..21]).unwrap(), 2);
        let page = |from: u64, to: u64| (from, content[from as usize..to as usize].to_vec());
        assert_eq!(*kernel.0.lock().unwrap(), [page(PAGE, 2 * PAGE), page(3 * PAGE, 3 * PAGE + 5)]);
    }
}
