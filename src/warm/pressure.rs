//! Is memory short? Pages that nobody asked for must cost nobody else theirs.

use crate::memory::available_bytes;

/// After so many bytes it is asked again.
pub const STEP: u64 = 32 << 20;
/// A quarter of what could be had at most.
const SHARE: u64 = 4;
/// Percent of the last ten seconds in which somebody waited for memory (proc(5), pressure/memory).
const WAITING: f64 = 5.0;

/// Would `bytes` more be felt?
pub fn is_short(bytes: u64) -> bool {
    available_bytes().is_ok_and(|available| bytes > available / SHARE)
        || std::fs::read_to_string("/proc/pressure/memory").is_ok_and(|text| waiting(&text) > WAITING)
}

/// `some avg10=0.00 avg60=...`
fn waiting(text: &str) -> f64 {
    let some = text.lines().find_map(|line| line.strip_prefix("some "));
    let average = some.and_then(|rest| rest.split(' ').find_map(|word| word.strip_prefix("avg10=")));
    average.and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text =
            "some avg10=12.50 avg60=1.00 avg300=0.10 total=5\nfull avg10=90.00 avg60=0 avg300=0 total=1\n";
        assert_eq!(waiting(text), 12.5);
        assert_eq!(waiting(""), 0.0);
    }

    #[test]
    fn more_than_there_is_is_too_much() {
        assert!(is_short(u64::MAX));
    }
}
