//! May a caller read, write or search a file of the store? POSIX's rule over mode bits,
//! supplementary groups and access ACLs (acl(5), "ACCESS CHECK ALGORITHM"). Pure.
//!
//! The kernel asks it too, of what a mount shows (`default_permissions`). But a private view is
//! shown as its caller's own, so that the kernel cannot know who may read the template behind it,
//! and it knows nothing of the store's ACLs.

/// Bits of `rwx` as in one digit of a mode.
pub const READ: u32 = 4;
pub const WRITE: u32 = 2;
pub const SEARCH: u32 = 1;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// 0 where the caller's process is in a process namespace that the daemon cannot see.
    pub pid: u32,
}

/// The file that is asked for.
#[derive(Debug, Clone)]
pub struct Guarded<'a> {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// The value of `system.posix_acl_access`, where the file has one.
    pub acl: Option<&'a [u8]>,
}

/// `groups` yields the supplementary groups, or None where they cannot be known; it is called
/// only where they could matter.
pub fn permitted(
    file: &Guarded<'_>,
    caller: &Caller,
    groups: impl FnOnce() -> Option<Vec<u32>>,
    want: u32,
) -> bool {
    if caller.uid == 0 {
        return true;
    }
    let class = |shift: u32| (file.mode >> shift) & want == want;
    let Some(acl) = file.acl else {
        if caller.uid == file.uid {
            return class(6);
        }
        if caller.gid == file.gid {
            return class(3);
        }
        if class(3) == class(0) {
            return class(0);
        }
        return match groups() {
            Some(groups) if groups.contains(&file.gid) => class(3),
            Some(_) => class(0),
            // Whichever class the caller is in, one of the two denies.
            None => false,
        };
    };
    match parse_acl(acl) {
        Some(entries) => permitted_by_acl(&entries, file, caller, groups, want),
        None => false,
    }
}

#[derive(Clone, Copy)]
struct AclEntry {
    tag: u16,
    perm: u32,
    id: u32,
}

/// include/uapi/linux/posix_acl.h
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// include/uapi/linux/posix_acl_xattr.h: a version, then entries of tag, perm (16 bits each) and
/// id (32), all little endian. None for anything else.
fn parse_acl(value: &[u8]) -> Option<Vec<AclEntry>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    let field = |e: &[u8], at: usize| u16::from_le_bytes([e[at], e[at + 1]]);
    let entry = |e: &[u8]| AclEntry {
        tag: field(e, 0),
        perm: u32::from(field(e, 2)),
        id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
    };
    Some(entries.chunks_exact(8).map(entry).collect())
}

fn permitted_by_acl(
    entries: &[AclEntry],
    file: &Guarded<'_>,
    caller: &Caller,
    groups: impl FnOnce() -> Option<Vec<u32>>,
    want: u32,
) -> bool {
    let first = |tag: u16| entries.iter().find(|e| e.tag == tag);
    let mask = first(MASK).map_or(7, |e| e.perm);
    let grants = |e: &AclEntry, mask: u32| e.perm & mask & want == want;
    if caller.uid == file.uid {
        return first(USER_OBJ).is_some_and(|e| grants(e, 7));
    }
    if let Some(user) = entries.iter().find(|e| e.tag == USER && e.id == caller.uid) {
        return grants(user, mask);
    }
    let Some(mut groups) = groups() else { return false };
    groups.push(caller.gid);
    let mut matched = entries.iter().filter(|e| match e.tag {
        GROUP_OBJ => groups.contains(&file.gid),
        GROUP => groups.contains(&e.id),
        _ => false,
    });
    match matched.next() {
        Some(one) => grants(one, mask) || matched.any(|e| grants(e, mask)),
        None => first(OTHER).is_some_and(|e| grants(e, 7)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(mode: u32, caller: (u32, u32), groups: Option<&[u32]>, want: u32) -> bool {
        let file = Guarded { mode, uid: 10, gid: 20, acl: None };
        let caller = Caller { uid: caller.0, gid: caller.1, pid: 1 };
        permitted(&file, &caller, || groups.map(<[u32]>::to_vec), want)
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        assert!(ask(0o400, (10, 99), None, READ));
        assert!(!ask(0o044, (10, 20), None, READ), "an owner is never asked as group or other");
        assert!(ask(0o040, (11, 20), None, READ));
        assert!(!ask(0o004, (11, 20), None, READ), "the group is never asked as other");
        assert!(ask(0o004, (11, 99), Some(&[]), READ));
        assert!(ask(0o000, (0, 0), None, READ | WRITE), "root may");
    }

    #[test]
    fn supplementary_groups_count_and_unknown_ones_never_grant() {
        assert!(ask(0o040, (11, 99), Some(&[5, 20]), READ));
        assert!(!ask(0o040, (11, 99), Some(&[5]), READ));
        assert!(!ask(0o004, (11, 99), Some(&[20]), READ), "a member of the group is not other");
        assert!(!ask(0o040, (11, 99), None, READ));
        assert!(!ask(0o004, (11, 99), None, READ));
        assert!(ask(0o044, (11, 99), None, READ), "both classes grant: groups do not matter");
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(perm.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    #[test]
    fn an_acl_decides_instead_of_the_mode() {
        let none = u32::MAX;
        let value = acl(&[
            (USER_OBJ, 6, none),
            (USER, 0, 11),
            (USER, 7, 12),
            (GROUP_OBJ, 0, none),
            (GROUP, 4, 30),
            (MASK, 4, none),
            (OTHER, 4, none),
        ]);
        let file = Guarded { mode: 0o644, uid: 10, gid: 20, acl: Some(&value) };
        let ask = |uid, gid, groups: &[u32], want| {
            permitted(&file, &Caller { uid, gid, pid: 1 }, || Some(groups.to_vec()), want)
        };
        assert!(ask(10, 1, &[], READ | WRITE));
        assert!(!ask(11, 1, &[], READ), "a named user is denied although others may read");
        assert!(ask(12, 1, &[], READ));
        assert!(!ask(12, 1, &[], WRITE), "the mask bounds a named user");
        assert!(!ask(13, 20, &[], READ), "the owning group has nothing");
        assert!(ask(13, 20, &[30], READ), "any matching group may grant");
        assert!(ask(13, 1, &[], READ), "no match: other");
        let broken = Guarded { acl: Some(&value[..5]), ..file.clone() };
        assert!(!permitted(&broken, &Caller { uid: 13, gid: 1, pid: 1 }, || Some(vec![]), READ));
    }
}
