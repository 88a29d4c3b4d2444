//! Checks.

use nokvfs_types::{CheckSpec, CheckStep, Finding, MAX_FINDINGS, Severity, VolumeId};

use super::volume::{id_from_wire, id_to_wire};
use super::{Checked, invalid};
use crate::wire;

fn volume_to_wire(volume: Option<VolumeId>) -> bytes::Bytes {
    volume.map_or_else(bytes::Bytes::new, id_to_wire)
}

fn volume_from_wire(volume: &bytes::Bytes) -> Checked<Option<VolumeId>> {
    if volume.is_empty() { Ok(None) } else { id_from_wire(volume).map(Some) }
}

pub(super) fn check_call(run: u64, step: u32, spec: &CheckSpec) -> wire::CheckCall {
    let volume = volume_to_wire(spec.volume);
    wire::CheckCall { run, step, volume, snapshots: spec.snapshots, objects: spec.objects }
}

pub(super) fn check_spec(call: &wire::CheckCall) -> Checked<CheckSpec> {
    let volume = volume_from_wire(&call.volume)?;
    Ok(CheckSpec { volume, snapshots: call.snapshots, objects: call.objects })
}

pub(super) fn step_to_wire(step: &CheckStep) -> wire::CheckStep {
    let finding = |finding: &Finding| {
        let severity = match finding.severity {
            Severity::Warning => wire::Severity::Warning,
            Severity::Error => wire::Severity::Error,
        };
        wire::Finding {
            severity: severity.into(),
            rule: finding.rule.clone(),
            volume: volume_to_wire(finding.volume),
            text: finding.text.clone(),
        }
    };
    wire::CheckStep {
        findings: step.findings.iter().map(finding).collect(),
        phase: step.phase.clone(),
        looked: step.looked,
        unsettled: step.unsettled,
        done: step.done,
    }
}

pub(super) fn step_from_wire(step: wire::CheckStep) -> Checked<CheckStep> {
    if step.findings.len() > MAX_FINDINGS {
        return invalid(format!("{} findings of one step, at most {MAX_FINDINGS}", step.findings.len()));
    }
    let finding = |finding: wire::Finding| {
        let severity = match wire::Severity::try_from(finding.severity) {
            Ok(wire::Severity::Warning) => Severity::Warning,
            Ok(wire::Severity::Error) => Severity::Error,
            Ok(wire::Severity::Unspecified) | Err(_) => return invalid(format!("severity {}", finding.severity)),
        };
        let volume = volume_from_wire(&finding.volume)?;
        Ok(Finding { severity, rule: finding.rule, volume, text: finding.text })
    };
    Ok(CheckStep {
        findings: step.findings.into_iter().map(finding).collect::<Checked<Vec<_>>>()?,
        phase: step.phase,
        looked: step.looked,
        unsettled: step.unsettled,
        done: step.done,
    })
}
