//! Looking at a view is work for what is mapped in, not for what its template is long: the daemon's system
//! calls are counted, since times tell little on a busy machine.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::files::{open_ro, open_rw};
use common::limit::limit;
use common::maps::Mapping;
use common::mounted::{Mounted, Options};
use common::sparse::sparse_template;
use common::views::views;
use rustix::process::{Pid, Signal, kill_process};

const PAGE: usize = 4096;
const SIZES: [u64; 2] = [1 << 30, 1 << 40];

/// strace of the daemon and of what it starts.
struct Traced {
    strace: Child,
    log: PathBuf,
}

impl Traced {
    /// None, and the reason printed, where that cannot be done.
    fn start(daemon: Pid, log: PathBuf) -> Option<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "strace", "-f", "-e", "trace=ioctl,lseek,pread64", "-o"]);
        command.arg(&log).arg("-p").arg(daemon.as_raw_pid().to_string());
        let mut strace = command.stderr(Stdio::piped()).spawn().expect("setpriv (util-linux)");
        let mut said = BufReader::new(strace.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        if !line.contains("attached") {
            println!("skipped: strace cannot trace the daemon: {line}");
            let _ = strace.wait();
            return None;
        }
        // It says more, and must not wait for a reader.
        std::thread::spawn(move || io::copy(&mut said, &mut io::sink()));
        Some(Self { strace, log })
    }

    /// How often each kind of call was made.
    fn counts(mut self) -> BTreeMap<&'static str, usize> {
        kill_process(Pid::from_child(&self.strace), Signal::INT).unwrap();
        self.strace.wait().unwrap();
        let log = fs::read_to_string(&self.log).unwrap();
        // PAGEMAP_SCAN as an old strace writes it and as a new one does.
        let kinds: [(&str, &[&str]); 3] = [
            ("scan", &["0x66, 0x10, 0x60", "PAGEMAP_SCAN"]),
            ("seek", &["SEEK_DATA", "SEEK_HOLE"]),
            ("read", &["pread64("]),
        ];
        let count = |words: &[&str]| {
            // A call that another thread's interrupted is written in two lines.
            let calls = log.lines().filter(|line| !line.contains(" resumed>"));
            calls.filter(|line| words.iter().any(|word| line.contains(word))).count()
        };
        kinds.into_iter().map(|(kind, words)| (kind, count(words))).collect()
    }
}

/// Every second page of `pages`.
fn store(mapping: &Mapping, pages: usize) {
    for page in 0..pages {
        mapping.write(2 * page * PAGE, b"changed");
    }
    mapping.write(mapping.len() - PAGE, b"changed");
}

/// Of a view: private, zero, copied, and the template's data.
type Figures = [u64; 4];
/// By kind.
type Calls = BTreeMap<&'static str, usize>;

/// Figures and calls for one look at two views of a template that is so long, of which `pages` are stored to:
/// one that QEMU would copy, and one that is shared.
fn look(size: u64, pages: usize) -> ([Figures; 2], Option<Calls>) {
    let mounted = Mounted::start(Options::default());
    let data = vec![1; 8 * PAGE];
    sparse_template(
        &mounted,
        "t",
        size,
        &[(0, &data), (1 << 29, &data), (size - PAGE as u64, &data[..PAGE])],
    );
    let copied = open_ro(mounted.path("t?rom=off")).unwrap();
    let copied = Mapping::private(&copied).unwrap();
    store(&copied, pages);
    let shared = open_rw(mounted.path("t?rom=off&view=shared")).unwrap();
    let shared = Mapping::shared(&shared).unwrap();
    store(&shared, pages);
    shared.sync_all().unwrap();
    let traced = Traced::start(mounted.serving(), mounted.state.parent().unwrap().join("strace"));
    let views = views(&mounted);
    let figures = ["template", "overlay"].map(|backing| {
        let view = views.iter().find(|view| view.backing == backing).expect(backing);
        let (copied, data) = (view.cow_anon_bytes.unwrap(), view.data_bytes.unwrap());
        [view.private_bytes, view.zero_bytes, copied, data]
    });
    (figures, traced.map(Traced::counts))
}

#[test]
fn a_sparse_terabyte_is_looked_at_with_the_same_work_as_a_gigabyte() {
    let _limit = limit(Duration::from_secs(120));
    let mut work = Vec::new();
    for pages in [300, 3000] {
        let [gigabyte, terabyte] = SIZES.map(|size| look(size, pages));
        println!("{pages} pages: {gigabyte:?}, {terabyte:?}");
        let own = ((pages + 1) * PAGE) as u64;
        let data = (17 * PAGE) as u64;
        assert_eq!(gigabyte.0, [[0, 0, own, data], [own, 0, 0, data]]);
        assert_eq!(gigabyte, terabyte);
        work.extend(gigabyte.1);
    }
    if let [few, many] = &work[..] {
        // 256 runs of pages a call, of two views.
        assert!(few["scan"] >= 2 * 300 / 256 && many["scan"] >= 5 * few["scan"], "{work:?}");
    }
}
