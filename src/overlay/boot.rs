//! Which start of the machine this is. What the kernel had not brought to disk is gone after another
//! one.

use std::sync::LazyLock;

/// The kernel's random id of one start; 0 where it does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Boot(pub u128);

impl Boot {
    pub fn current() -> Self {
        #[cfg(test)]
        if let Some(boot) = super::disk::script::boot() {
            return boot;
        }
        static CURRENT: LazyLock<Boot> = LazyLock::new(|| {
            let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
            Boot(u128::from_str_radix(&digits, 16).unwrap_or_default())
        });
        *CURRENT
    }

    /// Was the machine started anew in between, as far as that is known?
    pub fn is_over(self) -> bool {
        let current = Self::current();
        self.0 != 0 && current.0 != 0 && self != current
    }
}
