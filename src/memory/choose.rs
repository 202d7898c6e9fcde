//! Which backing `backing=auto` picks. Pure.

use crate::rules::Backing;

/// More than this would make an open wait: copying takes about a third of a second a GiB.
const QUICKLY_FILLED: u64 = 256 << 20;

/// What the choice depends on.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// Does the kernel pass files through on this mount?
    pub passthrough: bool,
    /// Has the view a name?
    pub named: bool,
    /// What of the template is no hole; None where its filesystem cannot tell.
    pub data_bytes: Option<u64>,
    /// A copy is ready.
    pub ready: bool,
}

/// What was picked, never `Auto`, and why, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub backing: Backing,
    pub why: &'static str,
}

pub fn choose(circumstances: Circumstances) -> Choice {
    let overlay = |why| Choice { backing: Backing::Overlay, why };
    let memory = |why| Choice { backing: Backing::Memory, why };
    match circumstances {
        Circumstances { named: true, .. } => overlay("it has a name and lasts, which memory does not"),
        Circumstances { passthrough: false, .. } => {
            overlay("the kernel passes nothing through on this mount")
        }
        Circumstances { ready: true, .. } => memory("a filled copy was ready"),
        Circumstances { data_bytes: None, .. } => overlay("how much data the template holds cannot be told"),
        Circumstances { data_bytes: Some(data), .. } if data <= QUICKLY_FILLED => {
            memory("its template is small")
        }
        Circumstances { .. } => overlay("filling it would make the open wait, and no filled copy was ready"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_memory_where_it_works_and_nobody_waits_long() {
        let good = Circumstances { passthrough: true, named: false, data_bytes: Some(1 << 20), ready: false };
        assert_eq!(choose(good).backing, Backing::Memory);
        let large = Circumstances { data_bytes: Some(QUICKLY_FILLED + 1), ..good };
        for against in [
            Circumstances { passthrough: false, ..good },
            Circumstances { named: true, ..good },
            Circumstances { data_bytes: None, ..good },
            large,
        ] {
            assert_eq!(choose(against).backing, Backing::Overlay, "{against:?}");
        }
        assert_eq!(choose(Circumstances { ready: true, ..large }).backing, Backing::Memory);
    }
}
