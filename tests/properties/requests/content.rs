//! What a view holds, as far as it is looked at.

/// Content beyond this offset is not compared.
pub const WINDOW: u64 = 1 << 16;

#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    pub size: u64,
    /// All of it below [`WINDOW`].
    bytes: Vec<u8>,
}

impl Content {
    pub fn new(bytes: &[u8]) -> Self {
        assert!(bytes.len() as u64 <= WINDOW);
        Self { size: bytes.len() as u64, bytes: bytes.to_vec() }
    }

    /// What was cut off is zero when it is there again.
    pub fn resize(&mut self, size: u64) {
        self.size = size;
        self.bytes.resize(size.min(WINDOW) as usize, 0);
    }

    pub fn reach(&mut self, size: u64) {
        self.resize(self.size.max(size));
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.reach(offset + data.len() as u64);
        let start = offset.min(WINDOW) as usize;
        let length = data.len().min(WINDOW as usize - start);
        self.bytes[start..start + length].copy_from_slice(&data[..length]);
    }

    pub fn zero(&mut self, offset: u64, length: u64) {
        let known = self.bytes.len() as u64;
        let (start, end) = (offset.min(known), offset.saturating_add(length).min(known));
        self.bytes[start as usize..end as usize].fill(0);
    }

    /// Are these the bytes that a read of `length` bytes at `offset` finds?
    pub fn is_read(&self, offset: u64, length: u64, read: &[u8]) -> bool {
        let expected = self.size.saturating_sub(offset).min(length);
        let known = self.bytes.len() as u64;
        let (start, end) =
            (offset.min(known) as usize, (offset.saturating_add(expected)).min(known) as usize);
        read.len() as u64 == expected && read[..end - start] == self.bytes[start..end]
    }

    /// Is there nothing but zeros in this range, as far as is known?
    pub fn is_zero(&self, start: u64, end: u64) -> bool {
        let known = self.bytes.len() as u64;
        let (start, end) = (start.min(known) as usize, end.min(known) as usize);
        start >= end || self.bytes[start..end].iter().all(|byte| *byte == 0)
    }
}
