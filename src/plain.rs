//! Files of the state directory, as this program makes them. Whatever else has taken the place of one is
//! refused, and neither followed elsewhere nor waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::io::Errno;

pub fn open(path: &Path, write: bool) -> io::Result<File> {
    regular(path, OpenOptions::new().read(true).write(write))
}

/// A new file, or an old one emptied, for its owner alone. Another thing that has its name loses it.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    match regular(path, &mut options) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            std::fs::remove_file(path)?;
            regular(path, options.create_new(true))
        }
        made => made,
    }
}

fn regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let other = || io::Error::new(io::ErrorKind::InvalidData, "it is no regular file");
    match options.open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(other()),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => Err(other()),
            _ => Err(error),
        },
    }
}

pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path, false)?.read_to_end(&mut bytes).map(|_| bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once_or_makes_room() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), b"content").unwrap();
        assert_eq!(read(&at("file")).unwrap(), b"content");
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        for name in ["link", "fifo", "socket", "directory"] {
            for write in [false, true] {
                let error = open(&at(name), write).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
            }
        }
        assert_eq!(open(&at("nothing"), true).unwrap_err().kind(), io::ErrorKind::NotFound);
        for name in ["link", "fifo", "socket", "nothing"] {
            create(&at(name)).unwrap();
            assert_eq!(read(&at(name)).unwrap(), b"", "{name}");
        }
        assert!(create(&at("directory")).is_err());
        assert_eq!(read(&at("file")).unwrap(), b"content", "nobody wrote where the link led");
        create(&at("file")).unwrap();
        assert_eq!(read(&at("file")).unwrap(), b"");
    }
}
