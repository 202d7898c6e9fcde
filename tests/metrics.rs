//! The metrics of a real mount, as a scraper gets them; and what is shipped to use them.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use common::files::{SOON, opened};
use common::limit::{limit, poll};
use common::mounted::{Mounted, Options, again_as_ordinary_user, binary};
use rustix::fs::{FallocateFlags, fallocate};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/mount-scripts");

/// A mount with a view of each kind, and something of each family in its metrics.
fn busy(arguments: &[&'static str]) -> (Mounted, Vec<File>) {
    let mounted = Mounted::start(Options::with(arguments));
    mounted.template("debian/12.ram", &[1; 64 * 4096]);
    let rom = File::open(mounted.path("debian/12.ram?vm=web-1")).unwrap();
    let view = File::options()
        .read(true)
        .write(true)
        .open(mounted.path("debian/12.ram?rom=off&view=v&vm=web-1"))
        .unwrap();
    view.write_all_at(&[7; 8192], 0).unwrap();
    let mut page = [0; 4096];
    view.read_exact_at(&mut page, 40960).unwrap();
    (mounted, vec![rom, view])
}

fn control(mounted: &Mounted) -> String {
    fs::read_to_string(mounted.path(".templatefs/metrics")).unwrap()
}

/// The value of one series, written as in the text.
fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// None, and says so, where promtool is not installed.
fn promtool(arguments: &[&str], input: &str) -> Option<()> {
    let started = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = started else {
        println!("skipped: promtool (Debian's package prometheus) is not installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
    Some(())
}

fn get(client: &mut (impl Read + Write), path: &str) -> String {
    write!(client, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_scraper_gets_the_metrics_on_loopback() {
    let _limit = limit(Duration::from_secs(60));
    let (mut mounted, views) = busy(&["--metrics-listen", "127.0.0.1:0"]);
    let address = address(&mounted);
    assert!(!address.ends_with(":0"), "{address}");
    let answer = get(&mut TcpStream::connect(&address).unwrap(), "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
    assert_eq!(value(body, "templatefs_view_private_bytes{kind=\"private\"}"), Some(8192.0), "{body}");
    assert_eq!(value(body, "templatefs_vm_private_bytes{vm=\"web-1\"}"), Some(8192.0));
    assert_eq!(value(body, "templatefs_views{kind=\"rom\"}"), Some(1.0));
    assert!(get(&mut TcpStream::connect(&address).unwrap(), "/").starts_with("HTTP/1.1 404 "));
    promtool(&["check", "metrics"], body);
    drop(views);
    let silent = TcpStream::connect(&address).unwrap();
    assert!(mounted.stop().success(), "a client that says nothing does not hold the mount");
    drop(silent);
}

/// Where the mount that was made last serves its metrics.
fn address(mounted: &Mounted) -> String {
    mounted.wait_for_log("metrics are served on http://127.0.0.1:");
    mounted.log().rsplit("served on http://").next().unwrap().split('/').next().unwrap().to_owned()
}

/// Looking at views needs the mount's root open, which must not make it busy: scrapes go on while
/// the views are closed and it is unmounted.
#[test]
fn scrapes_do_not_hold_the_mount() {
    let _limit = limit(Duration::from_secs(120));
    let (mut mounted, views) = busy(&["--metrics-listen", "127.0.0.1:0"]);
    drop(views);
    for round in 0..3 {
        if round > 0 {
            mounted.mount();
        }
        let views: Vec<File> = (0..64).map(|_| opened(&mounted.path("debian/12.ram?rom=off"))).collect();
        let address = address(&mounted);
        let answered = Arc::new(AtomicUsize::new(0));
        let scraper = {
            let answered = answered.clone();
            move || {
                while let Ok(mut client) = TcpStream::connect(&address) {
                    let _ = client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
                    let mut answer = String::new();
                    let _ = client.read_to_string(&mut answer);
                    let whole = answer.contains("templatefs_view_open_files{kind=\"private\"} 64");
                    answered.fetch_add(usize::from(whole), Ordering::Relaxed);
                }
            }
        };
        let scrapers: Vec<_> = (0..4).map(|_| std::thread::spawn(scraper.clone())).collect();
        let scraped = poll(SOON, || (answered.load(Ordering::Relaxed) >= 4).then_some(()));
        assert!(scraped.is_some(), "round {round}: scrapes look at the views");
        drop(views);
        assert!(mounted.stop().success(), "round {round}");
        assert!(!mounted.log().contains("busy"), "{}", mounted.log());
        scrapers.into_iter().for_each(|scraper| scraper.join().unwrap());
    }
}

/// Clients that say nothing, say half of a request, or ask and never read: more than there are places.
fn stuck(address: &str) -> Vec<TcpStream> {
    let client = |index: usize| {
        let mut client = TcpStream::connect(address).unwrap();
        let said = ["", "GET /metr", "GET /metrics HTTP/1.1\r\n\r\n"][index % 3];
        let _ = client.write_all(said.as_bytes());
        client
    };
    (0..12).map(client).collect()
}

/// While scrapers are stuck, and others take the places of those that are turned away, views are
/// made, written, read, punched and looked at; and who asks properly is answered afterwards.
#[test]
fn stuck_scrapers_hold_nobody_up() {
    let _limit = limit(Duration::from_secs(120));
    let (mut mounted, mut views) = busy(&["--metrics-listen", "127.0.0.1:0"]);
    let address = address(&mounted);
    let (over, told) = channel::<()>();
    let crowd = {
        let address = address.clone();
        let mut clients = stuck(&address);
        std::thread::spawn(move || {
            while told.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout) {
                clients.extend(stuck(&address));
            }
            clients
        })
    };
    for turn in 0..40u8 {
        let view = opened(&mounted.path("debian/12.ram?rom=off"));
        view.write_all_at(&[turn; 4096], 0).unwrap();
        let mut page = [0; 4096];
        view.read_exact_at(&mut page, 0).unwrap();
        assert_eq!(page, [turn; 4096]);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&view, flags, 0, 4096).unwrap();
        views.push(view);
    }
    let seen = value(&control(&mounted), "templatefs_views{kind=\"private\"}");
    assert_eq!(seen, Some(41.0), "the control directory answers");
    drop(over);
    let clients = crowd.join().unwrap();
    let scraped = poll(SOON, || {
        let mut answer = String::new();
        let mut client = TcpStream::connect(&address).ok()?;
        client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").ok()?;
        client.read_to_string(&mut answer).ok()?;
        answer.contains("templatefs_views{kind=\"private\"} 41").then_some(())
    });
    assert!(scraped.is_some(), "who asks is answered once the stuck ones have had their time");
    let again: Vec<_> = (0..4).flat_map(|_| stuck(&address)).collect();
    drop(views);
    assert!(mounted.stop().success());
    assert!(!mounted.log().contains("busy"), "{}", mounted.log());
    drop((clients, again));
}

#[test]
fn a_unix_socket_serves_them_too_and_goes_with_the_mount() {
    let _limit = limit(Duration::from_secs(60));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metrics.sock");
    let option: &'static str = format!("metrics_listen=unix:{}", path.display()).leak();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut mounted = Mounted::start(Options::with(&["-o", option]));
    mounted.wait_for_log("metrics are served on unix:");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "its user's alone");
    let answer = get(&mut UnixStream::connect(&path).unwrap(), "/metrics");
    assert!(answer.contains("templatefs_build_info{version="), "{answer}");
    assert!(mounted.stop().success());
    assert!(!path.exists());
}

#[test]
fn a_mount_that_would_listen_to_the_network_is_refused_in_one_line() {
    let _limit = limit(Duration::from_secs(60));
    let directory = tempfile::tempdir().unwrap();
    for name in ["store", "mnt"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    let output = Command::new(binary())
        .args(["mount", "--metrics-listen", "0.0.0.0:9417"])
        .args([directory.path().join("store"), directory.path().join("mnt")])
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("127.0.0.1:PORT") && message.lines().count() == 1, "{message}");
}

/// Counters were made of the views that are there: when one went, a total ran backwards, and a
/// rate over it was nonsense.
#[test]
fn totals_never_go_backwards() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, views) = busy(&[]);
    let names = ["opens", "reads", "read_bytes", "writes", "write_bytes", "errors"];
    let total = |metrics: &str, name: &str| {
        value(metrics, &format!("templatefs_{name}_total{{kind=\"private\"}}")).unwrap()
    };
    let before = control(&mounted);
    assert_eq!(total(&before, "opens"), 1.0);
    assert_eq!(total(&before, "write_bytes"), 8192.0);
    assert!(total(&before, "reads") >= 1.0 && total(&before, "read_bytes") >= 4096.0);
    drop(views);
    fs::remove_file(mounted.path("debian/12.ram?rom=off&view=v")).unwrap();
    let after = control(&mounted);
    assert_eq!(value(&after, "templatefs_views{kind=\"private\"}"), None, "it is gone");
    for name in names {
        assert_eq!(total(&after, name), total(&before, name), "{name}");
    }
}

#[test]
fn as_an_ordinary_user_they_are_there_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("totals_never_go_backwards");
}

