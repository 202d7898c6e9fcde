//! `templatefs resolve`: the rules, asked without a mount.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use super::shell::quoted;
use crate::cli::ResolveArgs;
use crate::error::Result;
use crate::explain::{Explanation, explain};

/// The explanation goes to stdout in either case; a refused path is exit code 1.
pub fn run(args: &ResolveArgs) -> Result<ExitCode> {
    let explanation = explain(args.path.as_bytes());
    if args.json {
        super::print_json(&explanation)?;
    } else {
        super::print(text(&explanation).as_bytes())?;
    }
    Ok(if explanation.refusal.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    let mut row = |key: &str, value: &str| {
        let _ = writeln!(out, "{key:<10}  {value}");
    };
    row("path", &explanation.path);
    if let Some(template) = &explanation.template {
        row("template", template);
    }
    if let Some(given) = explanation.properties {
        let switch = |on| if on { "on" } else { "off" };
        let (share, readonly, rom) = (switch(given.share), switch(given.readonly), switch(given.rom));
        let auto = if given.rom_given == crate::rules::Rom::Auto { " (auto)" } else { "" };
        row("properties", &format!("share={share} readonly={readonly} rom={rom}{auto}"));
    }
    for (key, value) in [("view", &explanation.view), ("vm", &explanation.vm)] {
        if let Some(value) = value {
            row(key, value);
        }
    }
    if let Some(backing) = explanation.backing {
        row("backing", backing);
    }
    if let Some(refusal) = &explanation.refusal {
        row("refused", &format!("{}: {}", refusal.errno, refusal.message));
        row("instead", &refusal.advice);
    } else {
        row("kind", explanation.kind.unwrap_or("-"));
        row("it is", &explanation.summary);
    }
    for note in &explanation.notes {
        row("note", note);
    }
    for line in &explanation.qemu {
        let words: Vec<_> = line.args.iter().map(|word| quoted(word)).collect();
        let _ = write!(out, "\n# {}\n{}\n", line.when, words.join(" "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_qemu_can_be_pasted_into_a_shell() {
        let text = text(&explain(b"a?rom=off&vm=x"));
        let object = "-object 'memory-backend-file,id=ram0,size=SIZE,mem-path=MOUNT/a?rom=off&vm=x,\
                      share=off,readonly=on,rom=off'";
        assert!(text.contains(object), "{text}");
    }

    #[test]
    fn a_refusal_says_what_to_write_instead() {
        let text = text(&explain(b"a?share=on&rom=off"));
        assert!(text.contains("properties  share=on readonly=on rom=off\n"), "{text}");
        assert!(text.contains("refused     EINVAL: property 'rom' = 'off' is incompatible"), "{text}");
        assert!(text.contains("instead     leave out share") && !text.contains("-object"), "{text}");
    }
}
