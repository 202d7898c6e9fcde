use super::*;

fn manifest(parts: &[&str]) -> Manifest {
    let part = |file: &&str| Part {
        file: (*file).to_owned(),
        role: Role::Ram,
        size_bytes: 4096,
        data_bytes: 0,
        sha256: "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7".into(),
    };
    Manifest {
        schema: SCHEMA,
        name: "debian/12".into(),
        created: 1_700_000_000,
        made_by: "templatefs 0.1.0".into(),
        notes: None,
        origin: Origin::Import { format: "raw".into() },
        parts: parts.iter().map(part).collect(),
        machine: None,
        lineage: None,
        safe: vec![Fact::NoSshKeys],
    }
}

#[test]
fn what_is_written_is_read_again() {
    let written = manifest(&["ram", "state"]);
    let text = written.to_json().unwrap();
    assert_eq!(Manifest::parse(&text, "m").unwrap(), written);
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        (&json["safe"][0], &json["origin"]["import"]["format"]),
        (&"no-ssh-keys".into(), &"raw".into())
    );
}

#[test]
fn what_is_no_manifest_is_refused_in_one_line() {
    let with = |key: &str, value: serde_json::Value| {
        let mut json = serde_json::to_value(manifest(&["ram"])).unwrap();
        json[key] = value;
        serde_json::to_vec(&json).unwrap()
    };
    let mut outside = manifest(&["../ram"]).to_json().unwrap();
    for (text, expected) in [
        (b"{}".to_vec(), "no manifest"),
        (b"nothing".to_vec(), "no manifest"),
        (with("schema", 2.into()), "it has schema 2"),
        (with("safe", serde_json::json!(["harmless"])), "unknown variant `harmless`"),
        (std::mem::take(&mut outside), "is no file beside it"),
    ] {
        let error = Manifest::parse(&text, "a/manifest.json").unwrap_err().to_string();
        assert!(error.starts_with("a/manifest.json: ") && error.contains(expected), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    assert!(Manifest::parse(&with("later", true.into()), "m").is_ok(), "fields may be added");
}

#[test]
fn a_manifest_is_found_from_its_set_its_parts_and_its_file() {
    let store = tempfile::tempdir().unwrap();
    let at = |name: &str| store.path().join(name);
    std::fs::create_dir_all(at("debian/12")).unwrap();
    std::fs::write(at("debian/12/manifest.json"), manifest(&["ram", "state"]).to_json().unwrap()).unwrap();
    std::fs::write(at("debian/12.ram.manifest.json"), manifest(&["12.ram"]).to_json().unwrap()).unwrap();
    let found = |name: &str| find(store.path(), Path::new(name)).unwrap().map(|(path, _)| path);
    for name in ["debian/12", "debian/12/ram", "debian/12/state"] {
        assert_eq!(found(name), Some(at("debian/12/manifest.json")), "{name}");
    }
    assert_eq!(found("debian/12.ram"), Some(at("debian/12.ram.manifest.json")));
    for name in ["debian", "debian/12/other", "debian/13.ram"] {
        assert_eq!(found(name), None, "{name}");
    }
    std::fs::write(at("debian/12/manifest.json"), b"torn").unwrap();
    assert!(find(store.path(), Path::new("debian/12/ram")).is_err());
}

#[test]
fn names_of_manifests_are_known() {
    for name in ["manifest.json", "12.ram.manifest.json"] {
        assert!(is_manifest(name.as_bytes()), "{name}");
    }
    for name in [".manifest.json", "manifest", "12.ram", "xmanifest.json"] {
        assert!(!is_manifest(name.as_bytes()), "{name}");
    }
    for fact in Fact::ALL {
        assert_eq!(Fact::parse(fact.as_str()), Some(fact));
        assert_eq!(serde_json::to_value(fact).unwrap(), fact.as_str());
        assert_eq!(clap::ValueEnum::to_possible_value(&fact).unwrap().get_name(), fact.as_str());
    }
}
