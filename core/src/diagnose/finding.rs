//! A diagnosis: what is wrong, what shows it, what helps.

use crate::telemetry::warning::Warning;
use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Training cannot go on.
    Fatal,
    /// Training goes on, worse than it could.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Fatal => "fatal",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// One diagnosis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Step at which it was seen.
    pub step: u64,
    /// What is wrong.
    pub problem: String,
    /// What was seen, a line each.
    pub evidence: Vec<String>,
    /// What helps.
    pub remedy: String,
}

impl Finding {
    /// A warning of a run as a finding.
    pub fn of_warning(w: &Warning, severity: Severity) -> Finding {
        let (problem, remedy) = (w.message.clone(), w.remedy.clone());
        Finding { severity, step: w.step, problem, evidence: Vec::new(), remedy }
    }
}
