//! The store under the mount, and what a path of it is to be.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use templatefs::admit;
use templatefs::name::{self, Label};
use templatefs::rules::Kind;

use super::content::Content;
use crate::properties::scratch;

const TEMPLATES: [&str; 5] = ["t", "u", "dir/t", "empty", "50% done?"];

pub struct Tree {
    store: PathBuf,
    _directory: TempDir,
    contents: Vec<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub enum Found {
    Directory(String),
    /// The template with this number.
    Rom(usize),
    Private {
        template: usize,
        view: Option<Label>,
    },
}

impl Found {
    pub fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Directory(one), Self::Directory(other)) => one == other,
            (Self::Rom(one), Self::Rom(other)) => one == other,
            (Self::Private { view: Some(one), .. }, Self::Private { view: Some(other), .. }) => one == other,
            // Each walk has its own.
            _ => false,
        }
    }
}

impl Tree {
    pub fn new() -> Self {
        let directory = scratch();
        let store = directory.path().join("store");
        fs::create_dir_all(store.join("dir")).unwrap();
        let data =
            |tag: u8, length: usize| -> Vec<u8> { (0..length).map(|at| tag ^ (at / 7) as u8 | 1).collect() };
        // Whole pages and a part, holes between data, data of a template of the same name, and nothing.
        let mut holes = data(2, 4096);
        holes.resize(3 * 4096, 0);
        holes.extend(data(3, 5000));
        let contents = vec![data(1, 3 * 4096 + 100), holes, data(4, 4096), vec![], data(5, 1)];
        for (path, content) in TEMPLATES.iter().zip(&contents) {
            fs::write(store.join(path), content).unwrap();
        }
        fs::write(directory.path().join("secret"), [7; 31_337]).unwrap();
        symlink("../secret", store.join("escape")).unwrap();
        symlink("t", store.join("link")).unwrap();
        mknodat(CWD, store.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        Self { store, _directory: directory, contents }
    }

    pub fn path(&self) -> &Path {
        &self.store
    }

    pub fn content(&self, template: usize) -> Content {
        Content::new(&self.contents[template])
    }

    /// What a LOOKUP that was granted has found.
    pub fn find(&self, directory: &str, raw: &[u8]) -> Found {
        let request = name::parse(raw).unwrap_or_else(|error| panic!("{raw:?} was found: {error}"));
        let base = String::from_utf8(request.base.clone()).expect("a name of the store");
        let path = if directory.is_empty() { base } else { format!("{directory}/{base}") };
        if path == "dir" {
            assert!(request.query.is_none(), "a directory with a query");
            return Found::Directory(path);
        }
        let path = if path == "link" { "t" } else { path.as_str() };
        let template = TEMPLATES.iter().position(|known| *known == path);
        let template = template.unwrap_or_else(|| panic!("{path:?} was found, and is no template"));
        let kind = admit::check(&request).unwrap_or_else(|objection| panic!("{path} was found: {objection}"));
        match kind {
            Kind::Rom => Found::Rom(template),
            Kind::Private | Kind::PrivateIfWritable => {
                Found::Private { template, view: request.query.and_then(|query| query.view) }
            }
            Kind::Template => panic!("{path} was found for writing"),
        }
    }

    pub fn assert_unchanged(&self) {
        for (path, content) in TEMPLATES.iter().zip(&self.contents) {
            assert!(fs::read(self.path().join(path)).unwrap() == *content, "{path} has changed");
        }
    }
}
