//! The text of a policy becomes rules. Whatever is not understood is an error: a policy that was
//! half read would open what it should close.

use bytesize::ByteSize;
use globset::{GlobBuilder, GlobSetBuilder};
use serde::Deserialize;

use super::{Policy, Rule, Who};
use crate::error::{Error, Result};
use crate::manifest::Fact;
use crate::name::printable;

/// Names to numbers; None where nobody has that name.
pub struct Names<'a> {
    pub user: &'a dyn Fn(&str) -> Option<u32>,
    pub group: &'a dyn Fn(&str) -> Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    rule: Vec<RuleText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleText {
    path: OneOrMore<String>,
    allow: Option<Vec<Allowed>>,
    users: Option<Vec<NameOrId>>,
    groups: Option<Vec<NameOrId>>,
    max_size: Option<ByteSize>,
    max_views: Option<u64>,
    #[serde(default)]
    require: Vec<Fact>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NameOrId {
    Id(u32),
    Name(String),
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Allowed {
    Rom,
    Private,
    Template,
}

impl Allowed {
    /// As [`crate::rules::Kind::as_str`].
    fn as_str(self) -> &'static str {
        match self {
            Self::Rom => "rom",
            Self::Private => "private",
            Self::Template => "template",
        }
    }
}

impl Policy {
    /// `name` is the file's, for messages.
    pub fn parse(text: &str, name: &str, names: &Names<'_>) -> Result<Self> {
        // The parser's message has several lines, the first of which says where.
        let text: Text = toml::from_str(text).map_err(|e| {
            let place =
                e.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Error::Invalid(format!("{name}: line {place}: {}; correct the policy", one_line(e.message())))
        })?;
        let rules = text.rule.into_iter().enumerate().map(|(index, rule)| {
            let title = format!("{name}: rule {}", index + 1);
            rule.into_rule(&title, names).map_err(|e| Error::Invalid(format!("{title}: {e}")))
        });
        Ok(Self { rules: rules.collect::<Result<_>>()? })
    }
}

impl RuleText {
    fn into_rule(self, title: &str, names: &Names<'_>) -> std::result::Result<Rule, String> {
        let patterns = match self.path {
            OneOrMore::One(pattern) => vec![pattern],
            OneOrMore::More(patterns) => patterns,
        };
        if patterns.is_empty() {
            return Err("path names nothing; write \"**\" for all templates".into());
        }
        let mut paths = GlobSetBuilder::new();
        for pattern in &patterns {
            // As in a shell: `*` stays within a directory, `**` does not.
            let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
            paths.add(glob.map_err(|e| format!("path: {}", one_line(&e.to_string())))?);
            if pattern.starts_with('/') {
                let shown = printable(pattern.as_bytes());
                return Err(format!("path {shown}: it is relative to the store: leave out the first `/`"));
            }
        }
        let who = match (self.users, self.groups) {
            (None, None) => None,
            (users, groups) => Some(Who {
                users: ids(users.unwrap_or_default(), "user", names.user)?,
                groups: ids(groups.unwrap_or_default(), "group", names.group)?,
            }),
        };
        Ok(Rule {
            title: format!("{title} ({})", printable(patterns.join(", ").as_bytes())),
            paths: paths.build().map_err(|e| one_line(&e.to_string()))?,
            allow: self.allow.map(|allow| allow.into_iter().map(Allowed::as_str).collect()),
            who,
            max_size: self.max_size.map(|size| size.as_u64()),
            max_views: self.max_views,
            require: self.require,
        })
    }
}

fn ids(
    given: Vec<NameOrId>,
    what: &str,
    find: &dyn Fn(&str) -> Option<u32>,
) -> std::result::Result<Vec<u32>, String> {
    let id = |given| match given {
        NameOrId::Id(id) => Ok(id),
        NameOrId::Name(name) => {
            let missing =
                || format!("there is no {what} {} on this host; take it out", printable(name.as_bytes()));
            find(&name).ok_or_else(missing)
        }
    };
    given.into_iter().map(id).collect()
}

fn one_line(text: &str) -> String {
    printable(text.split_whitespace().collect::<Vec<_>>().join(" ").as_bytes())
}
