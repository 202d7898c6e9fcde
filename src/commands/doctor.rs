//! `doctor`: what was found of the host, a mount or a command line, and what to do.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::DoctorArgs;
use crate::doctor::{Finding, Level, Report, host, line, look, mount, qemu};
use crate::error::{Error, Result};

pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let findings = match (&args.mountpoint, args.line.as_slice()) {
        (Some(mountpoint), _) => mount::findings(&look::mount(mountpoint)?),
        (None, []) => host::findings(&look::host()),
        (None, words) => of_line(words)?,
    };
    let report = Report::new(findings);
    match args.json {
        true => super::print_json(&report)?,
        false => super::print(text(&report).as_bytes())?,
    }
    Ok(if report.level == Level::Error { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn of_line(words: &[OsString]) -> Result<Vec<Finding>> {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let program = words.first().map(String::as_str).unwrap_or_default();
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    if !name.contains("qemu") && name != "kvm" {
        return Err(Error::Invalid(format!(
            "{program}: only QEMU's command lines are understood; write the program's name first, and see docs/VMMS.md \
             for other VMMs"
        )));
    }
    Ok(qemu::findings(&line::parse(&words), look::file))
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    let width = report.findings.iter().map(|finding| finding.about.chars().count()).max().unwrap_or(0);
    for Finding { level, about, what, why, advice, .. } in &report.findings {
        let _ = writeln!(out, "{:<7}  {about:<width$}  {what}", level.as_str());
        for (word, text) in [("why", why), ("do", advice)] {
            if let Some(text) = text {
                let _ = writeln!(out, "{:<7}  {word:>width$}  {text}", "");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_says_what_why_and_what_to_do() {
        let finding = Finding::new(Level::Warning, "a", "is b", "of c", "do d");
        let text = text(&Report::new(vec![Finding::ok("long", "good"), finding]));
        assert_eq!(
            text,
            "ok       long  good\nwarning  a     is b\n          why  of c\n           do  do d\n"
        );
    }
}
