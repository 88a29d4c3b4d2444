//! `nokv-fs fsck`: looks for contradictions in what a metadata server stores, and for objects that are missing or lost.

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use nokvfs_meta::service::CheckService;
use nokvfs_types::{CheckSpec, Finding, Severity};
use serde::Serialize;

use crate::connection::ServerArgs;
use crate::output::{self, Format};
use crate::volume::find;

/// Findings that are kept to be printed as JSON; text is printed as it comes.
const KEPT: usize = 100_000;

/// `fsck`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Check this volume (name or UUID) and those that it shares records with; without it all
    #[arg(long)]
    volume: Option<String>,
    /// Check also what each snapshot shows
    #[arg(long)]
    snapshots: bool,
    /// Check also that the object store has all objects that files need, and no others
    #[arg(long)]
    objects: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// What was found, as it is printed.
#[derive(Debug, Default, Serialize)]
struct Report {
    findings: Vec<Row>,
    errors: u64,
    warnings: u64,
    /// Records and objects that were looked at.
    looked: u64,
    /// Places that changed whenever they were looked at.
    unsettled: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    severity: &'static str,
    rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume: Option<String>,
    text: String,
}

impl From<Finding> for Row {
    fn from(finding: Finding) -> Self {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let volume = finding.volume.map(|volume| volume.to_string());
        Row { severity, rule: finding.rule, volume, text: finding.text }
    }
}

impl Row {
    fn line(&self) -> String {
        let volume = self.volume.as_ref().map_or_else(String::new, |volume| format!(" volume {volume}:"));
        format!("{} [{}]{volume} {}", self.severity, self.rule, self.text)
    }
}

/// Checks and tells; a failure if something was found.
pub async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let server = args.server.volumes().await?;
    let volume = match &args.volume {
        Some(volume) => Some(find(&server, volume).await?),
        None => None,
    };
    let spec = CheckSpec { volume, snapshots: args.snapshots, objects: args.objects };
    let report = check(&server, spec, format).await?;
    let (errors, warnings) = (report.errors, report.warnings);
    output::print(format, &report, summary)?;
    if errors + warnings > 0 {
        bail!("{errors} errors and {warnings} warnings; what each means and what to do: docs/troubleshooting.md, fsck");
    }
    Ok(())
}

async fn check(server: &dyn CheckService, spec: CheckSpec, format: Format) -> anyhow::Result<Report> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {human_pos} looked at; {wide_msg}")?);
    let mut random = [0u8; 8];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers from the kernel: {error}"))?;
    let run = u64::from_le_bytes(random);
    let mut report = Report::default();
    for step in 0.. {
        let found = server.check(run, step, spec.clone()).await.context("the check")?;
        for finding in found.findings {
            match finding.severity {
                Severity::Error => report.errors += 1,
                Severity::Warning => report.warnings += 1,
            }
            let row = Row::from(finding);
            match format {
                Format::Text => bar.suspend(|| println!("{}", row.line())),
                Format::Json if report.findings.len() < KEPT => report.findings.push(row),
                Format::Json => {}
            }
        }
        (report.looked, report.unsettled) = (found.looked, found.unsettled);
        bar.set_position(found.looked);
        bar.set_message(found.phase);
        if found.done {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(report)
}

fn summary(report: &Report) -> String {
    let unsettled = match report.unsettled {
        0 => String::new(),
        count => {
            format!("; {count} places changed all the time and were not compared, check again when less is written")
        }
    };
    match report.errors + report.warnings {
        0 => format!("clean: {} records and objects were looked at{unsettled}", report.looked),
        _ => format!("{} records and objects were looked at{unsettled}", report.looked),
    }
}
