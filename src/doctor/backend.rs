//! One memory backend of a QEMU command line. Pure.

use super::line::{Backend, Line};
use super::open;
use super::qemu::{File, OnMount, Place};
use super::{Finding, Level};
use crate::rules::{Kind, Properties};

pub const CLONE: &str = "share=off,readonly=on,rom=off";

/// `file` is what its mem-path leads to.
pub fn findings(line: &Line, memory: &Backend, file: Option<&File>) -> Vec<Finding> {
    let about = format!("memory {}", memory.id);
    if let Some(fault) = &memory.fault {
        let message = format!("{}: {fault}", memory.option);
        return vec![Finding::refused(
            &about,
            message,
            "it reads the properties before it looks at any file",
            "see `qemu-system-x86_64 -object memory-backend-file,help`",
        )];
    }
    let Some(file) = file else { return Vec::new() };
    let kind = match memory.properties.resolve() {
        Ok(kind) => kind,
        Err(conflict) => {
            let why = format!("{} is one of the two combinations that mean nothing", memory.properties);
            return vec![Finding::refused(
                &about,
                conflict.qemu_message(),
                why,
                advice_on(memory.properties),
            )];
        }
    };
    let one = Memory { line, memory, file, kind, about };
    if let Some(refused) = open::refused(&one).or_else(|| one.too_small()) {
        return vec![refused];
    }
    let mut found: Vec<_> =
        [one.rom(), one.vhost_user(), one.balloon(), one.content(), one.prealloc(), one.discard()]
            .into_iter()
            .flatten()
            .collect();
    found.push(one.way());
    found
}

fn advice_on(properties: Properties) -> String {
    match properties.share {
        true => {
            format!("{CLONE} for a private copy, share=on,readonly=off on a ?rom=off view for a shared one")
        }
        false => format!("{CLONE} for a private copy, readonly=on for ROM"),
    }
}

pub struct Memory<'a> {
    pub line: &'a Line,
    pub memory: &'a Backend,
    pub file: &'a File,
    /// What QEMU makes of the file.
    pub kind: Kind,
    pub about: String,
}

