//! `user.templatefs.*`: a view's figures as extended attributes of its file.
//!
//! They are those of `views/ID/status` under the same names, one attribute a figure; a figure that
//! is not known is no attribute. The processes, which are many, stand in the file alone.

use serde_json::Value;

use super::Control;
use super::render::plain;
use crate::access::Caller;
use crate::error::{Error, Result};
use crate::inspect::{ViewReport, is_looked_at};
use crate::name::printable;

const PREFIX: &[u8] = b"user.templatefs.";

/// Whose an attribute is. Pure: decided before anything is looked at, since the kernel asks for
/// `security.capability` before it writes a file, and ls(1) for access lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute<'a> {
    /// A figure, by its name.
    Figure(&'a str),
    /// An access list: those of the store decide (access.rs), and none is shown.
    System,
    Other,
}

impl<'a> Attribute<'a> {
    pub fn parse(name: &'a [u8]) -> Self {
        match name.strip_prefix(PREFIX).map(std::str::from_utf8) {
            Some(Ok(figure)) => Self::Figure(figure),
            _ if name.starts_with(b"system.") => Self::System,
            _ => Self::Other,
        }
    }

    /// Why an attribute cannot be set or removed.
    pub fn refusal(name: &[u8]) -> Error {
        let shown = printable(name);
        match Attribute::parse(name) {
            Attribute::Figure(_) => Error::NotPermitted(format!(
                "{shown}: extended attributes of this name are figures of the view, and are only read"
            )),
            _ => Error::Unsupported(format!(
                "{shown}: a view keeps no extended attributes; keep them beside the template in the store"
            )),
        }
    }
}

/// Of a name that a file does not have.
pub fn missing(name: &[u8]) -> Error {
    Error::NoAttribute(format!("{}: no such attribute", printable(name)))
}

impl Control {
    /// The names of the attributes of a node's view, each with a NUL behind it; none where the
    /// caller may not see the view. Like [`Self::open`] never to be called by a thread that serves.
    pub fn attribute_names(&self, caller: &Caller, node: u64) -> Vec<u8> {
        let view = self.inspector().node(caller, node, true);
        let mut names = Vec::new();
        for (name, _) in view.iter().flat_map(figures) {
            names.extend_from_slice(PREFIX);
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        names
    }

    /// The value of `user.templatefs.NAME`. As above.
    pub fn attribute(&self, caller: &Caller, node: u64, name: &str) -> Result<Vec<u8>> {
        let view = self.inspector().node(caller, node, is_looked_at(name));
        let value = view.and_then(|view| figures(&view).into_iter().find(|(figure, _)| figure == name));
        let (_, value) = value.ok_or_else(|| missing(&[PREFIX, name.as_bytes()].concat()))?;
        Ok(value.into_bytes())
    }
}

/// What is known of a view.
fn figures(view: &ViewReport) -> Vec<(String, String)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(view) else { return Vec::new() };
    let known = fields.into_iter().filter(|(_, value)| !value.is_null() && !value.is_array());
    known
        .map(|(name, value)| {
            let text = plain(&value);
            (name, text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::summary::samples::listed;

    #[test]
    fn a_name_is_a_figures_or_it_is_not_ours() {
        assert_eq!(Attribute::parse(b"user.templatefs.id"), Attribute::Figure("id"));
        assert_eq!(Attribute::parse(b"user.templatefs."), Attribute::Figure(""));
        assert_eq!(Attribute::parse(b"user.templatefs.\xff"), Attribute::Other);
        assert_eq!(Attribute::parse(b"user.templatefsx"), Attribute::Other);
        assert_eq!(Attribute::parse(b"security.capability"), Attribute::Other);
        assert_eq!(Attribute::parse(b"system.posix_acl_access"), Attribute::System);
    }

    #[test]
    fn what_is_not_known_is_no_attribute() {
        let view = listed("a", None, |view| view.cow_anon_bytes = None).view;
        let names: Vec<String> = figures(&view).into_iter().map(|(name, _)| name).collect();
        for absent in ["cow_anon_bytes", "vm", "opener", "processes"] {
            assert!(!names.contains(&absent.to_owned()), "{absent}");
        }
        assert!(names.contains(&"private_bytes".to_owned()));
    }

    /// A figure of which only a look tells and that is not listed would never be there.
    #[test]
    fn the_figures_that_need_a_look_are_named_as_in_the_report() {
        let view = serde_json::to_value(listed("a", None, |_| ()).view).unwrap();
        let looked_at = view.as_object().unwrap().keys().filter(|name| is_looked_at(name));
        assert_eq!(looked_at.count(), 7);
    }
}