/// Each metric that a file speaks of.
fn named_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    words.filter(|word| word.starts_with("templatefs_")).map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alerts_speak_of_metrics_that_exist() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, _views) = busy(&["--budget", "1TiB"]);
    let metrics = control(&mounted);
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let exported: BTreeSet<String> = types.map(str::to_owned).collect();
    for file in ["grafana-dashboard.json", "prometheus-alerts.yml"] {
        let text = fs::read_to_string(Path::new(SCRIPTS).join(file)).unwrap();
        let named = named_in(&text);
        assert!(named.len() >= 5, "{file}: {named:?}");
        let missing: Vec<_> = named.difference(&exported).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
    let dashboard: serde_json::Value =
        serde_json::from_slice(&fs::read(Path::new(SCRIPTS).join("grafana-dashboard.json")).unwrap())
            .unwrap();
    let ids: BTreeSet<_> = dashboard["panels"].as_array().unwrap().iter().map(|p| p["id"].as_u64()).collect();
    assert_eq!(ids.len(), dashboard["panels"].as_array().unwrap().len());
    let documented =
        named_in(&fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/INSPECT.md")).unwrap());
    assert_eq!(documented, exported, "docs/INSPECT.md lists the metrics that there are");
}

#[test]
fn promtool_accepts_the_alert_rules_and_the_dashboards_queries() {
    let _limit = limit(Duration::from_secs(60));
    let rules = Path::new(SCRIPTS).join("prometheus-alerts.yml");
    if promtool(&["check", "rules", rules.to_str().unwrap()], "").is_none() {
        return;
    }
    // A query is checked as the expression of a rule; Grafana fills its variables in before.
    let text = fs::read_to_string(Path::new(SCRIPTS).join("grafana-dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    let panels = dashboard["panels"].as_array().unwrap();
    for (index, target) in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()).enumerate() {
        let expression = target["expr"].as_str().unwrap().replace("$instance", "all");
        rules.push_str(&format!("  - record: query:{index}\n    expr: {}\n", serde_json::json!(expression)));
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("queries.yml");
    fs::write(&file, rules).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], "");
}
