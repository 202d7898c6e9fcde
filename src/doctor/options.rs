//! A QEMU option's value: `[WORD,]KEY=VALUE,...` or JSON, and the sizes in it (util/keyval.c, util/cutils.c). Pure.

use serde_json::Value;

/// Pairs in their order; a key that is given twice counts with its last value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<(String, String)>);

impl Options {
    /// `implied` is the key of a first word that has none.
    pub fn parse(text: &str, implied: &str) -> Self {
        if text.starts_with('{') {
            return Self::of_json(text);
        }
        let mut pairs = Vec::new();
        for (number, word) in split(text).into_iter().enumerate() {
            pairs.push(match word.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None if number == 0 => (implied.to_owned(), word),
                // QemuOpts takes a word alone for a switch.
                None => match word.strip_prefix("no") {
                    Some(key) => (key.to_owned(), "off".to_owned()),
                    None => (word, "on".to_owned()),
                },
            });
        }
        Self(pairs)
    }

    fn of_json(text: &str) -> Self {
        let Ok(Value::Object(object)) = serde_json::from_str(text) else { return Self::default() };
        let text = |value: Value| match value {
            Value::String(text) => text,
            Value::Bool(on) => if on { "on" } else { "off" }.to_owned(),
            other => other.to_string(),
        };
        Self(object.into_iter().map(|(key, value)| (key, text(value))).collect())
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    /// `on` and `off` and what QEMU takes for them; Err(the value) for anything else.
    pub fn switch(&self, key: &str) -> Result<Option<bool>, String> {
        match self.get(key) {
            None => Ok(None),
            Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
            Some("off" | "no" | "false" | "n") => Ok(Some(false)),
            Some(other) => Err(other.to_owned()),
        }
    }
}

/// Two commas stand for one in a value.
fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let doubled = c == ',' && rest.next_if_eq(&',').is_some();
        match words.last_mut() {
            Some(word) if c != ',' || doubled => word.push(c),
            _ => words.push(String::new()),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// `1G`, `1.5M`, `0x1000`; a number alone is in `unit`.
pub fn size(text: &str, unit: u64) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok()?.checked_mul(unit);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor =
        match suffix.strip_suffix(['i', 'b', 'B']).filter(|suffix| !suffix.is_empty()).unwrap_or(suffix) {
            "" => unit,
            "b" | "B" => 1,
            "k" | "K" => 1 << 10,
            "m" | "M" => 1 << 20,
            "g" | "G" => 1 << 30,
            "t" | "T" => 1 << 40,
            "p" | "P" => 1 << 50,
            _ => return None,
        };
    match number.parse::<u64>() {
        Ok(number) => number.checked_mul(factor),
        Err(_) => number.parse::<f64>().ok().map(|number| (number * factor as f64) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_qemu_reads_it() {
        let options = Options::parse(
            "memory-backend-file,id=r,mem-path=/a,,b?rom=off,,vm=x,share=on,prealloc",
            "qom-type",
        );
        assert_eq!(options.get("qom-type"), Some("memory-backend-file"));
        assert_eq!(options.get("mem-path"), Some("/a,b?rom=off,vm=x"));
        assert_eq!(options.switch("share"), Ok(Some(true)));
        assert_eq!(options.switch("prealloc"), Ok(Some(true)));
        assert_eq!(options.switch("rom"), Ok(None));
        assert_eq!(Options::parse("a,share=maybe", "t").switch("share"), Err("maybe".into()));
        assert_eq!(Options::parse("share=on,share=off", "t").switch("share"), Ok(Some(false)));
        assert_eq!(Options::parse("4G,slots=2", "size").get("size"), Some("4G"));
        let json = Options::parse(r#"{"qom-type":"memory-backend-file","size":16,"share":true}"#, "qom-type");
        assert_eq!((json.get("size"), json.switch("share")), (Some("16"), Ok(Some(true))));
    }

    #[test]
    fn sizes_have_units() {
        for (text, unit, bytes) in [
            ("1G", 1 << 20, Some(1 << 30)),
            ("96", 1 << 20, Some(96 << 20)),
            ("96", 1, Some(96)),
            ("1.5M", 1, Some(3 << 19)),
            ("0x100", 1, Some(256)),
            ("512B", 1 << 20, Some(512)),
            ("2k", 1, Some(2048)),
            ("many", 1, None),
            ("", 1, None),
            ("99999999999G", 1, None),
        ] {
            assert_eq!(size(text, unit), bytes, "{text}");
        }
    }
}
