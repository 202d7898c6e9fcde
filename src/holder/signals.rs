//! Signals to the holder that are meant for whoever serves.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

pub struct Signals {
    /// Readable once one has come.
    pub wake: UnixStream,
    /// SIGTERM or SIGINT: it is to unmount.
    wanted: Arc<AtomicBool>,
    /// SIGHUP: it is to read the policies again.
    reload: Arc<AtomicBool>,
}

impl Signals {
    pub fn register() -> io::Result<Self> {
        let (wake, signal) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let [wanted, reload] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        for (number, flag) in [(SIGTERM, &wanted), (SIGINT, &wanted), (SIGHUP, &reload)] {
            signal_hook::flag::register(number, flag.clone())?;
            signal_hook::low_level::pipe::register(number, signal.try_clone()?)?;
        }
        Ok(Self { wake, wanted, reload })
    }

    pub fn drain(&mut self) {
        let mut bytes = [0; 64];
        while self.wake.read(&mut bytes).is_ok_and(|length| length > 0) {}
    }

    pub fn take_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    pub fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }
}
