//! One mount, from its configuration to its unmounting.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;

use fuser::{Session, SessionACL};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::access::Caller;
use crate::bdi;
use crate::config::MountConfig;
use crate::control::Control;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::fuse::Adapter;
use crate::inspect::Inspector;
use crate::listen::{Listener, Serving};
use crate::mount;
use crate::policy::Guard;
use crate::state::{self, StateDirectory};
use crate::store::DirectoryStore;
use crate::views::Views;

/// Mounts and serves until the mount is gone. This process must ask its own mount nothing: killed
/// while it waits for an answer of its own, it could neither die nor be answered, since it holds
/// the connection itself.
///
/// `prepare` is called with the state directory before anything is mounted, `ready` once the
/// mount answers.
pub fn serve(
    config: &MountConfig,
    prepare: impl FnOnce(&Path) -> Result<()>,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (store_path, mountpoint) = mount::check(&config.store, &config.mountpoint, config.nonempty)?;
    let state_path = match &config.state_dir {
        Some(path) => path.clone(),
        None => state::default_path(&mountpoint)?,
    };
    mount::check_state(&state_path, &store_path, &mountpoint)?;
    let state = StateDirectory::take(&state_path)?;
    prepare(&state_path)?;
    let listener = config.metrics_listen.as_ref().map(Listener::bind).transpose()?;
    raise_file_limit();
    let store = DirectoryStore::open(&store_path)?;
    let views = Views::load(&state.views())?;
    let guard = Guard::load(&store, config.policy.clone())?;
    let engine = Arc::new(Engine::new(Box::new(store), views, config.options()).guarded_by(guard));
    // A signal must never find the mount there and nobody to unmount it.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|e| Error::io("signals", e))?;

    let device = mount::attach(&store_path, &mountpoint, config.allow_other)?;
    let inspector = Arc::new(OnceLock::new());
    let control = Arc::new(Control::new(engine.clone(), inspector.clone()));
    let served = start(engine.clone(), control, device, config.threads).and_then(|running| {
        let device = mount::device_of(&mountpoint)?;
        bdi::tune(device, config.read_ahead);
        let _ = inspector.set(Inspector::new(engine.clone(), device, mountpoint.clone()));
        state.describe(&store_path, &mountpoint)?;
        obey_signals(signals, engine.clone(), mountpoint.clone())?;
        Ok(running)
    });
    let running = served.inspect_err(|_| detach_quietly(&mountpoint))?;
    // The file of a unix socket goes when this does.
    let _metrics = listener
        .map(|listener| serve_metrics(listener, inspector))
        .transpose()
        .inspect_err(|_| detach_quietly(&mountpoint))?;
    log::info!("{} is mounted on {}", store_path.display(), mountpoint.display());
    if let Err(error) = ready() {
        detach_quietly(&mountpoint);
        return Err(error);
    }
    // Under systemd with Type=notify; elsewhere nothing.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let ended = running.join().map_err(|e| Error::io(format!("{}: serving ended", mountpoint.display()), e));
    engine.views().remove_all_unnamed();
    log::info!("{} is unmounted", mountpoint.display());
    ended
}

fn start(
    engine: Arc<Engine>,
    control: Arc<Control>,
    device: std::os::fd::OwnedFd,
    threads: usize,
) -> Result<fuser::BackgroundSession> {
    let notifier = Arc::new(OnceLock::new());
    let adapter = Adapter::new(engine.clone(), control, notifier.clone());
    let mut config = fuser::Config::default();
    config.n_threads = Some(threads);
    // Who may ask at all is the kernel's decision (allow_other), who may do what the engine's.
    let session = Session::from_fd(adapter, device, SessionACL::All, config)
        .map_err(|e| Error::io("the kernel and this daemon do not understand each other (FUSE INIT)", e))?;
    let _ = notifier.set(session.notifier());
    engine.check_options()?;
    session.spawn().map_err(|e| Error::io("threads cannot be started", e))
}

/// The figures of all views that this daemon's user may see.
fn serve_metrics(listener: Listener, inspector: Arc<OnceLock<Inspector>>) -> Result<Serving> {
    let uid = rustix::process::geteuid().as_raw();
    let caller = Caller { uid, gid: rustix::process::getegid().as_raw(), pid: 0 };
    listener.serve(move || inspector.get().map(|inspector| inspector.metrics(&caller)))
}

fn detach_quietly(mountpoint: &Path) {
    if let Err(error) = mount::detach(mountpoint) {
        log::error!("{error}");
    }
}

/// A busy mount goes on being served: its views are guests' memory.
fn obey_signals(mut signals: Signals, engine: Arc<Engine>, mountpoint: PathBuf) -> Result<()> {
    let wait = move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                match engine.reload_policies() {
                    Ok(()) => log::info!("signal {signal}: the policies were read again"),
                    Err(error) => log::error!("{error}; the policies stay as they were"),
                }
                continue;
            }
            log::info!("signal {signal}: unmounting {}", mountpoint.display());
            match mount::detach(&mountpoint) {
                Ok(()) => return,
                Err(error) => {
                    log::error!("{error}");
                    eprintln!("templatefs: {error}");
                }
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(|e| Error::io("threads", e))?;
    Ok(())
}

/// Each view that is written holds two files open, each template one or two.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!("the limit on open files stays at {:?}: {error}", limit.current);
    }
}
