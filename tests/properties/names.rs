//! Whatever bytes a path, a mount option or a policy is: parsed or refused, and what is parsed is what was
//! written.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use templatefs::policy::{Names, Policy, Wish};
use templatefs::rules::{Backing, Kind, Rom};
use templatefs::{admit, explain, mount_options, name};

/// The table of the README, in its words and its order.
const TABLE: [(&str, Option<Kind>); 12] = [
    ("share=off,readonly=on,rom=auto", Some(Kind::Rom)),
    ("share=off,readonly=on,rom=on", Some(Kind::Rom)),
    ("share=off,readonly=on,rom=off", Some(Kind::Private)),
    ("share=off,readonly=off,rom=auto", Some(Kind::PrivateIfWritable)),
    ("share=off,readonly=off,rom=on", None),
    ("share=off,readonly=off,rom=off", Some(Kind::PrivateIfWritable)),
    ("share=on,readonly=on,rom=auto", Some(Kind::Rom)),
    ("share=on,readonly=on,rom=on", Some(Kind::Rom)),
    ("share=on,readonly=on,rom=off", None),
    ("share=on,readonly=off,rom=auto", Some(Kind::Template)),
    ("share=on,readonly=off,rom=on", None),
    ("share=on,readonly=off,rom=off", Some(Kind::Template)),
];

/// The same bytes as each of what comes from outside as text.
pub fn hold(input: &[u8]) {
    a_name_is_what_was_written(input);
    a_path_is_explained_as_it_is_served(input);
    options_are_taken_or_refused_in_one_line(input);
    if let Ok(text) = std::str::from_utf8(input) {
        a_policy_only_takes_away(text);
    }
}

fn a_name_is_what_was_written(raw: &[u8]) {
    let request = match name::parse(raw) {
        Ok(request) => request,
        Err(error) => return assert_one_line(&error.to_string()),
    };
    let base = request.base.as_slice();
    assert!(!matches!(base, b"" | b"." | b".."), "{base:?}");
    let written = &raw[..raw.iter().position(|b| *b == b'?').unwrap_or(raw.len())];
    for byte in [b'/', 0] {
        let count = |bytes: &[u8]| bytes.iter().filter(|b| **b == byte).count();
        assert_eq!(count(base), count(written), "an escape became {byte}");
    }
    assert_one_line(&name::printable(base));
    // Written out in full it is the same request.
    let mut canonical = name::escape(base).into_owned();
    if let Some(query) = &request.query {
        canonical.extend_from_slice(format!("?{}", query.properties).as_bytes());
        let more = [
            query.view.as_ref().map(|view| format!("&view={view}")),
            query.vm.as_ref().map(|vm| format!("&vm={vm}")),
            query.backing.map(|backing| format!("&backing={}", backing.as_str())),
        ];
        more.into_iter().flatten().for_each(|pair| canonical.extend_from_slice(pair.as_bytes()));
    }
    assert_eq!(name::parse(&canonical).as_ref(), Ok(&request));

    let properties = request.properties().to_string();
    let (_, expected) = TABLE.iter().find(|(row, _)| *row == properties).expect("a row of the table");
    let query = request.query.clone().unwrap_or_default();
    match admit::check(&request) {
        Ok(kind) => {
            assert_eq!(Some(kind), *expected, "{properties}");
            assert!(kind.is_private() || (query.view.is_none() && query.backing.is_none()), "{query:?}");
        }
        Err(objection) => {
            assert_one_line(&objection.to_string());
            let named = query.view.is_some();
            let objected = match expected {
                None => true,
                Some(kind) if kind.is_private() => named && query.backing == Some(Backing::Memory),
                Some(_) => named || query.backing.is_some(),
            };
            assert!(objected, "{properties}: {objection}");
        }
    }
    let rom = request.properties().rom;
    assert_eq!(
        request.properties().resolved_rom(),
        rom == Rom::On || (rom == Rom::Auto && properties.contains("readonly=on"))
    );
}

fn a_path_is_explained_as_it_is_served(raw: &[u8]) {
    let explained = explain::explain(raw);
    assert_one_line(&explained.path);
    assert_one_line(&explained.summary);
    assert_ne!(explained.kind.is_some(), explained.refusal.is_some());
    assert_eq!(explained.kind.is_some(), !explained.qemu.is_empty());
    let last = raw.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let is_one_name = last.len() == raw.len() && !raw.is_empty();
    if is_one_name {
        let served = name::parse(raw).ok().and_then(|request| admit::check(&request).ok());
        assert_eq!(explained.kind, served.map(Kind::as_str), "{}", explained.path);
    }
    let json = serde_json::to_vec(&explained).expect("JSON");
    serde_json::from_slice::<serde_json::Value>(&json).expect("JSON that can be read");
}

fn options_are_taken_or_refused_in_one_line(raw: &[u8]) {
    match mount_options::parse(OsStr::from_bytes(raw)) {
        Ok(options) => assert!(options.len() <= raw.split(|b| *b == b',').count()),
        Err(error) => assert_one_line(&error.to_string()),
    }
}

fn a_policy_only_takes_away(text: &str) {
    let nobody = |name: &str| (name == "alice").then_some(1000);
    let names = Names { user: &nobody, group: &nobody };
    let parse = |text: &str| Policy::parse(text, "p.toml", &names);
    let policy = match parse(text) {
        Ok(policy) => policy,
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("p.toml: "), "{error}");
            return assert_one_line(&error);
        }
    };
    // One rule more, which consents to nothing: nothing is open that was closed.
    let Ok(stricter) = parse(&format!("{text}\n[[rule]]\npath = \"**\"\nallow = []")) else { return };
    for path in ["a", "nvdimm/a.img", "team/x/y", "50% done?"] {
        let path = Path::new(path);
        for kind in [Kind::Rom, Kind::Private, Kind::PrivateIfWritable, Kind::Template] {
            for uid in [0, 5, 1000] {
                let groups = || vec![uid];
                let wish = Wish { path, kind, uid, groups: &groups, size: 4096 };
                if let Err(error) = policy.check(&wish) {
                    assert_one_line(&error.to_string());
                }
                assert!(stricter.check(&wish).is_err());
            }
        }
        assert_eq!(
            policy.max_size(path).map(|(size, _)| size),
            stricter.max_size(path).map(|(size, _)| size)
        );
        policy.max_views(path);
    }
}

/// What is said to people is on one line, and nothing in it moves their cursor.
fn assert_one_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
