//! `views` on a real mount: figures, order, sums, and who sees what.

mod common;

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use common::costly::{COPIED, Costly, PAGE, SHARED, id_of};
use common::limit::limit;
use common::mounted::{Mounted, Options, again_as_ordinary_user, binary, is_root, run_as};

/// The first column of a table's rows, without header and total.
fn first_column(table: &str) -> Vec<&str> {
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().next().unwrap());
    rows.filter(|name| *name != "total").collect()
}

#[test]
fn views_tells_what_each_copy_costs() {
    let _limit = limit(Duration::from_secs(60));
    let fixture = Costly::new();
    let list = fixture.json(&["views", "--json"]);
    let views = list["views"].as_array().unwrap();
    assert_eq!((&list["schema"], views.len()), (&Value::from(1), 4));
    let mine = views.iter().find(|view| view["id"] == "web-1").unwrap();
    assert_eq!(mine["private_bytes"], SHARED * PAGE);
    assert_eq!(mine["mountpoint"], fixture.mounted.mountpoint.to_str().unwrap());
    let copied = views.iter().find(|view| view["vm"] == "db").unwrap();
    assert_eq!((&copied["cow_anon_bytes"], &copied["private_bytes"]), (&(COPIED * PAGE).into(), &0.into()));
    same_fields_as_the_mount(&fixture, mine);

    let table = fixture.stdout(&["views"]);
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    assert_eq!(first_column(&table)[..2], ["web-1", copied["id"].as_str().unwrap()], "{table}");
    let opener = &mine["opener"];
    let opener = format!("{}:{}", opener["comm"].as_str().unwrap(), opener["pid"]);
    let row = table.lines().find(|line| line.starts_with("web-1 ")).unwrap();
    assert!(row.contains("192K") && row.contains(&opener) && row.ends_with("  debian/12.ram"), "{table}");
    let row = table.lines().find(|line| line.starts_with('@') && line.contains("80K")).unwrap();
    assert!(row.contains("  db  "), "{table}");
    let total = table.lines().last().unwrap();
    assert!(total.starts_with("total  2 VMs") && total.ends_with("4 views"), "{table}");
}

#[test]
fn an_ordinary_users_views_tells_it_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("views_tells_what_each_copy_costs");
}

/// The JSON of the command is that of the mount, and the mount's name.
fn same_fields_as_the_mount(fixture: &Costly, view: &Value) {
    let text = std::fs::read(fixture.mounted.path(".templatefs/views.json")).unwrap();
    let source: Value = serde_json::from_slice(&text).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut expected = keys(&source["views"][0]);
    expected.push("mountpoint".into());
    expected.sort();
    let mut found = keys(view);
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn views_are_chosen_ordered_and_added_up() {
    let _limit = limit(Duration::from_secs(60));
    let fixture = Costly::new();
    let list = fixture.json(&["views", "--json"]);
    let anonymous = id_of(&list, "db");
    let ids = |arguments: &[&str]| {
        let table = fixture.stdout(&[&["views"], arguments].concat());
        first_column(&table).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ids(&["--sort", "copied"])[0], anonymous);
    assert_eq!(ids(&["--sort", "private"])[0], "web-1");
    let by_id = ids(&["--sort", "id"]);
    assert_eq!(by_id[2..], ["idle", "web-1"]);
    assert_eq!(ids(&["--template", "debian/12.ram"]), ["web-1", &anonymous]);
    assert!(ids(&["--template", "nothing"]).is_empty());

    let vms = fixture.json(&["views", "--by-vm", "--sort", "id", "--json"]);
    let shown: Vec<_> = vms["vms"].as_array().unwrap().iter().map(|vm| (&vm["vm"], &vm["views"])).collect();
    let (db, web, none) = (Value::from("db"), Value::from("web"), Value::Null);
    assert_eq!(shown, [(&db, &1.into()), (&web, &2.into()), (&none, &1.into())]);
    for figure in ["cost_bytes", "private_bytes", "cow_anon_bytes", "cached_bytes", "saved_bytes"] {
        let views = list["views"].as_array().unwrap().iter().filter(|view| view["vm"] == "web");
        let sum: u64 = views.map(|view| view[figure].as_u64().unwrap()).sum();
        assert_eq!(vms["vms"][1][figure], sum, "{figure}");
    }
    let table = fixture.stdout(&["views", "--by-vm"]);
    assert_eq!(
        table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>()[..3],
        ["VM", "VIEWS", "COST"]
    );

    let refused = fixture.templatefs(&["views", "--by-vm", "--sort", "age"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().starts_with("templatefs: --by-vm: a VM has no age"));
    let wrong = fixture.templatefs(&["views", "--sort", "colour"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("cost, private, copied, cached, saved, age"));
}

/// --mine asked by root, who sees all: what others made is left out.
#[test]
fn mine_leaves_out_what_others_made() {
    let _limit = limit(Duration::from_secs(60));
    if !is_root() {
        println!("skipped: only root sees what others made");
        return;
    }
    let mounted = Mounted::start(Options::with(&["--allow-other"]));
    mounted.template("a.ram", &[1; PAGE]);
    let path = mounted.path("a.ram?rom=off&view=theirs");
    let output = run_as(65534, 65534, &[]).args(["head", "-c1"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let open = File::open(mounted.path("a.ram?rom=off&view=ours")).unwrap();
    let list = |arguments: &[&str]| {
        let output =
            Command::new(binary()).arg("views").args(arguments).arg(&mounted.mountpoint).output().unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        first_column(&table).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(list(&["--sort", "id"]), ["ours", "theirs"]);
    assert_eq!(list(&["--mine"]), ["ours"]);
    drop(open);
}
