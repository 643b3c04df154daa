//! What the panels read: runs, built from events alone, whether they come from a running trainer, a growing file or a
//! finished one.
//!
//! Memory is bounded for each run: columns get coarser ([`table`]) and lists forget their oldest entries.

mod pyramid;
pub mod run;
pub mod spread;
pub mod table;
pub mod tensor;

pub use pyramid::Span;
pub use run::{Mark, MarkKind, Origin, Run, SMOOTH, Sample};
pub use spread::Spread;
pub use table::Table;
pub use tensor::{Tensor, TensorColumn};

use mantissa_core::model::ModelConfig;
use serde::{Deserialize, Serialize};

/// What the horizontal axes count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Axis {
    /// Steps.
    #[default]
    Step,
    /// Tokens or images.
    Items,
    /// Seconds of training.
    Time,
}

impl Axis {
    /// Every axis.
    pub const ALL: [Axis; 3] = [Axis::Step, Axis::Items, Axis::Time];
}

/// Every run, and which one is looked at.
#[derive(Debug, Default)]
pub struct Store {
    /// Runs in the order in which they came.
    pub runs: Vec<Run>,
    /// Index of the run that panels about one run show.
    pub selected: usize,
    /// What the horizontal axes count.
    pub axis: Axis,
    /// Runs that race, the first being what the others are measured against.
    pub race: Vec<usize>,
}

impl Store {
    /// Adds a run and looks at it; returns its index.
    pub fn add(&mut self, run: Run) -> usize {
        self.runs.push(run);
        self.selected = self.runs.len() - 1;
        self.selected
    }

    /// The run looked at.
    pub fn run(&self) -> Option<&Run> {
        self.runs.get(self.selected)
    }

    /// The run looked at if it has something, or else the newest one that has: in a race one sees each recipe at its
    /// speciality.
    pub fn run_with(&self, has: impl Fn(&Run) -> bool) -> Option<usize> {
        let mut order = std::iter::once(self.selected).chain((0..self.runs.len()).rev());
        order.find(|i| self.runs.get(*i).is_some_and(&has))
    }

    /// Takes a run away.
    pub fn remove(&mut self, index: usize) {
        self.runs.remove(index);
        self.race.retain(|r| *r != index);
        self.race.iter_mut().for_each(|r| *r -= usize::from(*r > index));
        self.selected -= usize::from(self.selected > index);
        self.selected = self.selected.min(self.runs.len().saturating_sub(1));
    }

    /// Place of a row of `table`, a table of `run`, on the horizontal axis.
    pub fn x<'a, const N: usize>(&self, run: &Run, table: &'a Table<N>) -> impl Fn(usize) -> f64 + use<'a, N> {
        let (axis, items) = (self.axis, run.items_per_step() as f64);
        move |row| match axis {
            Axis::Step => table.steps()[row] as f64,
            Axis::Items => table.steps()[row] as f64 * items,
            Axis::Time => table.secs()[row],
        }
    }

    /// Place of a step of `run` on the horizontal axis.
    pub fn x_of_step(&self, run: &Run, step: u64) -> f64 {
        match self.axis {
            Axis::Step => step as f64,
            Axis::Items => step as f64 * run.items_per_step() as f64,
            Axis::Time => {
                let row = run.steps.steps().partition_point(|s| *s <= step).saturating_sub(1);
                run.steps.secs().get(row).copied().unwrap_or(0.0)
            }
        }
    }

    /// Place of the first and of the last step of all runs on the horizontal axis; `None` before any.
    pub fn x_range(&self) -> Option<[f64; 2]> {
        let ends = self.runs.iter().filter(|r| !r.steps.is_empty()).map(|r| {
            let x = self.x(r, &r.steps);
            [x(0), self.x_of_step(r, r.taken())]
        });
        ends.reduce(|a, b| [a[0].min(b[0]), a[1].max(b[1])])
    }

    /// Name of an axis on a switch.
    pub fn axis_name(&self, axis: Axis) -> &'static str {
        match (axis, self.run().map(|r| &r.config.model)) {
            (Axis::Step, _) => "step",
            (Axis::Items, Some(ModelConfig::Mlp(_))) => "images",
            (Axis::Items, Some(ModelConfig::Gpt(_)) | None) => "tokens",
            (Axis::Time, _) => "time",
        }
    }

    /// Label of the horizontal axis.
    pub fn axis_label(&self) -> &'static str {
        match self.axis {
            Axis::Step | Axis::Items => self.axis_name(self.axis),
            Axis::Time => "seconds of training",
        }
    }
}

#[cfg(test)]
mod tests;
