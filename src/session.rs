//! One mount, from its configuration to its unmounting.

mod background;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;

use fuser::{BackgroundSession, Notifier, Session, SessionACL};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::access::Caller;
use crate::bdi;
use crate::broker;
use crate::config::MountConfig;
use crate::confine;
use crate::control::Control;
use crate::engine::{Content, Engine, Recorder, Recovered};
use crate::error::{Error, Result};
use crate::fuse::{Adapter, Loops};
use crate::inspect::Inspector;
use crate::keeper::{DEVICE, Keeper, Kept, LOCK, ROOTS};
use crate::listen::{Listener, Serving};
use crate::mount;
use crate::passthrough;
use crate::policy::Guard;
use crate::profile::Profiles;
use crate::state::{self, StateDirectory};
use crate::steps::step;
use crate::store::DirectoryStore;
use crate::takeover;
use crate::views::Views;
use background::{
    obey_signals, start_forgetting, start_learning, start_settling, start_telling, start_warming,
};

/// Checks what is to be mounted, and takes the state directory. The result names all places
/// without symlinks: once something is mounted they can be resolved no more.
pub fn prepare(config: MountConfig) -> Result<(MountConfig, StateDirectory)> {
    let (store, mountpoint) = mount::check(&config.store, &config.mountpoint, config.nonempty)?;
    let state_dir = match &config.state_dir {
        Some(path) => path.clone(),
        None => state::default_path(&mountpoint)?,
    };
    mount::check_state(&state_dir, &store, &mountpoint)?;
    let state = StateDirectory::take(&state_dir)?;
    Ok((MountConfig { store, mountpoint, state_dir: Some(state_dir), ..config }, state))
}

/// Mounts what [`prepare`] has checked, or takes over the mount that the keeper holds, and serves
/// until it is gone. This process must ask its own mount nothing: killed while it waits for an
/// answer of its own, it could neither die nor be answered.
///
/// `ready` is called once the mount answers.
pub fn serve(
    config: &MountConfig,
    keeper: &Arc<Keeper>,
    held_by: u32,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mountpoint = &config.mountpoint;
    let mut kept = keeper.list()?;
    let (Some(lock), Some(state_path)) = (kept.remove(LOCK), &config.state_dir) else {
        return Err(Error::Invalid("serve: the state directory is not held".into()));
    };
    let state = Arc::new(StateDirectory::taken(state_path, lock));
    let before = kept.remove(DEVICE);
    let recorder = Arc::new(match &before {
        Some(_) => takeover::records(&state.journal(), keeper, &mut kept)?,
        None => Recorder::create(&state.journal())?,
    });
    if before.is_some() {
        step("takeover 1: journal");
    }
    let listener = listener(config, before.is_some())?;
    let files = raise_file_limit();
    let store = store(config, keeper, &mut kept)?;
    let templates = store.roots()[0].try_clone_to_owned().map_err(|e| Error::io("store", e))?;
    let retired = recorder.read(|ledger| ledger.retired.clone());
    let profiles = Arc::new(profiles(&state, before.is_some())?);
    let views = Views::load(&state.views(), &recorder.open_nodes(), &retired)?;
    let guard = guard(config, &store, before.is_some())?;
    let engine = Engine::new(Box::new(store), views, config.options(files), recorder, keeper.clone());
    let engine = Arc::new(engine.guarded_by(guard));
    // A signal must never find the mount there and nobody to unmount it.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|e| Error::io("signals", e))?;
    let inspector = Arc::new(OnceLock::new());
    let control = Arc::new(Control::new(engine.clone(), inspector.clone(), profiles.clone()));
    let is_successor = before.is_some();
    let undo = |_: &Error| {
        if !is_successor {
            detach_quietly(mountpoint)
        }
    };

    broker::start(mountpoint)?;
    let device = match before {
        Some(device) => device,
        // Still in the process group of who asked for the mount: autofs lets only that one, where it is its own, look
        // behind its trigger.
        None => mount::attach(&config.store, mountpoint, config.allow_other)?,
    };
    // From now on a terminal's signals come by way of the process that holds the mount.
    let _ = rustix::process::setpgid(None, None);
    let device = Arc::new(device);
    let shown = match mount::device_of(mountpoint) {
        Ok(shown) => {
            let _ = inspector.set(Inspector::new(engine.clone(), shown));
            Some(shown)
        }
        // It was detached while it is in use, and goes with its last user.
        Err(error) if is_successor => {
            log::warn!("{error}: what its views cost is not known");
            None
        }
        Err(error) => return Err(error).inspect_err(undo),
    };
    confine(config, &templates, shown, is_successor).inspect_err(undo)?;
    // Before the first view can be opened and closed.
    let learning = start_learning(&engine, &profiles, &inspector).inspect_err(undo)?;
    let started = match is_successor {
        true => take_over(&engine, control, &device, kept, config),
        false => begin(&engine, control, &device, keeper, config),
    };
    let serving = started.and_then(|(running, notifier)| {
        // Not before: INIT sets read-ahead back to what the kernel offers in it.
        if let Some(shown) = shown {
            bdi::tune(shown, config.read_ahead);
        }
        let (state, keeper, store) = (state.clone(), keeper.clone(), config.store.clone());
        let (told, shown_at) = (engine.clone(), mountpoint.clone());
        let tell = move || {
            state.describe(&store, &shown_at, held_by, told.has_passthrough())?;
            told.recorder().catch_up()?;
            takeover::caught_up(told.recorder(), &keeper);
            Ok(())
        };
        match tell() {
            // That nothing can be written is no reason to leave the users waiting.
            Err(error) if is_successor => {
                log::warn!("{error}; it is tried again until it can be written");
                start_telling(tell)?;
            }
            told => told?,
        }
        start_settling(&engine)?;
        start_forgetting(&engine, notifier.clone())?;
        if engine.warms() {
            start_warming(&engine, &profiles, notifier)?;
        }
        obey_signals(signals, engine.clone(), mountpoint.clone())?;
        // The file of a unix socket goes when this does.
        let metrics = listener.map(|listener| serve_metrics(listener, inspector)).transpose()?;
        Ok((running, metrics))
    });
    let (running, _metrics) = serving.inspect_err(undo)?;
    if !is_successor {
        log::info!("{} is mounted on {}", config.store.display(), mountpoint.display());
    }
    ready().inspect_err(undo)?;
    if is_successor {
        step("takeover 5: serves");
    }
    keeper.ready();
    let ended = running.join().map_err(|e| Error::io(format!("{}: serving ended", mountpoint.display()), e));
    if mount::is_connected(&device) {
        // An event loop has given up, and a successor may do better.
        return ended;
    }
    engine.views().remove_all_unnamed();
    engine.views().settle();
    state.forget_journal();
    engine.end_lessons();
    let _ = learning.join();
    log::info!("{} is unmounted", mountpoint.display());
    ended
}

