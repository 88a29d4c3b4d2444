//! Checking of stored metadata and objects: what is asked for and what was found.

use crate::VolumeId;

/// What a check looks at. Records are decoded in any case, those of the whole server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckSpec {
    /// This volume and those that it shares records with; `None`: all.
    pub volume: Option<VolumeId>,
    /// Also what each snapshot shows, not only what each volume shows now.
    pub snapshots: bool,
    /// Also which objects are in the object store.
    pub objects: bool,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Space is lost, or could not be looked at; no file is harmed.
    Warning,
    /// Something is damaged or contradicts itself.
    Error,
}

/// Something that should not be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Which rule is broken, for programs: words joined by `-`, the same in all releases.
    pub rule: String,
    /// The volume, where it is of one.
    pub volume: Option<VolumeId>,
    /// What is wrong, for people.
    pub text: String,
}

/// One step of a check: the answer to the question of how far it got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckStep {
    /// What was found since the step before, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// What is being done, for people.
    pub phase: String,
    /// Records and objects that were looked at so far; some more than once.
    pub looked: u64,
    /// Places that changed whenever they were looked at, so that nothing can be said of them.
    pub unsettled: u64,
    /// The check is at its end.
    pub done: bool,
}

/// Most findings of one step.
pub const MAX_FINDINGS: usize = 512;
