//! Medians and spread. Pure.

use serde::{Deserialize, Serialize};

/// Quartiles and ends of some samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub count: usize,
    pub least: f64,
    pub low: f64,
    pub median: f64,
    pub high: f64,
    pub most: f64,
}

impl Summary {
    /// None for no sample.
    pub fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share| quantile(&sorted, share);
        Some(Summary {
            count: sorted.len(),
            least: at(0.0)?,
            low: at(0.25)?,
            median: at(0.5)?,
            high: at(0.75)?,
            most: at(1.0)?,
        })
    }
}

/// Of samples in ascending order, interpolated linearly between the two neighbours.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}
