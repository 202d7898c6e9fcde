//! What a run measured, and the documents that are made of it. Pure: `tests/benchmark.rs` tests it.

pub mod figures;
pub mod markdown;
pub mod plots;
pub mod stats;
pub mod svg;
pub mod targets;

use serde::{Deserialize, Serialize};

use stats::Summary;

/// All that was measured; kept as JSON, so that the documents can be made again from it.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Run {
    pub machine: Machine,
    pub plan: Vec<String>,
    pub subjects: Vec<Subject>,
    pub series: Vec<Series>,
    pub refusals: Vec<Refusal>,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub memory_bytes: u64,
    pub kernel: String,
    /// Name and version of each program.
    pub programs: Vec<(String, String)>,
    /// One-minute load averages, one a round: others may have used the machine.
    pub load: Vec<f64>,
    pub seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The kernel alone: mappings of the template, and full copies.
    Native,
    /// A clone made by a kernel filesystem.
    Kernel,
    /// A filesystem in user space that is not this one.
    FusePeer,
    Templatefs,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subject {
    pub name: String,
    pub role: Role,
    pub what: String,
}

/// The samples of one figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Series {
    pub figure: String,
    /// Of which template, or at which size or number.
    pub at: String,
    pub subject: String,
    pub values: Vec<f64>,
}

/// What could not be measured, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub subject: String,
    pub workload: String,
    pub error: String,
}

impl Run {
    pub fn add(&mut self, figure: &str, at: &str, subject: &str, value: f64) {
        let known = self.series.iter_mut().find(|s| s.figure == figure && s.at == at && s.subject == subject);
        match known {
            Some(series) => series.values.push(value),
            None => self.series.push(Series {
                figure: figure.to_owned(),
                at: at.to_owned(),
                subject: subject.to_owned(),
                values: vec![value],
            }),
        }
    }

    pub fn refuse(&mut self, subject: &str, workload: &str, error: &str) {
        let refusal = Refusal {
            subject: subject.to_owned(),
            workload: workload.to_owned(),
            error: error.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        if !self.refusals.contains(&refusal) {
            self.refusals.push(refusal);
        }
    }

    pub fn summary(&self, figure: &str, at: &str, subject: &str) -> Option<Summary> {
        let found = self.series.iter().find(|s| s.figure == figure && s.at == at && s.subject == subject)?;
        Summary::of(&found.values)
    }

    pub fn median(&self, figure: &str, at: &str, subject: &str) -> Option<f64> {
        self.summary(figure, at, subject).map(|summary| summary.median)
    }

    /// The circumstances in which a figure was measured, as they came.
    pub fn circumstances(&self, figure: &str) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for series in self.series.iter().filter(|series| series.figure == figure) {
            if !found.contains(&series.at.as_str()) {
                found.push(&series.at);
            }
        }
        found
    }

    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &str> {
        self.subjects.iter().filter(move |subject| subject.role == role).map(|subject| &*subject.name)
    }
}
