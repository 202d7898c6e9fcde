//! What is written to the control directory: a profile to be taken over, to `profiles/import`.
//!
//! It is collected as it is written and looked at on fsync(2), whose answer the writer waits for.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Control;
use crate::error::{Error, Result};
use crate::profile::{self, MAX_FILE};

impl Control {
    pub fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<()> {
        let mut incoming = self.incoming.get_mut(&handle).ok_or_else(not_writable)?;
        let in_order = offset == incoming.len() as u64;
        if !in_order || offset + data.len() as u64 > MAX_FILE {
            return Err(Error::Invalid(format!(
                "profiles/import: a profile is written from its start to its end, and has at most {MAX_FILE} bytes"
            )));
        }
        incoming.extend_from_slice(data);
        Ok(())
    }

    /// Takes over what was written.
    pub fn commit(&self, handle: u64) -> Result<()> {
        let bytes = std::mem::take(&mut *self.incoming.get_mut(&handle).ok_or_else(not_writable)?);
        let profile =
            profile::decode(&bytes).map_err(|why| Error::Invalid(format!("profiles/import: {why}")))?;
        let template = Path::new(OsStr::from_bytes(&profile.template)).to_owned();
        let identity = self.engine.identity(&template)?;
        self.profiles.import(&template, &identity, profile)?;
        log::info!("{}: a profile was imported", template.display());
        Ok(())
    }
}

fn not_writable() -> Error {
    Error::io("a control file that is not open for writing", rustix::io::Errno::BADF)
}
