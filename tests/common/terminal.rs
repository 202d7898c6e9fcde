//! A terminal that a test uses as a person does: types, presses keys, reads the screen.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::limit::{Registered, on_expiry, poll};

const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal with a shell in it, on a tmux server of its own.
pub struct Terminal {
    socket: PathBuf,
    _directory: TempDir,
    _killed_on_expiry: Registered,
}

impl Terminal {
    /// 110 columns and 30 rows. None, and the reason printed, where there is no tmux.
    pub fn start() -> Option<Self> {
        Self::of(110, 30)
    }

    pub fn of(columns: usize, rows: usize) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            println!("skipped: tmux is not installed");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("templatefs-tmux-").tempdir().unwrap();
        let socket = directory.path().join("socket");
        let registered = on_expiry({
            let socket = socket.clone();
            move || kill_server(&socket)
        });
        let terminal = Self { socket, _directory: directory, _killed_on_expiry: registered };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let size = ["-x", &columns, "-y", &rows];
        terminal
            .tmux(&[&["-f", "/dev/null", "new-session", "-d"][..], &size, &["env", "PS1=$ ", "sh"]].concat());
        terminal.wait_for("a prompt", |screen| screen.contains('$'));
        Some(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-u", "-S"]).arg(&self.socket).args(arguments);
        let output = command.env("LC_ALL", "C.UTF-8").env_remove("TMUX").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn type_line(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    pub fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// The screen as soon as it is as wanted.
    #[track_caller]
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        let found = poll(PATIENCE, || {
            screen = self.tmux(&["capture-pane", "-p"]);
            wanted(&screen).then_some(())
        });
        assert!(found.is_some(), "no {what}:\n{screen}");
        screen
    }

    /// Echo, line editing and signals as a shell leaves them.
    #[track_caller]
    pub fn assert_restored(&self) {
        self.type_line("clear; stty -a | tr ' ' '\\n' | grep -cxE 'icanon|echo|isig|opost'");
        self.wait_for("a terminal as it was", |screen| screen.lines().any(|line| line == "4"));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        kill_server(&self.socket);
    }
}

fn kill_server(socket: &Path) {
    let _ = Command::new("tmux").arg("-S").arg(socket).arg("kill-server").stderr(Stdio::null()).status();
}
