use super::*;

fn good() -> Host {
    Host {
        root: true,
        kernel: (6, 18),
        release: "6.18.1".into(),
        openat2: true,
        pagemap_scan: true,
        cachestat: true,
        fuse_device: Some(0o666),
        fusermount3: true,
        user_allow_other: true,
        files: Some(1 << 20),
        shmem_huge_pages: Some("never".into()),
        default_request_timeout: Some(0),
        max_request_timeout: Some(0),
        max_pages_limit: Some(256),
        uring: Some(false),
        memory_limit: None,
        reserved: 0,
        available: Some(1 << 30),
        state: Some(place()),
    }
}

fn place() -> Place {
    let text = |text: &str| text.to_owned();
    let (path, filesystem, options) = (text("/run/templatefs"), text("tmpfs"), text("rw,size=1g"));
    Place { path, filesystem, options, total: 1 << 30, free: 1 << 30 }
}

fn worst(host: Host) -> Finding {
    findings(&host).into_iter().max_by_key(|finding| finding.level).unwrap()
}

#[test]
fn a_good_host_is_ok() {
    assert_eq!(worst(good()).level, Level::Ok, "{:#?}", findings(&good()));
}

#[test]
fn what_is_wrong_is_found_and_says_what_to_do() {
    let full = Some(Place { free: 50 << 20, ..place() });
    let huge = Some(Place { options: "rw,huge=always".into(), ..place() });
    let cases: [(Host, Level, &str); 17] = [
        (Host { openat2: false, ..good() }, Level::Error, "5.6"),
        (Host { kernel: (6, 8), ..good() }, Level::Warning, "6.9"),
        (Host { root: false, ..good() }, Level::Note, "as root"),
        (Host { fuse_device: None, ..good() }, Level::Error, "modprobe"),
        (Host { fuse_device: Some(0o600), ..good() }, Level::Note, "chmod"),
        (Host { fuse_device: Some(0o600), root: false, ..good() }, Level::Error, "chmod"),
        (Host { pagemap_scan: false, ..good() }, Level::Note, "6.7"),
        (Host { cachestat: false, ..good() }, Level::Note, "6.5"),
        (Host { fusermount3: false, root: false, ..good() }, Level::Error, "fuse3"),
        (Host { user_allow_other: false, ..good() }, Level::Note, "user_allow_other"),
        (Host { files: Some(1024), ..good() }, Level::Warning, "ulimit"),
        (Host { default_request_timeout: Some(30), ..good() }, Level::Error, "default_request_timeout=0"),
        (Host { max_request_timeout: Some(30), ..good() }, Level::Error, "max_request_timeout=0"),
        (Host { max_pages_limit: Some(32), ..good() }, Level::Warning, "max_pages_limit=256"),
        (Host { shmem_huge_pages: Some("force".into()), ..good() }, Level::Warning, "never"),
        (Host { state: full, ..good() }, Level::Warning, "discard"),
        (Host { state: huge, ..good() }, Level::Warning, "huge=never"),
    ];
    for (host, level, advice) in cases {
        let found = worst(host.clone());
        assert_eq!(found.level, level, "{found:#?}");
        assert!(found.advice.as_ref().is_some_and(|text| text.contains(advice)), "{advice}: {found:#?}");
    }
    for host in [
        Host { memory_limit: Some(1 << 30), ..good() },
        Host { reserved: 1 << 30, ..good() },
        Host { state: None, ..good() },
    ] {
        let found = worst(host);
        assert!(found.level > Level::Ok && found.why.is_some() && found.advice.is_some(), "{found:#?}");
    }
}
