//! A guest that computes all the time, and is asked at the end what it found.

use std::time::Duration;

use super::guest::Guest;
use super::limit::poll;

const TIME: Duration = Duration::from_secs(240);

/// Writes data that never was before, copies it through the guest's memory and compares; goes on until
/// there is a file `stop`.
const COMPUTE: &str = "(n=0; until [ -e stop ]; do head -c 500000 /dev/urandom >a; md5sum <a >sum; cp a b; \
                       md5sum <b | cmp -s - sum && cmp -s a b || echo $n >>lost; n=$((n+1)); echo $n >new; \
                       mv new rounds; done; echo done >done) >/dev/null 2>&1 & echo $! >pid";

/// All that fits of what is written once and read at the end.
const BALLAST: u32 = 6;

pub struct Computing {
    pub guest: Guest,
    ballast: u32,
}

impl Computing {
    pub fn start(guest: Guest) -> Self {
        let mut computing = Self { guest, ballast: 0 };
        computing.add_ballast();
        computing.guest.ok(COMPUTE);
        let begun = poll(TIME, || (computing.guest.sh("cat rounds").0 == 0).then_some(()));
        assert!(begun.is_some(), "it does not begin");
        computing
    }

    pub fn rounds(&mut self) -> u64 {
        self.guest.ok("cat rounds").parse().unwrap()
    }

    /// It has computed for some time since.
    pub fn wait_for_rounds(&mut self) {
        let before = self.rounds();
        assert!(poll(TIME, || (self.rounds() > before + 2).then_some(())).is_some(), "it does not go on");
    }

    /// Memory that the guest has not touched yet becomes a file of its own, for as long as there is some.
    pub fn add_ballast(&mut self) {
        if self.ballast < BALLAST {
            let number = self.ballast;
            self.guest.ok(&format!(
                "head -c 3000000 /dev/urandom >ballast{number}; md5sum ballast{number} >>ballast"
            ));
            self.ballast += 1;
        }
    }

    /// Nothing that it wrote was lost. Returns how many rounds it has computed.
    #[track_caller]
    pub fn finish(mut self) -> u64 {
        self.wait_for_rounds();
        // In the guest: its shell forgets what it has read of a line when a child ends at that instant.
        self.guest.ok("touch stop; while kill -0 $(cat pid) 2>/dev/null; do sleep 0.1; done; [ -e done ]");
        let (code, lost) = self.guest.sh("cat lost");
        assert_ne!(code, 0, "rounds in which memory was lost: {lost}");
        assert_eq!(self.guest.ok("md5sum -c ballast | grep -c OK"), self.ballast.to_string());
        // Pages of the template that it had no use for meanwhile.
        self.guest.ok("md5sum </bin/busybox");
        let rounds = self.rounds();
        self.guest.qemu.quit();
        rounds
    }
}
