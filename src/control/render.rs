//! What the control files hold.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::Control;
use super::paths::Entry;
use crate::access::Caller;
use crate::error::{Error, Result};
use crate::inspect::{Holding, Inspector, Report, ResidentPages, ViewReport};
use crate::overlay::State;

impl Control {
    pub(super) fn render(&self, caller: &Caller, entry: &Entry) -> Result<Vec<u8>> {
        match entry {
            Entry::Version => Ok(format!("{}\n", env!("CARGO_PKG_VERSION")).into_bytes()),
            Entry::ViewsJson => json(&self.report(caller)?),
            Entry::TemplatesJson => json(&self.inspector()?.templates(caller)?),
            Entry::Metrics => Ok(self.inspector()?.metrics(caller).into_bytes()),
            Entry::Status(id) => {
                let view = self.report(caller)?.views.into_iter().find(|view| view.id == *id);
                Ok(status(&view.ok_or_else(|| gone(id))?)?.into_bytes())
            }
            Entry::Pages(id) => {
                let runs = self.engine.page_runs(caller, id).ok_or_else(|| gone(id))?;
                let mut text = String::new();
                for (first, count, state) in runs {
                    let _ = writeln!(text, "{first} {count} {}", word(state));
                }
                Ok(text.into_bytes())
            }
            Entry::Resident(id) => {
                let pages = self.inspector()?.resident_pages(caller, id).ok_or_else(|| gone(id))?;
                Ok(resident(&pages).into_bytes())
            }
            Entry::Root | Entry::Views | Entry::View(_) => {
                Err(Error::io("a control directory", rustix::io::Errno::ISDIR))
            }
        }
    }

    fn report(&self, caller: &Caller) -> Result<Report> {
        Ok(self.inspector()?.report(caller))
    }

    fn inspector(&self) -> Result<&Inspector> {
        self.inspector
            .get()
            .ok_or_else(|| Error::io("the mount is not complete yet", rustix::io::Errno::AGAIN))
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

/// A process that could not be looked at is a line of its own: what it holds is missing here.
fn resident(pages: &ResidentPages) -> String {
    let mut text = String::new();
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
    text
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

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "unknown".into(),
        Value::String(text) => text.clone(),
        Value::Object(_) => fields(value),
        other => other.to_string(),
    }
}
