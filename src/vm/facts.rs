//! What a running QEMU says of itself.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::manifest::{Machine, MemoryBackend};
use crate::qmp::Qmp;

pub fn machine(qmp: &mut Qmp, pid: Option<u32>) -> Result<Machine> {
    let version = qmp.execute("query-version", json!({}))?["qemu"].take();
    let arch = text(&qmp.execute("query-target", json!({}))?["arch"]);
    let kind = get(qmp, "/machine", "type")?;
    let memory = qmp.execute("query-memory-size-summary", json!({}))?;
    let cpus = qmp.execute("query-cpus-fast", json!({}))?.as_array().cloned().unwrap_or_default();
    let cpu = cpus.first().map(|cpu| get(qmp, &text(&cpu["qom-path"]), "type")).transpose()?;
    let cpu = cpu.and_then(|kind| Some(kind.as_str()?.strip_suffix(&format!("-{arch}-cpu"))?.to_owned()));
    let kvm = qmp.execute("query-kvm", json!({}))?["enabled"] == true;
    Ok(Machine {
        vmm: "qemu".into(),
        version: ["major", "minor", "micro"].map(|part| version[part].to_string()).join("."),
        kind: text(&kind).trim_end_matches("-machine").to_owned(),
        memory_bytes: memory["base-memory"].as_u64().unwrap_or_default(),
        accelerator: if kvm { "kvm" } else { "tcg" }.into(),
        cpus: cpus.len() as u32,
        cpu,
        memory: backends(qmp)?,
        command_line: pid.and_then(command_line),
        arch,
    })
}

/// The machine's own one first.
fn backends(qmp: &mut Qmp) -> Result<Vec<MemoryBackend>> {
    let own = qmp.execute("qom-get", json!({ "path": "/machine", "property": "memory-backend" })).ok();
    let own = own.as_ref().map(text).unwrap_or_default();
    let mut found = Vec::new();
    let all = qmp.execute("query-memdev", json!({}))?;
    for backend in all.as_array().into_iter().flatten() {
        let id = text(&backend["id"]);
        let path = format!("/objects/{id}");
        let of = |property: &str, qmp: &mut Qmp| get(qmp, &path, property).ok();
        let is = |key: &str| backend[key] == true;
        found.push(MemoryBackend {
            part: None,
            size_bytes: backend["size"].as_u64().ok_or_else(|| unknown("the size of a memory backend"))?,
            share: is("share"),
            mem_path: of("mem-path", qmp).map(|value| text(&value)),
            readonly: of("readonly", qmp).is_some_and(|value| value == true),
            merge: is("merge"),
            dump: is("dump"),
            prealloc: is("prealloc"),
            id,
        });
    }
    found.sort_by_key(|backend| own != format!("/objects/{}", backend.id));
    Ok(found)
}

fn get(qmp: &mut Qmp, path: &str, property: &str) -> Result<Value> {
    qmp.execute("qom-get", json!({ "path": path, "property": property }))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn unknown(what: &str) -> Error {
    Error::Unsupported(format!("QEMU does not tell {what}: use a newer one"))
}

fn command_line(pid: u32) -> Option<Vec<String>> {
    arguments(&std::fs::read(format!("/proc/{pid}/cmdline")).ok()?)
}

/// None where one may hold a secret: everybody may read a manifest.
fn arguments(bytes: &[u8]) -> Option<Vec<String>> {
    let words = bytes.strip_suffix(b"\0")?.split(|byte| *byte == 0);
    let words = words.map(|word| String::from_utf8(word.to_vec()).ok()).collect::<Option<Vec<_>>>()?;
    let may_hold_one =
        |word: &String| ["secret", "password"].iter().any(|what| word.to_lowercase().contains(what));
    (!words.iter().any(may_hold_one)).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_with_a_secret_is_left_out() {
        let words = |line: &[u8]| arguments(line).map(|words| words.join(" "));
        assert_eq!(words(b"qemu\0-m\0\0"), Some("qemu -m ".to_owned()));
        for line in
            [&b"qemu\0-object\0secret,id=s,data=1\0"[..], b"qemu\0-spice\0Password=1\0", b"\xff\0", b""]
        {
            assert_eq!(words(line), None, "{line:?}");
        }
    }
}
