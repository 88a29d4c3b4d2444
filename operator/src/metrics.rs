//! Counters for Prometheus.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// The operator's counters.
pub struct Metrics {
    registry: Registry,
    rounds: Family<Kind, Counter>,
    failures: Family<Kind, Counter>,
    seconds: Family<Kind, Histogram>,
    leader: Gauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("nokv_operator");
        let (rounds, failures) = (Family::<Kind, Counter>::default(), Family::<Kind, Counter>::default());
        let buckets = || Histogram::new([0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 20.0]);
        let seconds = Family::<Kind, Histogram>::new_with_constructor(buckets);
        let leader = Gauge::default();
        registry.register("reconciles", "Rounds, by kind of resource", rounds.clone());
        registry.register(
            "reconcile_failures",
            "Rounds that will be tried again, by kind of resource",
            failures.clone(),
        );
        registry.register("reconcile_seconds", "Length of rounds", seconds.clone());
        registry.register("leader", "1 in the operator that works, 0 in one that waits", leader.clone());
        Metrics { registry, rounds, failures, seconds, leader }
    }
}

impl Metrics {
    /// Counts a round; its length ends with the answer's life.
    pub fn reconcile(&self, kind: &'static str) -> impl Drop + use<> {
        self.rounds.get_or_create(&Kind { kind }).inc();
        Timer { start: Instant::now(), seconds: self.seconds.get_or_create(&Kind { kind }).clone() }
    }

    /// Counts a failed round.
    pub fn failure(&self, kind: &'static str) {
        self.failures.get_or_create(&Kind { kind }).inc();
    }

    /// Whether this operator works.
    pub fn lead(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// In the text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}

struct Timer {
    start: Instant,
    seconds: Histogram,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.seconds.observe(self.start.elapsed().as_secs_f64());
    }
}
