//! Findings of the doctor as text: what `doctor` prints, and what ends a run under `--on-nonfinite stop`.

use mantissa_core::diagnose::finding::Finding;

/// Columns that the evidence of a finding is set in by.
const INDENT: usize = 10;

/// The lines of a finding, worst news first.
pub fn lines(finding: &Finding) -> Vec<String> {
    let head = format!("{:<INDENT$}{}", finding.severity.name(), finding.problem);
    let evidence = finding.evidence.iter().map(|line| format!("{:INDENT$}{line}", ""));
    let remedy = format!("{:<INDENT$}{}", "  remedy", finding.remedy);
    std::iter::once(head).chain(evidence).chain([remedy]).collect()
}