/// Guests come before it: a successor that cannot be confined serves all the same, and says so.
fn confine(
    config: &MountConfig,
    templates: &OwnedFd,
    shown: Option<mount::Device>,
    is_successor: bool,
) -> Result<()> {
    match confine::confine(config, templates.as_fd(), shown) {
        Err(error) if is_successor => {
            log::error!("{error}; this process serves with rights that it does not need");
            Ok(())
        }
        confined => confined,
    }
}

/// Kept too: its path may lead elsewhere, or nowhere, when a successor looks.
fn store(config: &MountConfig, keeper: &Keeper, kept: &mut Kept) -> Result<DirectoryStore> {
    if let [Some(root), Some(writable)] = ROOTS.map(|key| kept.remove(key)) {
        return Ok(DirectoryStore::adopt(&config.store, [root, writable]));
    }
    let store = DirectoryStore::open(&config.store)?;
    for (key, root) in ROOTS.into_iter().zip(store.roots()) {
        keeper.keep(key, root);
    }
    Ok(store)
}

fn begin(
    engine: &Arc<Engine>,
    control: Arc<Control>,
    device: &Arc<OwnedFd>,
    keeper: &Arc<Keeper>,
    config: &MountConfig,
) -> Result<(BackgroundSession, Notifier)> {
    let notifier = Arc::new(OnceLock::new());
    let loops = Arc::new(Loops::new(config.threads));
    let adapter = Adapter::new(engine.clone(), control, device.clone(), notifier.clone(), loops.clone());
    let added = adapter.added();
    let unfit = "the kernel and this daemon do not understand each other (FUSE INIT)";
    let own = device.try_clone().map_err(|e| Error::io(unfit, e))?;
    // Who may ask at all is the kernel's decision (allow_other), who may do what the engine's.
    let session = Session::from_fd(adapter, own, SessionACL::All, threads(config.threads))
        .map_err(|e| Error::io(unfit, e))?;
    engine.check_options()?;
    match engine
        .recorder()
        .read(|ledger| ledger.negotiated)
        .is_some_and(|known| takeover::is_possible(&known))
    {
        true => keeper.keep(DEVICE, device.as_fd()),
        false => log::warn!(
            "this kernel cannot send requests again (Linux 6.9): a daemon that dies has no successor"
        ),
    }
    watch_over(&loops, added, engine, device)?;
    run(session, &notifier)
}

