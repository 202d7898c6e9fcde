use super::*;
use crate::rules::Conflict;

#[test]
fn all_twelve_combinations() {
    let e1 = Conflict::WritableRomOnShared.qemu_message();
    let e2 = Conflict::RomOnWritable.qemu_message();
    let expected = [
        ("share=off,readonly=on,rom=auto", true, Ok("rom")),
        ("share=off,readonly=on,rom=on", true, Ok("rom")),
        ("share=off,readonly=on,rom=off", false, Ok("private")),
        ("share=off,readonly=off,rom=auto", false, Ok("private")),
        ("share=off,readonly=off,rom=on", true, Err(e2)),
        ("share=off,readonly=off,rom=off", false, Ok("private")),
        ("share=on,readonly=on,rom=auto", true, Ok("rom")),
        ("share=on,readonly=on,rom=on", true, Ok("rom")),
        ("share=on,readonly=on,rom=off", false, Err(e1)),
        ("share=on,readonly=off,rom=auto", false, Ok("template")),
        ("share=on,readonly=off,rom=on", true, Err(e2)),
        ("share=on,readonly=off,rom=off", false, Ok("template")),
    ];
    for (properties, (query, rom, outcome)) in Properties::all().zip(expected) {
        assert_eq!(properties.to_string(), query);
        let explanation = explain(format!("debian/12.ram?{query}").as_bytes());
        let json = serde_json::to_value(&explanation).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["path"], format!("debian/12.ram?{query}"));
        assert_eq!(json["template"], "debian/12.ram");
        assert_eq!(json["properties"]["share"], properties.share);
        assert_eq!(json["properties"]["readonly"], properties.readonly);
        assert_eq!(json["properties"]["rom"], rom, "{query}");
        assert_eq!(json["properties"]["rom_given"], properties.rom.as_str());
        match outcome {
            Ok(kind) => {
                assert_eq!(json["kind"], kind);
                assert!(json["refusal"].is_null());
                assert!(!explanation.qemu.is_empty());
                let option = json["qemu"][0]["args"][1].as_str().unwrap();
                let path = format!("mem-path=MOUNT/debian/12.ram?{},", query.replace(',', ",,"));
                assert!(option.contains(&path), "{option}");
            }
            Err(message) => {
                assert!(json["kind"].is_null() && explanation.qemu.is_empty());
                assert_eq!(json["refusal"]["errno"], "EINVAL");
                assert_eq!(json["refusal"]["message"], message);
                let advice = explanation.refusal.unwrap().advice;
                assert_eq!(explanation.summary, format!("debian/12.ram?{query}: {message}: {advice}"));
            }
        }
    }
}

/// `resolve` and the daemon's log must not drift apart.
#[test]
fn a_refusal_is_the_daemons_own_sentence() {
    for raw in ["a?share=on&rom=off", "a?readonly=off&rom=on", "a?view=x", "a?share=on&readonly=off&view=x"] {
        let request = name::parse(raw.as_bytes()).unwrap();
        let logged = admit::admit(&request, || raw.to_owned()).unwrap_err();
        assert_eq!(explain(raw.as_bytes()).summary, logged.to_string());
    }
    for raw in ["a?", "a?rom", "a?x=y", "a?rom=off,rom=on", "a?rom=maybe", "%41", "?rom=off", ""] {
        let source = name::parse(raw.as_bytes()).unwrap_err();
        let logged = admit::misnamed(source, raw.to_owned());
        let explanation = explain(raw.as_bytes());
        assert_eq!(explanation.summary, logged.to_string());
        let refusal = explanation.refusal.expect(raw);
        assert_eq!((refusal.errno, refusal.advice.is_empty()), ("EINVAL", false), "{raw}");
    }
}

#[test]
fn view_and_vm_are_told() {
    let explanation = explain(b"a?rom=off&view=web-1&vm=shop");
    assert_eq!((explanation.view.as_deref(), explanation.vm.as_deref()), (Some("web-1"), Some("shop")));
    assert!(explanation.summary.contains("named web-1"), "{}", explanation.summary);
    assert!(explanation.summary.ends_with("accounted to the VM shop."), "{}", explanation.summary);
    let refusal = explain(b"a?view=web-1").refusal.unwrap();
    assert!(refusal.message.contains("view=web-1 names a private view"), "{}", refusal.message);
    assert!(refusal.advice.contains("add rom=off"), "{}", refusal.advice);
}

#[test]
fn directories_are_plain_and_may_hold_escapes() {
    assert_eq!(explain(b"a%3Fb/50%25/c%3f?rom=off").template.unwrap(), "a?b/50%/c?");
    assert_eq!(explain(b"/mnt//t/../x").template.unwrap(), "/mnt//t/../x");
    assert_eq!(explain(b"a%41/x").refusal.unwrap().errno, "EINVAL");
    assert_eq!(explain(b"a?rom=off/x").refusal.unwrap().errno, "ENOTDIR");
    assert_eq!(explain(b"a/").refusal.unwrap().errno, "ENOTDIR");
    assert_eq!(explain(b"/").refusal.unwrap().errno, "ENOTDIR");
    assert_eq!(explain(b"a/..").refusal.unwrap().errno, "EINVAL");
}

#[test]
fn a_path_below_a_mountpoint_is_its_own_mem_path() {
    let line = &explain(b"/mnt/t/a?rom=off").qemu[0];
    assert!(line.args[1].contains("mem-path=/mnt/t/a?rom=off,share="), "{line:?}");
}

#[test]
fn bytes_that_are_no_text_are_shown_escaped_and_said_to_be() {
    let explanation = explain(b"a\xff\n?rom=off");
    assert_eq!(explanation.template.unwrap(), "a\\xff\\n");
    assert_eq!(explanation.notes.len(), 1);
    assert!(serde_json::to_string(&explain(b"\xff\x00?")).is_ok());
}

#[test]
fn what_a_path_needs_of_caller_and_mount_is_noted() {
    assert!(explain(b"a?share=on&readonly=off").notes[0].contains("--allow-template-writes"));
    assert!(explain(b"a?readonly=off").notes[0].contains("may write the template"));
}
