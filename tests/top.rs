//! `top` on a real mount: plain in a pipe, and driven through a terminal, where its screen is read.

mod common;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use common::costly::{Costly, SHARED, id_of};
use common::limit::{limit, poll};
use common::mounted::binary;
use common::terminal::Terminal;

const PATIENCE: Duration = Duration::from_secs(20);
#[test]
fn top_is_plain_where_there_is_no_terminal() {
    let _limit = limit(Duration::from_secs(60));
    let mut fixture = Costly::new();
    let once = fixture.stdout(&["top", "--once"]);
    assert!(once.starts_with("4 views  2 VMs  cost ") && once.contains("growth -\n"), "{once}");
    assert!(once.lines().all(|line| line.chars().count() <= 100) && !once.contains('\x1b'), "{once}");

    let mut top = Command::new(binary())
        .args(["top", "--interval", "0.1"])
        .arg(&fixture.mounted.mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let frames = lines_of(&mut top);
    let wait_for = |what: &str, wanted: &dyn Fn(&str) -> bool| {
        let found = poll(PATIENCE, || frames.try_iter().find(|line| wanted(line)));
        found.unwrap_or_else(|| panic!("no frame with {what}"))
    };
    wait_for("a second look", &|line| line.ends_with("growth 0 B/s"));
    fixture.dirty_shared(SHARED, SHARED);
    let row = wait_for("growth", &|line| line.starts_with("web-1 ") && line.contains(" +"));
    assert!(!row.contains('\x1b'), "{row:?}");
    wait_for("the new pages", &|line| line.starts_with("web-1 ") && line.contains("384K"));

    fixture.let_go();
    assert!(fixture.mounted.stop().success());
    let status = poll(PATIENCE, || top.try_wait().unwrap());
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    let mut error = String::new();
    std::io::Read::read_to_string(&mut top.stderr.take().unwrap(), &mut error).unwrap();
    assert!(error.starts_with("templatefs: ") && error.contains("no templatefs is mounted there"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// What it prints, line by line, without waiting for it.
fn lines_of(child: &mut Child) -> std::sync::mpsc::Receiver<String> {
    let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(stdout).map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

#[test]
fn a_reader_that_goes_away_ends_top() {
    let _limit = limit(Duration::from_secs(60));
    let fixture = Costly::new();
    let mut top = Command::new(binary())
        .args(["top", "--interval", "0.1"])
        .arg(&fixture.mounted.mountpoint)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(top.stdout.take());
    let status = poll(PATIENCE, || top.try_wait().unwrap());
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

/// The ids of the rows on a screen of `top`, in their order.
fn rows(screen: &str) -> Vec<&str> {
    column(screen, 0)
}

/// One column of these rows.
fn column(screen: &str, index: usize) -> Vec<&str> {
    let rows = screen.lines().skip_while(|line| !line.starts_with("  VIEW")).skip(1);
    let words = rows.take_while(|line| !line.is_empty());
    words.map(|line| line.trim_start_matches('>').split_whitespace().nth(index).unwrap_or("")).collect()
}

#[test]
fn top_on_a_terminal_shows_sorts_and_explains() {
    let _limit = limit(Duration::from_secs(120));
    let Some(terminal) = Terminal::start() else { return };
    let mut fixture = Costly::new();
    let anonymous = id_of(&fixture.json(&["views", "--json"]), "db");
    terminal.type_line("echo before");
    let command =
        format!("{} top --interval 0.2 {}", binary().display(), fixture.mounted.mountpoint.display());
    terminal.type_line(&format!("{command}; echo code=$?"));

    let screen = terminal.wait_for("rows", |screen| rows(screen).len() == 4 && screen.contains("q quit"));
    assert!(screen.contains("4 views  2 VMs  cost ") && screen.contains("COST▼"), "{screen}");
    assert_eq!(rows(&screen)[..2], ["web-1", &anonymous], "{screen}");
    // 48 of 256 pages of one view are its own.
    let row = screen.lines().find(|line| line.contains("web-1")).unwrap();
    let (own, rest) = (row.matches('█').count(), row.matches('·').count());
    assert!(own > 0 && (own * 256 / (own + rest)).abs_diff(48) <= 256 / (own + rest), "{screen}");
    println!("{screen}");

    terminal.press("n");
    terminal.wait_for("order of names", |screen| rows(screen).get(2..) == Some(&["idle", "web-1"]));
    terminal.press("r");
    terminal.wait_for("the reverse", |screen| rows(screen).get(..2) == Some(&["web-1", "idle"]));
    terminal.press("g");
    fixture.dirty_shared(SHARED, 2 * SHARED);
    terminal.wait_for("growth", |screen| rows(screen).first() == Some(&"web-1") && screen.contains("576K"));

    terminal.press("v");
    let vms = |screen: &str| column(screen, 1).join(" ");
    terminal.wait_for("order of VMs", |screen| vms(screen) == "db web web -" && screen.contains("VM▲"));
    terminal.press("c");
    let by_cost = ["web-1", &anonymous];
    terminal.wait_for("order of cost", |screen| {
        rows(screen).get(..2) == Some(&by_cost) && screen.contains("COST▼")
    });
    fixture.punch(3 * SHARED..4 * SHARED);
    // 48 of 256 pages, in a bar of 22 cells.
    let row = |screen: &str| screen.lines().find(|line| line.contains("web-1")).unwrap_or("").to_owned();
    terminal.wait_for("punched pages", |screen| row(screen).matches('░').count() == 4);

    terminal.press("p");
    terminal.press("Down");
    terminal.wait_for("a selection", |screen| screen.contains("\n> web-1 "));
    terminal.press("Enter");
    let me = std::process::id().to_string();
    // A screen may be captured while it is being drawn: all that is expected is waited for.
    let expected = ["┌ web-1  debian/12.ram ", "private            576 KiB", &me];
    let screen =
        terminal.wait_for("the detail pane", |screen| expected.iter().all(|text| screen.contains(text)));
    println!("{screen}");
    terminal.press("Escape");
    terminal.wait_for("the list again", |screen| rows(screen).len() == 4);

    terminal.press("q");
    let screen = terminal.wait_for("the shell", |screen| screen.contains("\ncode=0\n"));
    assert!(screen.contains("\nbefore\n") && !screen.contains("COST"), "{screen}");
    terminal.assert_restored();
}

/// Reading the figures waits for the daemon; the keys must not.
#[test]
fn top_answers_keys_while_the_daemon_does_not_answer() {
    let _limit = limit(Duration::from_secs(60));
    let Some(terminal) = Terminal::start() else { return };
    let fixture = Costly::new();
    let command =
        format!("{} top --interval 0.1 {}", binary().display(), fixture.mounted.mountpoint.display());
    terminal.type_line(&format!("{command}; echo code=$?"));
    terminal.wait_for("rows", |screen| rows(screen).first() == Some(&"web-1"));
    kill_process(fixture.mounted.serving(), Signal::STOP).unwrap();
    terminal.press("n");
    terminal.wait_for("order of names", |screen| rows(screen).last() == Some(&"web-1"));
    terminal.wait_for("the age of the figures", |screen| screen.contains("(no new figures for "));
    kill_process(fixture.mounted.serving(), Signal::CONT).unwrap();
    terminal.wait_for("new figures", |screen| !screen.contains("(no new figures for "));
    terminal.press("q");
    terminal.wait_for("the shell", |screen| screen.contains("\ncode=0\n"));
}

#[test]
fn top_restores_the_terminal_when_it_is_killed_or_loses_the_mount() {
    let _limit = limit(Duration::from_secs(120));
    let Some(terminal) = Terminal::start() else { return };
    let mut fixture = Costly::new();
    let command =
        format!("{} top --interval 0.2 {}", binary().display(), fixture.mounted.mountpoint.display());
    terminal.type_line(&format!("{command}; echo code=$?"));
    terminal.wait_for("rows", |screen| rows(screen).len() == 4);
    let pid = pid_of_top(&fixture);
    kill_process(pid, Signal::INT).unwrap();
    terminal.wait_for("the shell", |screen| screen.contains("\ncode=0\n"));
    terminal.assert_restored();

    terminal.type_line(&format!("clear; {command}; echo code=$?"));
    terminal.wait_for("rows", |screen| rows(screen).len() == 4);
    fixture.mounted.kill();
    let screen = terminal.wait_for("the shell", |screen| screen.contains("\ncode=1\n"));
    assert!(screen.contains("templatefs: ") && screen.contains("no templatefs is mounted there"), "{screen}");
    terminal.assert_restored();
}

/// The `top` that watches this mount.
fn pid_of_top(fixture: &Costly) -> Pid {
    let wanted = fixture.mounted.mountpoint.as_os_str().as_encoded_bytes();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        (words.get(1) == Some(&&b"top"[..]) && words.contains(&wanted)).then_some(pid)
    });
    Pid::from_raw(processes.last().expect("a running top")).unwrap()
}
