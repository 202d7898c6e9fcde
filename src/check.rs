//! Could this program take over a mount that another version of it serves? It looks and changes
//! nothing: the other one goes on serving meanwhile, and may go on afterwards.
//!
//! What is damaged is so for every version, and is set aside by every one; here it is let be.

use crate::config::MountConfig;
use crate::engine::Recorder;
use crate::error::{Error, Result};
use crate::keeper::{self, DEVICE, Keeper, LOCK};
use crate::state::StateDirectory;
use crate::steps::step;
use crate::{takeover, views};

pub fn can_take_over(config: &MountConfig, keeper: &Keeper) -> Result<()> {
    step("check 1: begun");
    let mut kept = keeper.list()?;
    if let Some(key) = kept.keys().find(|key| !keeper::knows_key(key)) {
        return Err(Error::Stale(format!("a descriptor is kept that this templatefs does not know: {key}")));
    }
    let (Some(lock), Some(path), true) = (kept.remove(LOCK), &config.state_dir, kept.contains_key(DEVICE))
    else {
        return Err(Error::Stale("the connection to the kernel and the state directory are not kept".into()));
    };
    let state = StateDirectory::taken(path, lock);
    let negotiated = Recorder::peek(&state.journal())?.negotiated;
    if !negotiated.is_some_and(|known| takeover::is_possible(&known)) {
        return Err(Error::Stale("the journal does not tell what INIT settled".into()));
    }
    views::check_all_known(&state.views())?;
    step("check 2: done");
    Ok(())
}
