//! What the fuzz targets (fuzz/) have found and kept, and as many bytes at random, hold their properties
//! with a stable compiler too. docs/TESTING.md tells how the corpus is made.

mod common;
mod properties;

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use common::limit::limit;
use common::random::Random;
use common::users::seed;

const TIME: Duration = Duration::from_secs(240);

/// Far more than any of it needs, and less than a length of 32 bits could ask for.
const MEMORY: u64 = 4 << 30;

type Property = fn(&[u8]);

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

/// Each file of the corpus, and then pieces of two of them put together, with bytes changed.
fn replay(target: &str, property: Property, changed: u64) {
    let _limit = limit(TIME);
    let bound = getrlimit(Resource::As).maximum;
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: bound }).unwrap();
    let files = corpus(target);
    assert!(files.len() > 20, "{target}: {} files", files.len());
    for (name, input) in &files {
        println!("{name}");
        property(input);
    }
    let mut random = Random::new(seed());
    for round in 0..changed {
        let (_, first) = &files[random.below(files.len() as u64) as usize];
        let (_, second) = &files[random.below(files.len() as u64) as usize];
        let mut input = first[..random.below(first.len() as u64 + 1) as usize].to_vec();
        input.extend(&second[random.below(second.len() as u64 + 1) as usize..]);
        for _ in 0..random.below(4) {
            if !input.is_empty() {
                let at = random.below(input.len() as u64) as usize;
                input[at] = random.next() as u8;
            }
        }
        println!("{target}: changed input {round}");
        property(&input);
    }
}

#[test]
fn whatever_a_path_an_option_or_a_policy_is_it_is_parsed_or_refused() {
    replay("names", properties::names::hold, 20_000);
}

#[test]
fn whatever_the_files_of_the_state_hold_they_are_read_or_refused() {
    replay("records", properties::records::hold, 3_000);
}

#[test]
fn whatever_the_kernel_asks_a_view_holds_what_was_written_to_it() {
    replay("requests", properties::requests::hold, 500);
}