impl Memory<'_> {
    pub fn path(&self) -> &str {
        self.memory.mem_path.as_deref().unwrap_or_default()
    }

    pub fn finding(&self, level: Level, what: &str, why: &str, advice: &str) -> Finding {
        Finding::new(level, &self.about, what, why, advice)
    }

    pub fn on_mount(&self) -> Option<&OnMount> {
        match &self.file.place {
            Place::Templatefs(found) => Some(found),
            _ => None,
        }
    }

    fn is_ram(&self) -> bool {
        self.line.is_ram(self.memory)
    }

    fn too_small(&self) -> Option<Finding> {
        let (size, offset) = (self.memory.size?, self.memory.offset);
        if self.file.size == 0 || self.file.size >= size.saturating_add(offset) {
            return None;
        }
        let message = format!(
            "{} backing store size {:#x} is too small for 'size' option {size:#x} plus 'offset' option {offset:#x}",
            self.memory.id, self.file.size
        );
        let advice = format!("size={}, as the template has it (and -m the same)", self.file.size);
        Some(Finding::refused(&self.about, message, "the template is shorter than the memory", advice))
    }

    fn rom(&self) -> Option<Finding> {
        (self.kind == Kind::Rom && self.is_ram()).then(|| {
            self.finding(
                Level::Error,
                "the guest's RAM would be ROM",
                "QEMU does as it is told, and the guest cannot write its own memory",
                &format!("{CLONE} for RAM; ROM is for an NVDIMM with unarmed=on"),
            )
        })
    }

    fn vhost_user(&self) -> Option<Finding> {
        let device = self.line.vhost_user.first()?;
        if self.memory.properties.share || !self.is_ram() {
            return None;
        }
        Some(self.finding(
            Level::Error,
            &format!("share=off, and {device} maps the guest's RAM too"),
            "what the guest writes is in QEMU's private copies: the device does not start, or it works on other memory \
             than the guest and never answers; QEMU may not say a word",
            "share=on,readonly=off with a path ?rom=off on a mount of templatefs: shared memory that is a private copy",
        ))
    }

    /// docs/system/vm-templating.rst: a file that is open for reading only cannot be punched.
    fn balloon(&self) -> Option<Finding> {
        let cannot = self.kind == Kind::Private && self.is_ram() && self.line.reports_free_pages;
        cannot.then(|| {
            self.finding(
                Level::Warning,
                "free-page-reporting=on, and the memory's file cannot be punched",
                "QEMU logs an error for each page that the guest reports, and none is given back",
                "leave out free-page-reporting, or share=on,readonly=off with a path ?rom=off",
            )
        })
    }

    fn content(&self) -> Option<Finding> {
        let File { size, has_data, .. } = self.file;
        let wanted = self.memory.size.unwrap_or_default().saturating_add(self.memory.offset);
        let authored = self.kind == Kind::Template && !self.line.incoming;
        match (*size, *has_data) {
            (0, _) if self.memory.properties.readonly => Some(self.finding(
                Level::Error,
                "the template is empty",
                "QEMU says `ftruncate: Invalid argument` and goes on; the first touch of its memory is SIGBUS",
                "take a template that holds the memory of a guest",
            )),
            (0, _) | (_, false) if !authored => Some(self.finding(
                Level::Error,
                "the template holds nothing but zeros",
                "a clone finds none of the memory that its devices' state goes with",
                "take a template that was captured; one that is to be captured is started with share=on",
            )),
            _ if *size > wanted => Some(self.finding(
                Level::Warning,
                &format!("only {wanted} of the template's {size} bytes are used"),
                "a guest that was captured with all of it finds a part of its memory",
                &format!("size={size}, and -m the same"),
            )),
            _ => None,
        }
    }

    fn prealloc(&self) -> Option<Finding> {
        if !self.memory.prealloc {
            return None;
        }
        let advice = if self.memory.implied { "leave out -mem-prealloc" } else { "leave out prealloc=on" };
        Some(match self.kind {
            Kind::Rom => self.finding(
                Level::Error,
                "prealloc=on with ROM",
                "QEMU dies of SIGSEGV: it writes to it",
                advice,
            ),
            _ => self.finding(
                Level::Warning,
                "prealloc=on copies every page",
                "each clone takes all of its memory at its start, and shares nothing",
                advice,
            ),
        })
    }

    /// MADV_REMOVE at QEMU's end, which makes holes in the file of a shared mapping.
    fn discard(&self) -> Option<Finding> {
        if !self.memory.discard_data || self.kind != Kind::Template {
            return None;
        }
        let advice = "leave out discard-data=on";
        match self.on_mount() {
            Some(OnMount { kind: Ok(kind), view: None }) if kind.is_private() => None,
            Some(OnMount { kind: Ok(kind), view: Some(view) }) if kind.is_private() => Some(self.finding(
                Level::Warning,
                &format!("discard-data=on forgets what is in the view {view}"),
                "QEMU punches all of it when it ends: it cannot be woken again",
                advice,
            )),
            _ => Some(self.finding(
                Level::Error,
                "discard-data=on empties the template",
                "QEMU punches all of the file when it ends",
                advice,
            )),
        }
    }

    /// Where the guest's pages will be, and what that costs.
    fn way(&self) -> Finding {
        let ok = |what: &str| Finding::ok(&self.about, what);
        let view = self.on_mount().and_then(|found| found.view.as_deref());
        let served = self.on_mount().and_then(|found| found.kind.as_ref().ok());
        match (self.kind, served) {
            (Kind::Rom, _) => ok("ROM: the template's own pages, shared by all that map it"),
            (Kind::Private, Some(_)) => match view {
                Some(view) => self.finding(
                    Level::Warning,
                    &format!("nothing that the guest writes gets into the view {view}"),
                    "share=off: QEMU copies for itself what is written, and it is gone with QEMU",
                    "share=on,readonly=off, or leave view= out of the path",
                ),
                None => ok("a private copy by QEMU; all clones share the pages that they only read"),
            },
            (Kind::Private, None) => self.elsewhere(
                "a private copy by QEMU, of a file that is not on a mount of templatefs",
                "it works without; vhost-user does not, and `templatefs views` cannot tell what a clone costs",
                "serve the template with templatefs mount, and write ?rom=off",
            ),
            (Kind::PrivateIfWritable, Some(_)) => self.finding(
                Level::Warning,
                "each clone caches what it reads for itself",
                "QEMU opens the view for writing, though it copies for itself what is written: such a view has pages of \
                 its own",
                &format!("{CLONE} (QEMU 8.2): untouched pages are shared by all clones"),
            ),
            (Kind::PrivateIfWritable, None) => self.elsewhere(
                "a private copy by QEMU, of a file that this user may write",
                "a template that VMMs may write will be written some day",
                &format!("chmod 0444, and {CLONE}"),
            ),
            (Kind::Template, Some(kind)) if kind.is_private() => {
                if view.is_some() || !self.line.vhost_user.is_empty() {
                    return ok("a shared mapping of a private view: other processes may map it, the template stays");
                }
                self.finding(
                    Level::Note,
                    "a shared mapping of a private view",
                    "each clone caches what it reads for itself: the price of memory that vhost-user and others can map",
                    &format!("{CLONE} where no other process maps it: untouched pages are shared by all clones"),
                )
            }
            (Kind::Template, Some(_)) => self.finding(
                Level::Note,
                "the guest writes the template itself",
                "share=on&readonly=off is for authoring; it needs a mount with --allow-template-writes",
                "write ?rom=off for a clone",
            ),
            (Kind::Template, None) if self.line.incoming => self.finding(
                Level::Error,
                "the guest writes the template itself",
                "the next clone finds what this one has written",
                "serve it with templatefs mount and write ?rom=off: share=on stays",
            ),
            (Kind::Template, None) => self.elsewhere(
                "the guest writes the file itself",
                "right for the VM that becomes a template, and for no clone",
                "for a clone serve the file with templatefs mount, and write ?rom=off",
            ),
        }
    }

    fn elsewhere(&self, what: &str, why: &str, advice: &str) -> Finding {
        match self.file.place {
            Place::HugePages => self.finding(
                Level::Note,
                &format!("{what}, in huge pages"),
                "templatefs serves no huge pages",
                "leave it as it is, or copy the file to a store on another filesystem",
            ),
            _ => self.finding(Level::Note, what, why, advice),
        }
    }
}
