use std::path::Path;

use rustix::io::Errno;

use super::{Names, Policy, Wish};
use crate::error::Error;
use crate::rules::Kind;

fn parse(text: &str) -> Result<Policy, Error> {
    let user = |name: &str| (name == "alice").then_some(1000);
    let group = |name: &str| (name == "kvm").then_some(36);
    Policy::parse(text, "p.toml", &Names { user: &user, group: &group })
}

fn check(policy: &Policy, path: &str, kind: Kind, uid: u32, groups: &[u32]) -> Option<Errno> {
    let groups = || groups.to_vec();
    let wish = Wish { path: Path::new(path), kind, uid, groups: &groups, size: 4096 };
    policy.check(&wish).err().map(|error| error.errno())
}

#[test]
fn every_rule_that_matches_must_consent() {
    let policy = parse(
        r#"
        [[rule]]
        path = "**"
        allow = ["rom", "private"]
        [[rule]]
        path = ["nvdimm/*.img", "disk"]
        allow = ["rom"]
        [[rule]]
        path = "team/**"
        users = ["alice", 1001]
        groups = ["kvm"]
        "#,
    )
    .unwrap();
    for (path, kind, uid, groups, expected) in [
        ("a", Kind::Rom, 5, &[][..], None),
        ("a", Kind::Private, 5, &[], None),
        ("a", Kind::Template, 0, &[], Some(Errno::ACCESS)),
        ("nvdimm/a.img", Kind::Rom, 5, &[], None),
        ("nvdimm/a.img", Kind::Private, 0, &[], Some(Errno::ACCESS)),
        ("nvdimm/a.img", Kind::PrivateIfWritable, 0, &[], Some(Errno::ACCESS)),
        ("nvdimm/sub/a.img", Kind::Private, 5, &[], None),
        ("disk", Kind::Private, 5, &[], Some(Errno::ACCESS)),
        ("team/x/y", Kind::Rom, 1000, &[], None),
        ("team/x/y", Kind::Rom, 1001, &[], None),
        ("team/x/y", Kind::Rom, 5, &[36, 5], None),
        ("team/x/y", Kind::Rom, 0, &[], None),
        ("team/x/y", Kind::Rom, 5, &[5], Some(Errno::ACCESS)),
        ("team/x/y", Kind::Template, 1000, &[], Some(Errno::ACCESS)),
    ] {
        assert_eq!(check(&policy, path, kind, uid, groups), expected, "{path} {kind:?} {uid} {groups:?}");
    }
}

#[test]
fn the_smallest_limit_counts() {
    let policy = parse(
        r#"
        [[rule]]
        path = "**"
        max-size = "2KiB"
        [[rule]]
        path = "a*"
        max-size = 1000
        max-views = 3
        "#,
    )
    .unwrap();
    assert_eq!(policy.max_size(Path::new("abc")), Some((1000, "p.toml: rule 2 (a*)")));
    assert_eq!(policy.max_size(Path::new("b")).unwrap().0, 2048);
    assert_eq!((policy.max_views(Path::new("b")), policy.max_views(Path::new("a")).unwrap().0), (None, 3));
    assert_eq!(check(&policy, "b", Kind::Private, 0, &[]), Some(Errno::FBIG));
    assert_eq!(check(&policy, "b", Kind::Rom, 0, &[]), None);
}

#[test]
fn all_that_matching_rules_require_is_required() {
    let text = "[[rule]]\npath = '**'\nrequire = ['vmgenid']\n[[rule]]\npath = 'a/*'\nrequire = ['no-ssh-keys', 'shareable']\n";
    let policy = parse(text).unwrap();
    let required =
        |path: &str| policy.required(Path::new(path)).map(|(fact, _)| fact.as_str()).collect::<Vec<_>>();
    assert_eq!(required("a/b"), ["vmgenid", "no-ssh-keys", "shareable"]);
    assert_eq!(required("b"), ["vmgenid"]);
    assert_eq!(policy.required(Path::new("a/b")).last().unwrap().1, "p.toml: rule 2 (a/*)");
}

#[test]
fn what_is_not_understood_is_refused_in_one_line_that_says_where() {
    for (text, expected) in [
        ("[[rule]]\npath = \"a\"\nalow = []", "p.toml: line 3: unknown field `alow`"),
        ("[[rule]]\npath = 7", "p.toml: line 2: "),
        ("[[rule]]", "p.toml: line 1: missing field `path`"),
        ("[[rule]]\npath = \"a\"\nallow = [\"write\"]", "p.toml: line 3: unknown variant `write`"),
        ("rules = []", "p.toml: line 1: unknown field `rules`"),
        ("[[rule]]\npath = []", "p.toml: rule 1: path names nothing"),
        ("[[rule]]\npath = \"/a\"", "p.toml: rule 1: path /a: it is relative"),
        ("[[rule]]\npath = \"a[\"", "p.toml: rule 1: path: "),
        ("[[rule]]\npath = \"a\"\nusers = [\"nobody-of-this-name\"]", "there is no user nobody-of-this-name"),
        ("[[rule]]\npath = \"a\"\nmax-size = \"many\"", "p.toml: line 3: "),
        ("[[rule]]\npath = \"a\"\nmax-views = -1", "p.toml: line 3: "),
        ("[[rule]]\npath = \"a\"\nrequire = [\"harmless\"]", "p.toml: line 3: unknown variant `harmless`"),
        ("no toml", "p.toml: line 1: "),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{text:?}: {error}");
    }
    assert!(parse("").unwrap().rules.is_empty());
}
