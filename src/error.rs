//! One error type for everything that can go wrong below a mount or on the command line, and the
//! one place where it becomes an errno.

use std::io;

use rustix::io::Errno;

use crate::name::NameError;
use crate::rules::Conflict;

pub type Result<T> = std::result::Result<T, Error>;

/// Each text is one line: the path or option, what was wrong and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{path}: {source}")]
    Name { path: String, source: NameError },
    #[error("{path}: {source}")]
    Conflict { path: String, source: Conflict },
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    NotPermitted(String),
    #[error("{0}")]
    ReadOnly(String),
    /// The file behind a path is no longer the one that it was.
    #[error("{0}")]
    Stale(String),
    /// A template is being written while views need it, or the other way round.
    #[error("{0}")]
    InUse(String),
    /// A view's name belongs to a view of another template.
    #[error("{0}")]
    NameTaken(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("{0}")]
    NotADirectory(String),
    /// lseek(SEEK_DATA) past the last data.
    #[error("no data at or after that offset")]
    NoMoreData,
    /// An extended attribute that a file does not have.
    #[error("{0}")]
    NoAttribute(String),
    #[error("{0}")]
    TooLarge(String),
    /// The mount's budget is spent.
    #[error("{0}")]
    NoRoom(String),
    /// A limit that the operator set.
    #[error("{0}")]
    Quota(String),
    #[error("{context}: {source}")]
    Io { context: String, source: io::Error },
}

impl Error {
    pub fn io(context: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { context: context.into(), source: source.into() }
    }

    /// May it work another time without anybody putting anything right but the disk, its room or this
    /// machine's? What is damaged or gone will not.
    pub fn may_pass(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(
            Errno::from_io_error(source),
            Some(
                Errno::IO
                    | Errno::ROFS
                    | Errno::NOSPC
                    | Errno::DQUOT
                    | Errno::MFILE
                    | Errno::NFILE
                    | Errno::NOMEM
                    | Errno::NOTCONN
                    | Errno::TIMEDOUT
                    | Errno::HOSTUNREACH
            )
        )
    }

    /// What a caller of a system call sees.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Name { .. } | Self::Conflict { .. } | Self::Invalid(_) => Errno::INVAL,
            Self::NotFound(_) => Errno::NOENT,
            Self::Denied(_) => Errno::ACCESS,
            Self::NotPermitted(_) => Errno::PERM,
            Self::ReadOnly(_) => Errno::ROFS,
            Self::Stale(_) => Errno::STALE,
            Self::InUse(_) => Errno::TXTBSY,
            Self::NameTaken(_) => Errno::EXIST,
            Self::Unsupported(_) => Errno::OPNOTSUPP,
            Self::NotADirectory(_) => Errno::NOTDIR,
            Self::NoMoreData => Errno::NXIO,
            Self::NoAttribute(_) => Errno::NODATA,
            Self::TooLarge(_) => Errno::FBIG,
            Self::Quota(_) => Errno::DQUOT,
            Self::NoRoom(_) => Errno::NOSPC,
            Self::Io { source, .. } => io_errno(source),
        }
    }
}

/// The daemon's own limit on open files is the caller's "system limit": EMFILE would tell a
/// caller that it has too many files open itself.
fn io_errno(source: &io::Error) -> Errno {
    match Errno::from_io_error(source) {
        Some(Errno::MFILE) => Errno::NFILE,
        Some(errno) => errno,
        None if source.kind() == io::ErrorKind::OutOfMemory => Errno::NOMEM,
        None => Errno::IO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_files_is_the_systems_limit_and_not_the_callers() {
        let error = Error::io("open", io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(error.errno(), Errno::NFILE);
        let full = Error::io("write", io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(full.errno(), Errno::NOSPC);
    }

    #[test]
    fn what_is_damaged_or_gone_is_not_waited_for() {
        let of = |errno: Errno| Error::io("read", errno).may_pass();
        assert!([Errno::IO, Errno::ROFS, Errno::NOSPC, Errno::MFILE].into_iter().all(of));
        assert!(![Errno::NOENT, Errno::ACCESS, Errno::NOTDIR].into_iter().any(of));
        let damaged = io::Error::new(io::ErrorKind::InvalidData, "its page states are damaged");
        assert!(!Error::io("read", damaged).may_pass() && !Error::Stale("damaged".into()).may_pass());
    }
}