fn take_over(
    engine: &Arc<Engine>,
    control: Arc<Control>,
    device: &Arc<OwnedFd>,
    kept: Kept,
    config: &MountConfig,
) -> Result<(BackgroundSession, Notifier)> {
    let negotiated = engine.recorder().read(|ledger| ledger.negotiated);
    let negotiated =
        negotiated.ok_or_else(|| Error::Stale("the journal does not tell what INIT settled".into()))?;
    let connection = device.clone();
    let recovered = engine.recover(kept, move |content, id| match content {
        Content::Template(pinned) => passthrough::registered_before(&connection, pinned, id),
        Content::Memory(view) => passthrough::memory_registered_before(&connection, view, id),
        Content::View(_) | Content::Authored(_) => {}
    });
    let notifier = Arc::new(OnceLock::new());
    let loops = Arc::new(Loops::new(config.threads));
    let adapter = Adapter::new(engine.clone(), control, device.clone(), notifier.clone(), loops.clone());
    let added = adapter.added();
    step("takeover 2: recovered");
    let session = takeover::session(adapter, device, &negotiated, threads(config.threads))?;
    step("takeover 3: session");
    takeover::resend(device)?;
    step("takeover 4: resent");
    let Recovered { directories, files, set_aside, waiting } = recovered;
    log::warn!(
        "{} was taken over from a process that died: {files} open files, {directories} directories, {set_aside} views set \
         aside, {waiting} wait for their files; takeover {}",
        config.mountpoint.display(),
        engine.takeovers()
    );
    watch_over(&loops, added, engine, device)?;
    run(session, &notifier)
}

fn threads(count: usize) -> fuser::Config {
    let mut library = fuser::Config::default();
    library.n_threads = Some(count);
    library
}

/// While requests wait for files, others get event loops of a session of their own, which is begun
/// like that of a successor.
fn watch_over(loops: &Arc<Loops>, added: Adapter, engine: &Engine, device: &Arc<OwnedFd>) -> Result<()> {
    let settled = engine.recorder().read(|ledger| ledger.negotiated);
    let device = device.clone();
    let add = move |count| {
        let settled = settled.ok_or_else(|| io::Error::other("what INIT settled is not known"))?;
        let session = takeover::session(added.clone(), &device, &settled, threads(count));
        let session = session.map_err(io::Error::other)?;
        let serve = move || {
            if let Err(error) = session.run() {
                log::error!("not all event loops that were added serve: {error}");
            }
        };
        thread::Builder::new().name("added-loops".into()).spawn(serve).map(drop)
    };
    loops.watch(add).map_err(|e| Error::io("threads cannot be started", e))
}

fn run(session: Session<Adapter>, notifier: &OnceLock<Notifier>) -> Result<(BackgroundSession, Notifier)> {
    let _ = notifier.set(session.notifier());
    let notifier = session.notifier();
    let running = session.spawn().map_err(|e| Error::io("threads cannot be started", e))?;
    Ok((running, notifier))
}

/// What cannot be read is learned anew: guests do not wait for it.
fn profiles(state: &StateDirectory, is_successor: bool) -> Result<Profiles> {
    match Profiles::load(&state.profiles()) {
        Err(error) if is_successor => {
            log::error!("{error}; what was learned before is not known");
            Ok(Profiles::none(&state.profiles()))
        }
        loaded => loaded,
    }
}

/// A place that was free when the mount was made may be taken when it is taken over: guests go
/// before metrics.
fn listener(config: &MountConfig, is_successor: bool) -> Result<Option<Listener>> {
    match config.metrics_listen.as_ref().map(Listener::bind).transpose() {
        Err(error) if is_successor => {
            log::error!("{error}");
            Ok(None)
        }
        bound => bound,
    }
}

/// What is open goes on whatever the policies have become meanwhile: a successor that cannot use
/// them opens nothing new until they are read again.
fn guard(config: &MountConfig, store: &DirectoryStore, is_successor: bool) -> Result<Guard> {
    let operators = config.policy.clone();
    let require = config.require.clone();
    match Guard::load(store, operators.clone(), require.clone()) {
        Err(error) if is_successor => {
            log::error!("{error}; nothing new can be opened until the policies are read again (SIGHUP)");
            Ok(Guard::closed(operators, require))
        }
        loaded => loaded,
    }
}

/// The figures of all views that this daemon's user may see.
fn serve_metrics(listener: Listener, inspector: Arc<OnceLock<Inspector>>) -> Result<Serving> {
    let uid = rustix::process::geteuid().as_raw();
    let caller = Caller { uid, gid: rustix::process::getegid().as_raw(), pid: 0 };
    listener.serve(move || inspector.get().map(|inspector| inspector.metrics(&caller)))
}

fn detach_quietly(mountpoint: &Path) {
    if let Err(error) = broker::unmount(mountpoint) {
        log::error!("{error}");
    }
}

/// Each view that is written holds two files open, each template one or two. Returns how many there may be.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            log::warn!("the limit on open files stays at {:?}: {error}", limit.current);
            limit.current
        }
    };
    current.unwrap_or(u64::MAX)
}
