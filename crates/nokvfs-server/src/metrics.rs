//! Counts and times, in the text format of Prometheus.

use std::time::Duration;

use nokvfs_types::{MetaError, VolumeInfo};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::backend::Figures;

/// Upper bounds of latency, in seconds: from a read that hits memory to the deadline.
const LATENCIES: [f64; 12] = [0.000_05, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Op {
    op: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    op: &'static str,
    error: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Volume {
    volume: String,
    name: String,
}

/// All metrics of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Op, Histogram, fn() -> Histogram>,
    failures: Family<Failure, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) refused: Counter,
    sessions: Gauge,
    batches: Gauge,
    commands: Gauge,
    queued: Gauge,
    garbage: Gauge,
    orphans: Gauge,
    ready: Gauge,
    volume_bytes: Family<Volume, Gauge>,
    volume_inodes: Family<Volume, Gauge>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("nokv");
        let latency: fn() -> Histogram = || Histogram::new(LATENCIES);
        let metrics = Metrics {
            requests: Family::new_with_constructor(latency),
            failures: Family::default(),
            connections: Gauge::default(),
            refused: Counter::default(),
            sessions: Gauge::default(),
            batches: Gauge::default(),
            commands: Gauge::default(),
            queued: Gauge::default(),
            garbage: Gauge::default(),
            orphans: Gauge::default(),
            ready: Gauge::default(),
            volume_bytes: Family::default(),
            volume_inodes: Family::default(),
            registry: Registry::default(),
        };
        let text = "Time from a request's arrival to its reply";
        registry.register_with_unit("request_duration", text, Unit::Seconds, metrics.requests.clone());
        registry.register("request_errors", "Requests that were answered with an error", metrics.failures.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register("connections_refused", "Connections that were refused", metrics.refused.clone());
        registry.register("sessions", "Live sessions", metrics.sessions.clone());
        registry.register("commit_batches", "Batches that were made durable since the start", metrics.batches.clone());
        registry.register("commit_commands", "Commands in those batches", metrics.commands.clone());
        registry.register("commit_queue", "Commands that wait for the committer", metrics.queued.clone());
        registry.register("orphans", "Unlinked inodes that are not removed yet", metrics.orphans.clone());
        registry.register("garbage_records", "Records of objects that wait for deletion", metrics.garbage.clone());
        registry.register("ready", "1 if the server is ready", metrics.ready.clone());
        registry.register("volume_used_bytes", "Mapped bytes of a volume", metrics.volume_bytes.clone());
        registry.register("volume_used_inodes", "Inodes of a volume", metrics.volume_inodes.clone());
        Metrics { registry, ..metrics }
    }

    pub(crate) fn request(&self, op: &'static str, took: Duration, error: Option<&MetaError>) {
        self.requests.get_or_create(&Op { op }).observe(took.as_secs_f64());
        if let Some(error) = error {
            self.failures.get_or_create(&Failure { op, error: kind(error) }).inc();
        }
    }

    /// The text, with the figures of now.
    pub(crate) fn render(
        &self,
        figures: Figures,
        ready: bool,
        volumes: &[VolumeInfo],
    ) -> Result<String, std::fmt::Error> {
        self.sessions.set(clip(figures.sessions));
        self.batches.set(clip(figures.batches));
        self.commands.set(clip(figures.commands));
        self.queued.set(clip(figures.queued));
        self.garbage.set(clip(figures.garbage));
        self.orphans.set(clip(figures.orphans));
        self.ready.set(i64::from(ready));
        // Volumes that are gone must not stay.
        self.volume_bytes.clear();
        self.volume_inodes.clear();
        for info in volumes {
            let volume = Volume { volume: info.id.to_string(), name: info.spec.name.clone() };
            self.volume_bytes.get_or_create(&volume).set(clip(info.usage.bytes));
            self.volume_inodes.get_or_create(&volume).set(clip(info.usage.inodes));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn clip(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A short name of an error. Those that are everyday answers share one.
fn kind(error: &MetaError) -> &'static str {
    match error {
        MetaError::Unauthorized(_) => "unauthorized",
        MetaError::SessionExpired(_) => "session_expired",
        MetaError::Superseded(_) => "superseded",
        MetaError::NoSpace(_) => "no_space",
        MetaError::QuotaExceeded(_) => "quota_exceeded",
        MetaError::Busy(_) => "busy",
        MetaError::Unavailable(_) => "unavailable",
        MetaError::Deadline(_) => "deadline",
        MetaError::Corrupt(_) => "corrupt",
        MetaError::Internal(_) => "internal",
        _ => "refused",
    }
}
