//! `top`: the views, live. State (`app`), screen (`draw`, `detail`) and the loop here are apart; a
//! thread of its own reads the figures, since that takes a while and keys must not wait for it.

mod app;
mod bar;
mod columns;
mod detail;
mod draw;
mod plain;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::views::{Collected, collect};
use crate::cli::TopArgs;
use crate::error::{Error, Result};
use app::App;

/// How long a report or a signal may go unnoticed. Keys are noticed at once.
const TICK: Duration = Duration::from_millis(100);
/// The clock on the screen goes on without keys and reports.
const REDRAW: Duration = Duration::from_secs(1);

pub fn run(args: &TopArgs) -> Result<ExitCode> {
    let place =
        args.mountpoint.as_ref().map_or_else(|| "all mounts".into(), |path| path.display().to_string());
    let mut app = App::new(place, args.interval);
    // What is no mount is told before the screen changes.
    app.show(look(args)?, Instant::now());
    if args.once || !io::stdout().is_terminal() {
        plainly(args, &mut app)?;
    } else {
        live(args, &mut app)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn look(args: &TopArgs) -> Result<Collected> {
    let collected = collect(args.mountpoint.as_deref())?;
    match collected.mounts {
        0 => Err(Error::NotFound("there is no mount of templatefs that answers".into())),
        _ => Ok(collected),
    }
}

/// A frame each interval, an empty line between two.
fn plainly(args: &TopArgs, app: &mut App) -> Result<()> {
    let mut text = plain::frame(app);
    loop {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            // Whoever read it has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(|e| Error::io("stdout", e))?,
        }
        if args.once {
            return Ok(());
        }
        thread::sleep(args.interval);
        app.show(look(args)?, Instant::now());
        text = format!("\n{}", plain::frame(app));
    }
}

type Reports = Receiver<(Result<Collected>, Instant)>;

/// Ends when nobody listens any more, or after an error.
fn read_on(args: &TopArgs) -> Reports {
    let (reports, receiver) = channel();
    let args = args.clone();
    thread::spawn(move || {
        loop {
            thread::sleep(args.interval);
            let collected = look(&args);
            let failed = collected.is_err();
            if reports.send((collected, Instant::now())).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

fn live(args: &TopArgs, app: &mut App) -> Result<()> {
    let context = |e: io::Error| Error::io("the terminal", e);
    let ended = Arc::new(AtomicBool::new(false));
    // SIGHUP keeps its default: without a terminal there is nothing to restore, and waiting for a
    // key would never end. A second signal ends what a first one could not.
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, ended.clone())
            .map_err(|e| Error::io("signals", e))?;
        signal_hook::flag::register(signal, ended.clone()).map_err(|e| Error::io("signals", e))?;
    }
    let reports = read_on(args);
    let mut screen = Screen::start().map_err(context)?;
    while !app.quit && !ended.load(Ordering::Relaxed) {
        screen.show(app).map_err(context)?;
        wait(app, &reports, &ended, &mut screen, context)?;
    }
    Ok(())
}

/// Returns when something is to be shown anew.
fn wait(
    app: &mut App,
    reports: &Reports,
    ended: &AtomicBool,
    screen: &mut Screen,
    context: impl Fn(io::Error) -> Error,
) -> Result<()> {
    let until = Instant::now() + REDRAW;
    let mut changed = false;
    while !changed && !ended.load(Ordering::Relaxed) && Instant::now() < until {
        let mut timeout = TICK;
        // Keys that came together are shown together.
        while event::poll(timeout).map_err(&context)? {
            if let Event::Key(key) = event::read().map_err(&context)? {
                app.key(key);
            }
            changed = true;
            timeout = Duration::ZERO;
        }
        match reports.try_recv() {
            Ok((collected, at)) => {
                app.show(collected?, at);
                changed = true;
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                return Err(Error::Invalid("the thread that reads the figures has ended".into()));
            }
        }
    }
    app.page = usize::from(screen.height().saturating_sub(draw::FRAME));
    Ok(())
}

/// The terminal as `top` uses it; dropped, it is as it was before. A panic restores it by a hook
/// that ratatui sets.
struct Screen(DefaultTerminal);

impl Screen {
    fn start() -> io::Result<Self> {
        let terminal = ratatui::try_init().inspect_err(|_| drop(ratatui::try_restore()))?;
        Ok(Self(terminal))
    }

    fn show(&mut self, app: &App) -> io::Result<()> {
        self.0.draw(|frame| draw::draw(frame, app, Instant::now())).map(drop)
    }

    fn height(&self) -> u16 {
        self.0.size().map_or(24, |size| size.height)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if !thread::panicking() {
            // A terminal that is gone needs no more.
            let _ = ratatui::try_restore();
        }
    }
}
