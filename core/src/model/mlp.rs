//! A fully connected classifier with ReLU between its layers.

use crate::error::{Error, Result};
use crate::nn::Linear;
use crate::program::Init;
use crate::trace::Var;
use serde::{Deserialize, Serialize};

/// Names of the layers, in order; as many layers as an MLP may have.
const NAMES: [&str; 8] = ["fc1", "fc2", "fc3", "fc4", "fc5", "fc6", "fc7", "fc8"];

/// Sizes of an MLP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Input features.
    pub inputs: usize,
    /// Widths between the layers.
    pub hidden: Vec<usize>,
    /// Output classes.
    pub classes: usize,
}

impl MlpConfig {
    /// 784-1024-1024-10, for 28 x 28 images.
    pub fn mnist() -> MlpConfig {
        MlpConfig { inputs: 784, hidden: vec![1024, 1024], classes: 10 }
    }

    /// Checks the sizes. Fails at the first that is out of range, naming it as `model.<name>`.
    pub fn validate(&self) -> Result<()> {
        let sizes = [&[self.inputs, self.classes], &self.hidden[..]].concat();
        if let Some(n) = sizes.iter().find(|&&n| n == 0 || n > 1 << 24) {
            return Err(Error::config("model", "layer widths from 1 to 16777216", n.to_string()));
        }
        if self.hidden.len() >= NAMES.len() {
            return Err(Error::config(
                "model.hidden",
                format!("at most {} widths", NAMES.len() - 1),
                self.hidden.len().to_string(),
            ));
        }
        Ok(())
    }

    /// Records logits [B, classes] for inputs [B, inputs].
    pub fn forward<'g>(&self, x: Var<'g>) -> Var<'g> {
        let _root = x.graph().scope("mlp");
        let mut x = x;
        let mut width = self.inputs;
        for (name, &hidden) in NAMES.iter().zip(&self.hidden) {
            // He initialisation: ReLU halves the second moment.
            let init = Init::Normal { std: (2.0 / width as f32).sqrt() };
            x = Linear::new(name, width, hidden).init(init).forward(x).relu();
            width = hidden;
        }
        let init = Init::Normal { std: (1.0 / width as f32).sqrt() };
        Linear::new(NAMES[self.hidden.len()], width, self.classes).init(init).forward(x)
    }
}
