//! The names of the figures and of the subjects that targets speak of. Times are in microseconds, memory in bytes.

pub const MAKE: &str = "making a view";
pub const OPEN: &str = "open+fstat+mmap";
pub const MSYNC: &str = "msync, a dirty page";
pub const PREAD_4K: &str = "pread 4 KiB";
pub const PREAD_1M: &str = "pread 1 MiB";
pub const PWRITE_4K: &str = "pwrite 4 KiB";
pub const PWRITE_1M: &str = "pwrite 1 MiB";

pub const OPEN_BY_SIZE: &str = "open by template size";
pub const OPEN_BY_VIEWS: &str = "open by live views";
pub const IDLE_MEMORY: &str = "daemon memory per idle view";

pub const VIEWS_TIME: &str = "time for all views";
pub const VIEWS_MEMORY: &str = "memory per view, counted";
pub const VIEWS_MEMINFO: &str = "memory per view, /proc/meminfo";
pub const VIEWS_OWN: &str = "memory per view, the mount's own figure";
/// What the views of a run touched, each.
pub const VIEWS_TOUCHED: &str = "distinct pages touched";

pub const DIRTY_RATE: &str = "stores a second";
pub const DIRTY_WRITTEN: &str = "bytes written back a second";
pub const DIRTY_CPU: &str = "daemon CPU, percent of a core";
pub const DIRTY_STALL: &str = "p99.9 of a store";
pub const DIRTY_WORST: &str = "longest store";

pub const CLONE_TIME: &str = "clone to answer";
pub const CLONE_MEMORY: &str = "host memory per clone";

pub const NATIVE: &str = "native";
pub const MEMFD: &str = "memfd";
pub const QEMU: &str = "qemu-storage-daemon";
pub const REFLINKS: [&str; 2] = ["reflink-xfs", "reflink-btrfs"];
pub const ROM: &str = "templatefs:rom";
pub const READ_ONLY: &str = "templatefs:read-only";
pub const DEFAULT: &str = "templatefs:default";
pub const LEARNED: &str = "templatefs:learned";
pub const MEMORY: &str = "templatefs:memory";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Sequential,
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    Private,
    Shared,
}

impl Order {
    pub const ALL: [Order; 2] = [Order::Sequential, Order::Random];
}

impl Access {
    pub const ALL: [Access; 2] = [Access::Read, Access::Write];

    pub fn word(self) -> &'static str {
        if self == Access::Read { "read" } else { "write" }
    }
}

impl Sharing {
    pub const ALL: [Sharing; 2] = [Sharing::Private, Sharing::Shared];

    pub fn word(self) -> &'static str {
        if self == Sharing::Private { "MAP_PRIVATE" } else { "MAP_SHARED" }
    }
}

/// First touch of a page.
pub fn touch(order: Order, access: Access, sharing: Sharing) -> String {
    let order = if order == Order::Sequential { "sequential" } else { "random" };
    format!("{order} {}, {}", access.word(), sharing.word())
}

/// An access to a page that was touched before.
pub fn steady(access: Access, sharing: Sharing) -> String {
    format!("steady {}, {}", access.word(), sharing.word())
}
