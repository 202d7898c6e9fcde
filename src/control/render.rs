//! What the control files hold.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;
use serde_json::Value;

use super::Control;
use super::paths::Entry;
use crate::access::Caller;
use crate::engine::PageRun;
use crate::error::{Error, Result};
use crate::inspect::{Holding, ResidentPages, SCHEMA, ViewReport};
use crate::overlay::State;
use crate::profile::ProfileList;

impl Control {
    pub(super) fn render(&self, caller: &Caller, entry: &Entry) -> Result<Vec<u8>> {
        match entry {
            Entry::Version => Ok(format!("{}\n", env!("CARGO_PKG_VERSION")).into_bytes()),
            Entry::State => {
                let views = self.engine.views().directory();
                let mut path = views.parent().unwrap_or(views).as_os_str().as_bytes().to_vec();
                path.push(b'\n');
                Ok(path)
            }
            Entry::ViewsJson => json(&self.inspector().report(caller)),
            Entry::TemplatesJson => json(&self.inspector().templates(caller)?),
            Entry::Metrics => Ok(self.inspector().metrics(caller).into_bytes()),
            Entry::AllPages => {
                let mut text = String::new();
                for (id, runs, resident) in self.inspector().all_pages(caller) {
                    let _ = writeln!(text, "view {id}");
                    write_owners(&mut text, &runs);
                    write_resident(&mut text, &resident);
                }
                Ok(text.into_bytes())
            }
            Entry::Status(id) => {
                let view = self.inspector().view(caller, id);
                Ok(status(&view.ok_or_else(|| gone(id))?)?.into_bytes())
            }
            Entry::Pages(id) => {
                let view = self.engine.snapshot_of(caller, id);
                let runs = view.and_then(|view| self.engine.page_runs(&view)).ok_or_else(|| gone(id))?;
                let mut text = String::new();
                write_owners(&mut text, &runs);
                Ok(text.into_bytes())
            }
            Entry::Resident(id) => {
                let pages = self.inspector().resident_pages(caller, id).ok_or_else(|| gone(id))?;
                let mut text = String::new();
                write_resident(&mut text, &pages);
                Ok(text.into_bytes())
            }
            Entry::ProfilesJson => json(&ProfileList {
                schema: SCHEMA,
                profiles: self.profiles.list(|identity| self.engine.ready(identity)),
            }),
            Entry::Profile(key) => {
                self.profiles.export(key).ok_or_else(|| Error::NotFound(format!("profile {key}: it is gone")))
            }
            Entry::Import => Err(Error::Denied("profiles/import: it can only be written".into())),
            Entry::Root | Entry::Views | Entry::View(_) | Entry::Profiles | Entry::Warm => {
                Err(Error::io("a control directory", rustix::io::Errno::ISDIR))
            }
        }
    }
}

fn gone(id: &str) -> Error {
    Error::NotFound(format!("view {id}: it is gone"))
}

fn word(state: State) -> &'static str {
    match state {
        State::Template => "template",
        State::Private => "private",
        State::Zero => "zero",
    }
}

fn write_owners(text: &mut String, runs: &[PageRun]) {
    for (first, count, state) in runs {
        let _ = writeln!(text, "{first} {count} {}", word(*state));
    }
}

/// A process that could not be looked at is a line of its own: what it holds is missing here.
fn write_resident(text: &mut String, pages: &ResidentPages) {
    for (run, holding) in &pages.runs {
        let word = match holding {
            Holding::Mapped => "mapped",
            Holding::Copied => "copied",
            Holding::Swapped => "swapped",
        };
        let _ = writeln!(text, "{} {} {word}", run.start, run.end - run.start);
    }
    for (pid, comm) in &pages.unknown {
        let _ = writeln!(text, "unknown {pid} {comm}");
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec(value).map_err(|e| Error::io("JSON", std::io::Error::from(e)))?;
    text.push(b'\n');
    Ok(text)
}

/// The fields of the JSON, a line each; what is not known is `unknown`, and each process is a line
/// of its own.
fn status(view: &ViewReport) -> Result<String> {
    let value = serde_json::to_value(view).map_err(|e| Error::io("status", std::io::Error::from(e)))?;
    let mut text = String::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::Array(items) => {
                for item in items {
                    let _ = writeln!(text, "{}: {}", key.trim_end_matches("es"), fields(item));
                }
            }
            other => {
                let _ = writeln!(text, "{key}: {}", plain(other));
            }
        }
    }
    Ok(text)
}

fn fields(item: &Value) -> String {
    let pairs = item.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", plain(value)));
    pairs.collect::<Vec<_>>().join(" ")
}

pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "unknown".into(),
        Value::String(text) => text.clone(),
        Value::Object(_) => fields(value),
        other => other.to_string(),
    }
}
