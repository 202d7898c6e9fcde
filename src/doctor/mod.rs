//! What is wrong with a host, with a mount, or with a VMM's command line, before a guest finds out.
//!
//! Each has two halves: facts that are gathered (`look`), and rules that make findings of them, which are pure.

mod backend;
pub mod host;
pub mod line;
pub mod look;
pub mod mount;
mod open;
pub mod options;
pub mod qemu;

use serde::Serialize;

/// Version of the JSON form; raised when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Worth knowing; nothing is lost by it.
    Note,
    /// Slower, dearer or more fragile than it need be.
    Warning,
    /// It does not work, or something is lost.
    Error,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// What was looked at.
    pub about: String,
    pub what: String,
    /// None where all is well.
    pub why: Option<String>,
    /// What to do; None where all is well.
    pub advice: Option<String>,
    /// What QEMU prints before it ends, to the letter, but for its own name in front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

impl Finding {
    pub fn ok(about: &str, what: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            about: about.into(),
            what: what.into(),
            why: None,
            advice: None,
            refusal: None,
        }
    }

    pub fn new(
        level: Level,
        about: &str,
        what: impl Into<String>,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let (why, advice) = (Some(why.into()), Some(advice.into()));
        Self { level, about: about.into(), what: what.into(), why, advice, refusal: None }
    }

    /// An error that QEMU itself finds.
    pub fn refused(
        about: &str,
        message: impl Into<String>,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let message = message.into();
        let what = format!("QEMU refuses: {}", message.lines().next().unwrap_or_default());
        Self { refusal: Some(message), ..Self::new(Level::Error, about, what, why, advice) }
    }
}

/// `templatefs doctor --json`.
#[derive(Debug, Serialize)]
pub struct Report {
    pub schema: u32,
    /// The worst of them.
    pub level: Level,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn new(findings: Vec<Finding>) -> Self {
        let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
        Self { schema: SCHEMA, level, findings }
    }
}
