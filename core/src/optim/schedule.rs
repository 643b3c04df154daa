//! Learning-rate schedules: functions of the step number, evaluated on the host.

use serde::{Deserialize, Serialize};

/// What follows the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Half a cosine down to `min_lr` at the last step.
    Cosine,
    /// `lr` to the end.
    Constant,
}

/// Linear warm-up, then decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Peak learning rate.
    pub lr: f64,
    /// Learning rate at the last step.
    pub min_lr: f64,
    /// Steps of linear rise; step 1 has `lr / warmup`.
    pub warmup: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// What follows the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// Learning rate of step `step`, counted from 1.
    pub fn lr(&self, step: u64) -> f64 {
        if step <= self.warmup && self.warmup > 0 {
            return self.lr * step as f64 / self.warmup as f64;
        }
        match self.decay {
            Decay::Constant => self.lr,
            Decay::Cosine => {
                let span = self.steps.saturating_sub(self.warmup).max(1) as f64;
                let t = (step.saturating_sub(self.warmup) as f64 / span).min(1.0);
                self.min_lr + 0.5 * (self.lr - self.min_lr) * (1.0 + (std::f64::consts::PI * t).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_peaks_and_ends_at_the_minimum() {
        let s = Schedule { lr: 1e-3, min_lr: 1e-4, warmup: 10, steps: 110, decay: Decay::Cosine };
        assert!((s.lr(1) - 1e-4).abs() <= 1e-12);
        assert!((s.lr(10) - 1e-3).abs() <= 1e-12);
        assert!((s.lr(60) - 5.5e-4).abs() <= 1e-12);
        assert!((s.lr(110) - 1e-4).abs() <= 1e-12);
        assert!((s.lr(500) - 1e-4).abs() <= 1e-12);
        let c = Schedule { decay: Decay::Constant, warmup: 0, ..s };
        assert_eq!((c.lr(1), c.lr(1000)), (1e-3, 1e-3));
    }
}
