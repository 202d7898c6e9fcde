//! Who may read a file, from its mode and owner, in words. Pure but for looking up names.

use std::collections::HashMap;

use nix::unistd::{Gid, Group, Uid, User};

use crate::name::printable;

/// Names of users and groups, each looked up once.
#[derive(Default)]
pub struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// `everyone`, `user NAME`, `group NAME`, both, or `root`; the number where there is no name.
    /// The classes are the kernel's: an owner is not asked as one of the group. Access lists and
    /// the directories above are not looked at.
    pub fn readable_by(&mut self, mode: u32, uid: u32, gid: u32) -> String {
        if mode & 0o004 != 0 {
            return "everyone".to_owned();
        }
        let mut who = Vec::new();
        // Root reads everything, so that its own bit says nothing.
        if mode & 0o400 != 0 && uid != 0 {
            who.push(format!("user {}", self.user(uid)));
        }
        if mode & 0o040 != 0 {
            who.push(format!("group {}", self.group(gid)));
        }
        if who.is_empty() { "root".to_owned() } else { who.join(", ") }
    }

    fn user(&mut self, uid: u32) -> &str {
        self.users.entry(uid).or_insert_with(|| {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            user.map_or_else(|| uid.to_string(), |user| printable(user.name.as_bytes()))
        })
    }

    fn group(&mut self, gid: u32) -> &str {
        self.groups.entry(gid).or_insert_with(|| {
            let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
            group.map_or_else(|| gid.to_string(), |group| printable(group.name.as_bytes()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_class_is_named() {
        let mut names = Names::default();
        names.users.insert(7, "alice".to_owned());
        names.groups.insert(8, "kvm".to_owned());
        for (mode, uid, text) in [
            (0o444, 7, "everyone"),
            (0o004, 7, "everyone"),
            (0o440, 7, "user alice, group kvm"),
            (0o640, 0, "group kvm"),
            (0o040, 7, "group kvm"),
            (0o400, 7, "user alice"),
            (0o400, 0, "root"),
            (0o000, 7, "root"),
        ] {
            assert_eq!(names.readable_by(mode, uid, 8), text, "{mode:o} {uid}");
        }
    }

    #[test]
    fn what_has_no_name_is_a_number() {
        assert_eq!(Names::default().readable_by(0o400, 4_000_000_001, 0), "user 4000000001");
        assert_eq!(Names::default().user(0), "root");
    }
}
