//! QEMU's rule for `memory-backend-file` (backends/hostmem-file.c, `rom` since 8.2), as a table
//! over three properties. Pure.

use std::fmt;

/// QEMU's `rom`: `Auto` means "the value of readonly".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rom {
    #[default]
    Auto,
    On,
    Off,
}

impl Rom {
    pub const ALL: [Self; 3] = [Self::Auto, Self::On, Self::Off];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// Where the pages of a private view are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backing {
    /// The view's own pages in the state directory, all others in the template.
    #[default]
    Overlay,
    /// All of them in memory of the view's own.
    Memory,
    /// Whichever suits the template and the host.
    Auto,
}

impl Backing {
    pub const ALL: [Self; 3] = [Self::Overlay, Self::Memory, Self::Auto];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Memory => "memory",
            Self::Auto => "auto",
        }
    }

    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|backing| backing.as_str().as_bytes() == text)
    }
}

/// The three properties that decide what a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties {
    pub share: bool,
    pub readonly: bool,
    pub rom: Rom,
}

impl Default for Properties {
    fn default() -> Self {
        Self { share: false, readonly: true, rom: Rom::Auto }
    }
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// True ROM: no open for writing, no truncate.
    Rom,
    /// A private copy-on-write view, for every caller who may read the template.
    Private,
    /// A private copy-on-write view, for a caller who may write the template file: QEMU opens
    /// it read-write, and so only such a caller could use it there.
    PrivateIfWritable,
    /// The template itself, for authoring.
    Template,
}

impl Kind {
    pub fn is_private(self) -> bool {
        matches!(self, Self::Private | Self::PrivateIfWritable)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rom => "rom",
            Self::Private | Self::PrivateIfWritable => "private",
            Self::Template => "template",
        }
    }
}

/// The two combinations that QEMU refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// share=on,readonly=on,rom=off
    WritableRomOnShared,
    /// readonly=off,rom=on
    RomOnWritable,
}

impl Conflict {
    /// QEMU's own message, to the letter.
    pub fn qemu_message(self) -> &'static str {
        match self {
            Self::WritableRomOnShared => {
                "property 'rom' = 'off' is incompatible with 'readonly' = 'on' and 'share' = 'on'"
            }
            Self::RomOnWritable => "property 'rom' = 'on' is not supported with 'readonly' = 'off'",
        }
    }

    /// Which key to change.
    pub fn advice(self) -> &'static str {
        match self {
            Self::WritableRomOnShared => {
                "leave out share for a private view (the VMM may still map it shared), or leave out rom for a ROM view"
            }
            Self::RomOnWritable => "leave out readonly for a ROM view, or set rom=off for a private view",
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.qemu_message(), self.advice())
    }
}

impl std::error::Error for Conflict {}

impl Properties {
    /// All twelve combinations, in the order of the table in the README.
    pub fn all() -> impl Iterator<Item = Self> {
        [false, true].into_iter().flat_map(|share| {
            [true, false]
                .into_iter()
                .flat_map(move |readonly| Rom::ALL.into_iter().map(move |rom| Self { share, readonly, rom }))
        })
    }

    /// `rom` with `auto` replaced by what it means.
    pub fn resolved_rom(self) -> bool {
        match self.rom {
            Rom::Auto => self.readonly,
            Rom::On => true,
            Rom::Off => false,
        }
    }

    /// The table.
    ///
    /// ```
    /// use templatefs::rules::{Conflict, Kind, Properties, Rom};
    ///
    /// let rom_off = Properties { rom: Rom::Off, ..Properties::default() };
    /// assert_eq!(rom_off.resolve(), Ok(Kind::Private));
    /// let shared = Properties { share: true, ..rom_off };
    /// assert_eq!(shared.resolve(), Err(Conflict::WritableRomOnShared));
    /// ```
    ///
    /// # Errors
    /// Both of QEMU's, with its own messages.
    pub fn resolve(self) -> Result<Kind, Conflict> {
        match (self.share, self.readonly, self.resolved_rom()) {
            (_, true, true) => Ok(Kind::Rom),
            (false, true, false) => Ok(Kind::Private),
            (false, false, false) => Ok(Kind::PrivateIfWritable),
            (true, false, false) => Ok(Kind::Template),
            (true, true, false) => Err(Conflict::WritableRomOnShared),
            (_, false, true) => Err(Conflict::RomOnWritable),
        }
    }
}

/// As QEMU writes them.
impl fmt::Display for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switch = |on: bool| if on { "on" } else { "off" };
        write!(f, "share={},readonly={},rom={}", switch(self.share), switch(self.readonly), self.rom.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the README, row by row.
    #[test]
    fn all_twelve_combinations() {
        use Conflict::*;
        use Kind::*;
        let expected = [
            ("share=off,readonly=on,rom=auto", Ok(Kind::Rom)),
            ("share=off,readonly=on,rom=on", Ok(Kind::Rom)),
            ("share=off,readonly=on,rom=off", Ok(Private)),
            ("share=off,readonly=off,rom=auto", Ok(PrivateIfWritable)),
            ("share=off,readonly=off,rom=on", Err(RomOnWritable)),
            ("share=off,readonly=off,rom=off", Ok(PrivateIfWritable)),
            ("share=on,readonly=on,rom=auto", Ok(Kind::Rom)),
            ("share=on,readonly=on,rom=on", Ok(Kind::Rom)),
            ("share=on,readonly=on,rom=off", Err(WritableRomOnShared)),
            ("share=on,readonly=off,rom=auto", Ok(Template)),
            ("share=on,readonly=off,rom=on", Err(RomOnWritable)),
            ("share=on,readonly=off,rom=off", Ok(Template)),
        ];
        let actual: Vec<_> = Properties::all().map(|p| (p.to_string(), p.resolve())).collect();
        assert_eq!(actual.len(), 12);
        for ((text, kind), (want_text, want)) in actual.iter().zip(expected) {
            assert_eq!((text.as_str(), *kind), (want_text, want));
        }
    }
}
