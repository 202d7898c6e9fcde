use super::*;
use crate::access::Caller;
use crate::rules::Backing;

fn identity() -> Identity {
    Identity { dev: 1, ino: 2, size: 3, mtime_ns: 4, btime_ns: None }
}

fn origin() -> Origin {
    Origin::new(&Caller { uid: 7, gid: 7, pid: 7 }, ROOT, b"t")
}

fn private(view: Option<&str>) -> What {
    What::Private(PrivateRef {
        template: TemplateRef { path: "t".into(), identity: identity() },
        view: view.map(|name| Label::new(name.as_bytes()).unwrap()),
        vm: None,
        if_writable: false,
        backing: Backing::Overlay,
        uid: 0,
        gid: 0,
    })
}

#[test]
fn a_view_without_a_name_is_new_at_each_lookup_and_a_named_one_is_not() {
    let nodes = Nodes::new(Arc::default(), Arc::default());
    assert_ne!(
        nodes.look_up(origin(), private(None), None).unwrap().id,
        nodes.look_up(origin(), private(None), None).unwrap().id
    );
    assert_eq!(
        nodes.look_up(origin(), private(Some("a")), None).unwrap().id,
        nodes.look_up(origin(), private(Some("a")), None).unwrap().id
    );
    assert_ne!(
        nodes.look_up(origin(), private(Some("a")), None).unwrap().id,
        nodes.look_up(origin(), private(Some("b")), None).unwrap().id
    );
}

#[test]
fn a_node_goes_with_its_last_lookup_or_its_last_close_whichever_is_later() {
    let nodes = Nodes::new(Arc::default(), Arc::default());
    let before = nodes.count();
    let node = nodes.look_up(origin(), private(Some("a")), None).unwrap();
    nodes.look_up(origin(), private(Some("a")), None).unwrap();
    nodes.forget(node.id, 1);
    assert!(nodes.get(node.id).is_some());
    node.state.lock().opens = 1;
    nodes.forget(node.id, 1);
    assert!(nodes.get(node.id).is_some(), "FORGET may overtake RELEASE");
    node.state.lock().opens = 0;
    nodes.closed(&node);
    assert!(nodes.get(node.id).is_none());
    assert_ne!(
        nodes.look_up(origin(), private(Some("a")), None).unwrap().id,
        node.id,
        "ids are never reused"
    );
    assert_eq!(nodes.count(), before + 1);
    nodes.forget(ROOT, 1000);
    assert!(nodes.get(ROOT).is_some());
}

#[test]
fn a_discarded_views_name_leads_to_a_new_node() {
    let nodes = Nodes::new(Arc::default(), Arc::default());
    let old = nodes.look_up(origin(), private(Some("a")), None).unwrap();
    nodes.retire(&Label::new(b"a").unwrap(), || Ok(())).unwrap();
    assert!(old.state.lock().spent, "an OPEN that is under way must not make the view again");
    let new = nodes.look_up(origin(), private(Some("a")), None).unwrap();
    assert_ne!(old.id, new.id);
    nodes.forget(old.id, 1);
    assert_eq!(
        nodes.look_up(origin(), private(Some("a")), None).unwrap().id,
        new.id,
        "the old node does not take the name along"
    );
}
