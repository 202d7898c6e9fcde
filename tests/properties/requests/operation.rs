//! What the kernel may ask, with whatever arguments.

use arbitrary::{Arbitrary, Unstructured};

use super::kernel::LONGEST;

#[derive(Debug, Arbitrary)]
pub enum Operation {
    Lookup {
        parent: Which,
        name: Name,
    },
    Forget {
        node: Which,
        lookups: Number,
    },
    ForgetMany {
        nodes: Vec<(Which, Number)>,
    },
    Getattr {
        node: Which,
    },
    Setattr {
        node: Which,
        handle: Which,
        size: Option<Number>,
        mode: Option<u32>,
        owner: Option<u32>,
        times: u16,
    },
    Open {
        node: Which,
        flags: Flags,
    },
    Read {
        handle: Which,
        offset: Number,
        size: u16,
    },
    Write {
        handle: Which,
        offset: Number,
        data: Data,
        flags: u8,
    },
    Release {
        handle: Which,
        flags: u32,
    },
    Fsync {
        handle: Which,
        flags: u32,
    },
    Allocate {
        handle: Which,
        offset: Number,
        length: Number,
        mode: Mode,
    },
    Seek {
        handle: Which,
        offset: Number,
        whence: i8,
    },
    Unlink {
        parent: Which,
        name: Name,
    },
    List {
        node: Which,
        handle: Number,
        offset: Number,
        size: u16,
    },
    Statfs {
        node: Which,
    },
    Getxattr {
        node: Which,
        name: u8,
        size: u16,
    },
    /// One of the requests that make or change names, none of which is ever granted.
    Name {
        opcode: u8,
        node: Which,
        name: Name,
    },
    /// Whatever else the protocol has, or has not.
    Other {
        opcode: u8,
        node: Which,
        body: Vec<u8>,
    },
    /// The process dies before the next request, or after it was done and before it was answered.
    Die {
        done: bool,
    },
}

/// Something that was handed out before, or any number.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Which {
    Known(u8),
    Latest,
    Any(Number),
}

#[derive(Debug, Clone, Copy)]
pub struct Number(pub u64);

impl<'a> Arbitrary<'a> for Number {
    /// The ends of what there is are as likely as all the rest.
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let step = u64::from(input.arbitrary::<u8>()?);
        Ok(Self(match input.arbitrary::<u8>()? % 8 {
            0 => step,
            1 => step << 8,
            2 => step << 12,
            3 => (step << 12).wrapping_sub(1),
            4 => (1 << 62) + step,
            5 => (i64::MAX as u64).wrapping_add(step).wrapping_sub(128),
            6 => step.wrapping_neg(),
            _ => input.arbitrary()?,
        }))
    }
}

#[derive(Debug)]
pub struct Flags(pub u32);

impl<'a> Arbitrary<'a> for Flags {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let byte = input.arbitrary::<u8>()?;
        // Reading, or reading and writing, and no more, is what mostly happens.
        Ok(Self(if byte < 160 { u32::from(byte % 2) * 2 } else { input.arbitrary()? }))
    }
}

#[derive(Debug)]
pub struct Mode(pub u32);

impl<'a> Arbitrary<'a> for Mode {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let byte = input.arbitrary::<u8>()?;
        let known = [0, 1, 3, 16, 17];
        Ok(Self(known.get(usize::from(byte % 8)).copied().map_or_else(|| input.arbitrary(), Ok)?))
    }
}

/// Repeated bytes, so that few of the input's make many.
#[derive(Debug, Arbitrary)]
pub struct Data {
    byte: u8,
    length: u16,
}

impl Data {
    pub fn bytes(&self) -> Vec<u8> {
        let length = usize::from(self.length).min(LONGEST - 1);
        (0..length).map(|index| self.byte.wrapping_add(index as u8)).collect()
    }
}

#[derive(Debug)]
pub struct Name(pub Vec<u8>);

/// What is in the store and leads there, or nearly.
pub const NAMES: [&str; 28] = [
    "t",
    "u",
    "dir",
    "empty",
    "50%25 done%3F",
    "t?rom=off",
    "u?rom=off",
    "empty?rom=off",
    "t?rom=off&view=a",
    "u?rom=off&view=a",
    "t?rom=off&view=b",
    "u?rom=off,vm=x",
    "50%25 done%3F?rom=off",
    "t?rom=on",
    "t?readonly=off",
    "t?share=on&readonly=off",
    "t?share=on&rom=off",
    "t?rom=off&backing=memory",
    "t?rom=off&backing=auto",
    "escape",
    "escape?rom=off",
    "pipe?rom=off",
    "link?rom=off",
    "missing",
    "dir?rom=off",
    ".templatefs",
    "templatefs.toml",
    "import",
];

impl<'a> Arbitrary<'a> for Name {
    /// The kernel sends no slash, no NUL and nothing empty.
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let which = input.arbitrary::<u8>()?;
        if let Some(name) = NAMES.get(usize::from(which)) {
            return Ok(Self(name.as_bytes().to_vec()));
        }
        let more: Vec<u8> = input.arbitrary()?;
        let start = NAMES[usize::from(which) % NAMES.len()].as_bytes();
        let mut name = if which < 128 { more } else { [start, &more].concat() };
        name.retain(|byte| !matches!(byte, 0 | b'/'));
        Ok(Self(if name.is_empty() { b"t".to_vec() } else { name }))
    }
}
