//! One client, one request, one answer.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub const MAX_CLIENTS: usize = 8;
/// Less in tests, which wait for its end.
pub const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 1000 } else { 5000 });
/// A request's line and headers.
const MAX_HEAD: usize = 8 << 10;
const MAX_HEADERS: usize = 64;

/// Where clients are received.
pub struct Desk {
    metrics: Box<dyn Fn() -> Option<String> + Send + Sync>,
    clients: AtomicUsize,
    /// The figures are collected for one client at a time.
    one: Mutex<()>,
}

impl Desk {
    pub fn new(metrics: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self { metrics: Box::new(metrics), clients: AtomicUsize::new(0), one: Mutex::new(()) }
    }

    /// A client too many is turned away, as is one for whom there is no thread.
    pub fn admit<C: Client>(self: &Arc<Self>, client: io::Result<C>) {
        let Ok(client) = client else {
            // Out of descriptors, most likely: trying again at once would only burn a CPU.
            return thread::sleep(Duration::from_millis(100));
        };
        if self.clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
            self.clients.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let place = Place(self.clone());
        let answer = move || drop(place.0.answer(client));
        // Without a thread `place` is dropped with the closure.
        let _ = thread::Builder::new().name("metrics-client".into()).spawn(answer);
    }

    fn answer(&self, mut client: impl Client) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let (status, kind, body) = match read_head(&mut client, deadline)? {
            Asked::Metrics => match self.collect() {
                Some(text) => ("200 OK", crate::inspect::metrics::CONTENT_TYPE, text),
                None => ("503 Service Unavailable", "text/plain", "the mount is not complete yet\n".into()),
            },
            Asked::Other => ("404 Not Found", "text/plain", "there is /metrics and nothing else\n".into()),
            Asked::Nonsense => ("400 Bad Request", "text/plain", "this is no HTTP request\n".into()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        // Collecting took its time: the client has a new deadline to take it.
        write_all(&mut client, [head, body].concat().as_bytes(), Instant::now() + PATIENCE)
    }

    fn collect(&self) -> Option<String> {
        let _one = self.one.try_lock_for(PATIENCE)?;
        (self.metrics)()
    }
}

struct Place(Arc<Desk>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

pub trait Client: Read + Write + Send + 'static {
    /// How long the next read and write may take.
    fn limit(&self, time: Duration) -> io::Result<()>;
}

impl Client for TcpStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

impl Client for UnixStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

enum Asked {
    Metrics,
    Other,
    Nonsense,
}

fn read_head(client: &mut impl Client, deadline: Instant) -> io::Result<Asked> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        client.limit(left(deadline)?)?;
        let length = client.read(&mut piece)?;
        head.extend_from_slice(&piece[..length]);
        match asked(&head) {
            Some(asked) => return Ok(asked),
            None if length == 0 || head.len() > MAX_HEAD => return Ok(Asked::Nonsense),
            None => {}
        }
    }
}

/// None where the head is not complete yet.
fn asked(head: &[u8]) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => {
            let path = request.path.unwrap_or_default().split('?').next();
            let is_metrics = request.method == Some("GET") && path == Some("/metrics");
            Some(if is_metrics { Asked::Metrics } else { Asked::Other })
        }
        Err(_) => Some(Asked::Nonsense),
    }
}

fn write_all(client: &mut impl Client, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        client.limit(left(deadline)?)?;
        match client.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            length => bytes = &bytes[length..],
        }
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}
