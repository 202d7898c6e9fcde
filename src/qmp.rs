//! A client of QEMU's monitor protocol (QMP): one command at a time.
//!
//! ```text
//! QEMU    {"QMP": {"version": ...}}                       greeting, once nobody else is served
//! client  {"execute": "qmp_capabilities"}
//! QEMU    {"return": {}}
//! client  {"execute": "stop", "id": 7}
//! QEMU    {"timestamp": ..., "event": "STOP"}             between answers, at any time
//! QEMU    {"return": {}, "id": 7}   or   {"error": {"desc": ...}, "id": 7}
//! ```

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// How long QEMU may take to answer: it does so between two pieces of its other work.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long until it greets; it does not while it serves another client.
const GREETING: Duration = Duration::from_secs(10);

pub struct Qmp {
    reader: BufReader<UnixStream>,
    /// The socket, for messages.
    shown: String,
    ids: u64,
}

impl Qmp {
    pub fn connect(socket: &Path) -> Result<Self> {
        let shown = socket.display().to_string();
        let context = |e: io::Error| Error::io(format!("QMP socket {shown}"), e);
        let stream = UnixStream::connect(socket).map_err(context)?;
        stream.set_read_timeout(Some(GREETING)).map_err(context)?;
        let mut qmp = Self { reader: BufReader::new(stream), shown: shown.clone(), ids: 0 };
        let greeting = qmp.line().map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Invalid(format!(
                "QMP socket {shown}: nobody greets there; QEMU serves one client at a time: disconnect the other one, \
                 or give QEMU a second -qmp"
            )),
            _ => context(e),
        })?;
        if greeting.get("QMP").is_none() {
            return Err(Error::Invalid(format!(
                "QMP socket {shown}: what answers there is not QMP: name the socket of QEMU's -qmp"
            )));
        }
        qmp.reader.get_ref().set_read_timeout(Some(PATIENCE)).map_err(context)?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Goes on with a connection that another process has used and lost, in whichever state.
    pub fn resume(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        // Answers to the other one's commands have lower ids.
        Ok(Self { reader: BufReader::new(stream), shown: "QMP".into(), ids: 1 << 32 })
    }

    pub fn stream(&self) -> &UnixStream {
        self.reader.get_ref()
    }

    /// What a command returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.send(command, arguments, None)
    }

    /// Hands QEMU a descriptor, which its commands then call `name`.
    pub fn give(&mut self, name: &str, file: impl AsFd) -> Result<()> {
        self.send("getfd", json!({ "fdname": name }), Some(file.as_fd())).map(drop)
    }

    fn send(&mut self, command: &str, arguments: Value, file: Option<BorrowedFd<'_>>) -> Result<Value> {
        self.ids += 1;
        let text = json!({ "execute": command, "arguments": arguments, "id": self.ids }).to_string() + "\n";
        let sent = match file {
            None => self.reader.get_mut().write_all(text.as_bytes()),
            Some(file) => send_with(self.reader.get_ref(), text.as_bytes(), file),
        };
        sent.and_then(|()| self.answer())
            .map_err(|e| Error::io(format!("{}: {command}: QEMU does not answer", self.shown), e))?
            .map_err(|why| Error::Invalid(format!("{}: QEMU refused {command}: {why}", self.shown)))
    }

    fn answer(&mut self) -> io::Result<std::result::Result<Value, String>> {
        loop {
            let mut message = self.line()?;
            if message["id"] != self.ids {
                continue;
            }
            return Ok(match message.get("error") {
                Some(error) => Err(error["desc"].as_str().unwrap_or("it did not say why").to_owned()),
                None => Ok(message["return"].take()),
            });
        }
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
            // After another client's death the rest of an answer to it may come first.
            _ => Ok(serde_json::from_str(&line).unwrap_or_default()),
        }
    }
}

fn send_with(stream: &UnixStream, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    let mut stream = stream;
    stream.write_all(&bytes[sent..])
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Answers each line that it gets with the next of `answers`.
    fn serve(greeting: &str, answers: &[&str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let (greeting, answers) =
            (greeting.to_owned(), answers.iter().map(|answer| (*answer).to_owned()).collect::<Vec<_>>());
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut writer = stream.try_clone().unwrap();
            writer.write_all(greeting.as_bytes()).unwrap();
            let mut lines = BufReader::new(stream).lines();
            for answer in answers {
                let _ = lines.next();
                let _ = writer.write_all(answer.as_bytes());
            }
        });
        (directory, path)
    }

    const GREETED: &str = "{\"QMP\": {}}\r\n";
    const CAPABLE: &str = "{\"return\": {}, \"id\": 1}\r\n";

    #[test]
    fn events_and_answers_to_others_are_passed_over() {
        let answer = "{\"event\": \"STOP\"}\r\n{\"return\": 1, \"id\": 1}\r\n{\"return\": 2, \"id\": 2}\r\n";
        let (_directory, path) = serve(GREETED, &[CAPABLE, answer]);
        let mut qmp = Qmp::connect(&path).unwrap();
        assert_eq!(qmp.execute("x", json!({})).unwrap(), 2);
    }

    #[test]
    fn a_refusal_and_a_hang_up_are_one_line_that_names_the_command() {
        let (_directory, path) =
            serve(GREETED, &[CAPABLE, "{\"error\": {\"desc\": \"no such\"}, \"id\": 2}\r\n"]);
        let mut qmp = Qmp::connect(&path).unwrap();
        let error = qmp.execute("migrate", json!({})).unwrap_err().to_string();
        assert!(error.ends_with("QEMU refused migrate: no such"), "{error}");
        let error = qmp.execute("stop", json!({})).unwrap_err().to_string();
        assert!(error.contains("stop: QEMU does not answer: "), "{error}");
    }

    #[test]
    fn what_is_not_qmp_is_refused() {
        let (_directory, path) = serve("{}\n", &[]);
        let error = Qmp::connect(&path).err().unwrap().to_string();
        assert!(error.contains("is not QMP"), "{error}");
        let error = Qmp::connect(Path::new("/nonexistent/qmp")).err().unwrap().to_string();
        assert!(error.contains("QMP socket /nonexistent/qmp"), "{error}");
    }
}
