//! A check that runs: how its findings come to whoever asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nokvfs_types::{CheckSpec, CheckStep, Finding, MAX_FINDINGS, MetaError};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Checker, Problem, ended};
use crate::engine::Engine;
use crate::service::{CheckService, MetaResult};

/// How long one step waits for findings.
const STEP: Duration = Duration::from_secs(5);
/// How long a step waits for the one before it, asked again over another connection.
const TURN: Duration = Duration::from_secs(8);
/// A check that nobody asks for ends after this.
const SILENCE: Duration = Duration::from_secs(60);

/// The check that runs, or the last one.
#[derive(Debug, Default)]
pub(crate) struct Checks(tokio::sync::Mutex<Option<Run>>);

#[derive(Debug)]
struct Run {
    id: u64,
    /// The step that was answered last, and the answer.
    last: (u32, CheckStep),
    findings: mpsc::Receiver<Finding>,
    progress: Arc<Progress>,
    end: Option<JoinHandle<MetaResult<()>>>,
}

#[derive(Debug)]
struct Progress {
    phase: Mutex<String>,
    looked: AtomicU64,
    unsettled: AtomicU64,
    asked: Mutex<Instant>,
}

/// Where a check tells what it finds and how far it is.
pub(super) struct Sink {
    findings: mpsc::Sender<Finding>,
    progress: Arc<Progress>,
    runtime: Handle,
}

impl Sink {
    /// Tells a finding; waits while too many were not asked for.
    pub(super) fn report(&self, problem: &Problem) -> MetaResult<()> {
        let sent = self
            .runtime
            .block_on(async { tokio::time::timeout(SILENCE, self.findings.send(Finding::from(problem))).await });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ended("nobody asks for its findings")),
        }
    }

    /// Ends a check that nobody asks for any more.
    pub(super) fn check_asked(&self) -> MetaResult<()> {
        if self.findings.is_closed() || self.progress.asked.lock().elapsed() > SILENCE {
            return Err(ended("nobody asks for its findings"));
        }
        Ok(())
    }

    pub(super) fn phase(&self, phase: String) {
        *self.progress.phase.lock() = phase;
    }

    pub(super) fn looked(&self, count: usize) {
        self.progress.looked.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn unsettled(&self, count: usize) {
        self.progress.unsettled.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Runs what is asked of the object store.
    pub(super) fn wait<T>(&self, asked: impl Future<Output = T>) -> T {
        self.runtime.block_on(asked)
    }
}

#[async_trait::async_trait]
impl CheckService for Engine {
    async fn check(&self, run: u64, step: u32, spec: CheckSpec) -> MetaResult<CheckStep> {
        let core = self.core();
        let busy = || MetaError::Busy("another check runs; try again when it is done".into());
        let mut checks = tokio::time::timeout(TURN, core.checks.0.lock()).await.map_err(|_| busy())?;
        match &mut *checks {
            Some(known) if known.id == run => {}
            Some(known) if known.end.as_ref().is_some_and(|end| !end.is_finished()) => return Err(busy()),
            _ if step > 0 => return Err(MetaError::NotFound),
            other => *other = Some(self.begin(run, spec)),
        }
        let Some(known) = &mut *checks else { return Err(MetaError::NotFound) };
        known.step(step).await
    }
}

impl Engine {
    fn begin(&self, id: u64, spec: CheckSpec) -> Run {
        let progress = Arc::new(Progress {
            phase: Mutex::new("begins".into()),
            looked: AtomicU64::new(0),
            unsettled: AtomicU64::new(0),
            asked: Mutex::new(Instant::now()),
        });
        let (sender, findings) = mpsc::channel(MAX_FINDINGS);
        let sink = Sink { findings: sender, progress: Arc::clone(&progress), runtime: Handle::current() };
        let checker = Checker::new(Arc::clone(self.core()), spec, sink);
        let end = tokio::task::spawn_blocking(move || checker.run());
        Run { id, last: (u32::MAX, CheckStep::default()), findings, progress, end: Some(end) }
    }
}

impl Run {
    async fn step(&mut self, step: u32) -> MetaResult<CheckStep> {
        *self.progress.asked.lock() = Instant::now();
        if step == self.last.0 {
            return Ok(self.last.1.clone());
        }
        if step != self.last.0.wrapping_add(1) {
            return Err(MetaError::Invalid(format!("step {step} of the check comes after step {}", self.last.0)));
        }
        let (until, mut found, mut done) = (tokio::time::Instant::now() + STEP, Vec::new(), false);
        while found.len() < MAX_FINDINGS && !done {
            match tokio::time::timeout_at(until, self.findings.recv()).await {
                Ok(Some(finding)) => found.push(finding),
                Ok(None) => done = true,
                Err(_) => break,
            }
        }
        if done && let Some(end) = self.end.take() {
            end.await.map_err(|error| MetaError::Internal(format!("the check failed: {error}; see the log")))??;
        }
        let answer = CheckStep {
            findings: found,
            phase: self.progress.phase.lock().clone(),
            looked: self.progress.looked.load(Ordering::Relaxed),
            unsettled: self.progress.unsettled.load(Ordering::Relaxed),
            done,
        };
        self.last = (step, answer.clone());
        Ok(answer)
    }
}
