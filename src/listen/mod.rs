//! `--metrics-listen`: GET /metrics over HTTP, for a scraper on this host.
//!
//! On threads of its own: one that receives clients, and one for each of `http::MAX_CLIENTS` at
//! most, who have `http::PATIENCE` to ask and as long to take the answer. No thread that serves
//! the mount waits for any of these.

mod http;

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use crate::error::{Error, Result};
use crate::name::printable;
use http::Desk;

/// Where to listen: nowhere but on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Loopback(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// `127.0.0.1:PORT`, `[::1]:PORT` or `unix:PATH`; port 0 lets the kernel choose.
    pub fn parse(text: &str) -> Result<Self> {
        let wanted = "it is 127.0.0.1:PORT, [::1]:PORT or unix:PATH";
        let shown = printable(text.as_bytes());
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(Error::Invalid(format!("metrics_listen={shown}: {wanted}")));
            }
            let path =
                std::path::absolute(path).map_err(|e| Error::io(format!("metrics_listen={shown}"), e))?;
            return Ok(Self::Unix(path));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
            Ok(_) => Err(Error::Invalid(format!(
                "metrics_listen={shown}: anybody on the network could read it there; {wanted}"
            ))),
            Err(_) => Err(Error::Invalid(format!("metrics_listen={shown}: {wanted}"))),
        }
    }
}

impl Address {
    /// As [`Self::parse`] takes it.
    pub fn option(&self) -> String {
        match self {
            Self::Loopback(address) => address.to_string(),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(f, "http://{address}/metrics"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Listens, and answers nobody yet.
pub struct Listener {
    sockets: Sockets,
    address: Address,
}

enum Sockets {
    Tcp(TcpListener),
    Unix(UnixListener, OwnFile),
}

/// Removes a socket's file at the end, unless another has taken its place.
struct OwnFile {
    path: PathBuf,
    file: (u64, u64),
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    pub fn bind(address: &Address) -> Result<Self> {
        let failed = |e| Error::io(format!("metrics_listen: {address}"), e);
        match address {
            Address::Loopback(wanted) => {
                let listener = TcpListener::bind(wanted).map_err(failed)?;
                let address = Address::Loopback(listener.local_addr().map_err(failed)?);
                Ok(Self { sockets: Sockets::Tcp(listener), address })
            }
            Address::Unix(path) => {
                make_way(path)?;
                let (listener, file) = bind_unix(path).map_err(failed)?;
                Ok(Self { sockets: Sockets::Unix(listener, file), address: address.clone() })
            }
        }
    }

    /// Answers with what `metrics` gives, until the result is dropped or the program ends.
    pub fn serve(self, metrics: impl Fn() -> Option<String> + Send + Sync + 'static) -> Result<Serving> {
        let desk = Arc::new(Desk::new(metrics));
        let failed = |e| Error::io("metrics_listen: threads", e);
        let thread = thread::Builder::new().name("metrics".into());
        let file = match self.sockets {
            Sockets::Tcp(listener) => {
                thread
                    .spawn(move || listener.incoming().for_each(|client| desk.admit(client)))
                    .map_err(failed)?;
                None
            }
            Sockets::Unix(listener, file) => {
                thread
                    .spawn(move || listener.incoming().for_each(|client| desk.admit(client)))
                    .map_err(failed)?;
                Some(file)
            }
        };
        log::info!("metrics are served on {}", self.address);
        Ok(Serving { _file: file })
    }
}

/// Holds the file of a unix socket.
pub struct Serving {
    _file: Option<OwnFile>,
}

/// A socket file that nobody listens on is left from a daemon that was killed. Anything else there
/// is not ours to remove.
fn make_way(path: &Path) -> Result<()> {
    let shown = path.display();
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(Error::Invalid(format!(
            "metrics_listen=unix:{shown}: a file that is no socket is there"
        )));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(e) => Err(Error::io(format!("metrics_listen=unix:{shown}"), e)),
        Ok(_) => Err(Error::Invalid(format!("metrics_listen=unix:{shown}: somebody listens there already"))),
    }
}

/// Under a name of its own first: nobody may connect before the mode is right, and the old file
/// goes in the same step.
fn bind_unix(path: &Path) -> io::Result<(UnixListener, OwnFile)> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let unfinished = path.with_file_name(name);
    let listener = UnixListener::bind(&unfinished)?;
    let finish = || {
        fs::set_permissions(&unfinished, Permissions::from_mode(0o600))?;
        let metadata = fs::symlink_metadata(&unfinished)?;
        fs::rename(&unfinished, path)?;
        Ok(OwnFile { path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    };
    let file = finish().inspect_err(|_: &io::Error| drop(fs::remove_file(&unfinished)))?;
    Ok((listener, file))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    use super::http::{MAX_CLIENTS, PATIENCE};
    use super::*;

    fn ask(client: &mut (impl Read + Write), request: &str) -> String {
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    fn metrics() -> Option<String> {
        Some("up 1\n".into())
    }

    #[test]
    fn nothing_but_this_host_is_listened_on() {
        assert!(matches!(Address::parse("127.0.0.1:9"), Ok(Address::Loopback(_))));
        assert!(matches!(Address::parse("[::1]:0"), Ok(Address::Loopback(_))));
        assert_eq!(Address::parse("unix:/run/m").unwrap(), Address::Unix("/run/m".into()));
        for text in ["0.0.0.0:9", "[::]:9", "192.0.2.1:9", "9", ":9", "localhost:9", "127.0.0.1", "unix:", ""]
        {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains("127.0.0.1:PORT") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn metrics_are_there_and_nothing_else_is() {
        let listener = Listener::bind(&Address::parse("127.0.0.1:0").unwrap()).unwrap();
        let Address::Loopback(address) = listener.address else { panic!() };
        assert_ne!(address.port(), 0);
        let _serving = listener.serve(metrics).unwrap();
        let ask = |request: &str| ask(&mut TcpStream::connect(address).unwrap(), request);
        let answer = ask("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nup 1\n"), "{answer}");
        assert!(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask("\x01\x02\r\n\r\n").starts_with("HTTP/1.1 400 "));
    }

    /// More clients that say nothing than there are places: one who asks is served once they have
    /// had their time, or at once while a place is free.
    #[test]
    fn silent_clients_do_not_keep_the_others_out_for_long() {
        let listener = Listener::bind(&Address::parse("127.0.0.1:0").unwrap()).unwrap();
        let Address::Loopback(address) = listener.address else { panic!() };
        let _serving = listener.serve(metrics).unwrap();
        let asks = || {
            let mut client = TcpStream::connect(address).unwrap();
            let mut answer = String::new();
            let _ = client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
            let _ = client.read_to_string(&mut answer);
            answer.ends_with("up 1\n")
        };
        let mut silent: Vec<_> = (1..MAX_CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert!(asks(), "a place is free");
        silent.extend((0..MAX_CLIENTS).map(|_| TcpStream::connect(address).unwrap()));
        let until = Instant::now() + 4 * PATIENCE;
        while !asks() {
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_ours_is_removed_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.sock");
        let address = Address::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as a killed daemon leaves it");
        let serving = Listener::bind(&address).unwrap().serve(metrics).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let answer = ask(&mut UnixStream::connect(&path).unwrap(), "GET /metrics HTTP/1.0\r\n\r\n");
        assert!(answer.ends_with("up 1\n"), "{answer}");
        let refused = Listener::bind(&address).err().unwrap().to_string();
        assert!(refused.contains("somebody listens there already"), "{refused}");
        drop(serving);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        fs::write(&path, b"mine").unwrap();
        assert!(Listener::bind(&address).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
