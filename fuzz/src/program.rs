//! Malformed Programs: recorded steps with a few edits that the bytes choose. A Program is either refused, or can be
//! printed, priced and laid out.

use mantissa_core::DType;
use mantissa_core::model::ModelConfig;
use mantissa_core::model::gpt::GptConfig;
use mantissa_core::model::mlp::MlpConfig;
use mantissa_core::op::Op;
use mantissa_core::op::layout::Slice;
use mantissa_core::optim::OptimConfig;
use mantissa_core::optim::schedule::{Decay, Schedule};
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::precision::{OnNonFinite, Recipe};
use mantissa_core::program::memory::{Layout, MemoryPlan};
use mantissa_core::program::{Init, Kind, Program, Rate, Role, ScopeId, ValueId};
use mantissa_core::shape::Ty;
use mantissa_core::train::{TrainConfig, record};
use std::sync::{Arc, LazyLock};

/// Edits of one Program at most.
const MAX_EDITS: usize = 6;

static RECORDED: LazyLock<Vec<Program>> = LazyLock::new(|| {
    let gpt =
        GptConfig { vocab: 8, context: 4, width: 8, heads: 2, layers: 1, mlp_ratio: 2, dropout: 0.1, ..GptConfig::tiny() };
    let mlp = MlpConfig { inputs: 6, hidden: vec![5], classes: 3 };
    let models = [ModelConfig::Gpt(gpt), ModelConfig::Mlp(mlp)];
    let cases = models.iter().flat_map(|m| RecipeName::ALL.map(|r| (m.clone(), r)));
    cases.filter_map(|(model, recipe)| record::train_step(&config(model, recipe)).ok()).collect()
});

pub(super) fn config(model: ModelConfig, recipe: RecipeName) -> TrainConfig {
    TrainConfig {
        model,
        recipe: Recipe::new(recipe),
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 1e-3, min_lr: 0.0, warmup: 0, steps: 10, decay: Decay::Constant },
        clip: None,
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Skip,
        batch: 2,
        grad_accum: 2,
        seed: 1,
    }
}

/// Numbers out of bytes; 0 once there are none left.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, &[][..]), |(f, r)| (*f, r));
        self.0 = rest;
        first
    }

    fn below(&mut self, n: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % n.max(1)
    }

    /// Small, or near a power of two of any size.
    fn size(&mut self) -> usize {
        let byte = self.byte();
        if byte < 128 {
            usize::from(byte % 12)
        } else {
            (1usize << (byte % 64)).wrapping_add(usize::from(byte & 64) / 32).wrapping_sub(1)
        }
    }

    fn sizes(&mut self) -> Vec<usize> {
        (0..self.below(5)).map(|_| self.size()).collect()
    }
}

/// A Program edited as `data` says.
pub fn program(data: &[u8]) {
    let mut numbers = Numbers(data);
    assert!(!RECORDED.is_empty());
    let mut program = RECORDED[numbers.below(RECORDED.len())].clone();
    program.validate().expect("recorded Programs are well formed");
    for _ in 0..1 + numbers.below(MAX_EDITS) {
        edit(&mut program, &mut numbers);
    }
    if program.validate().is_err() {
        return;
    }
    assert!(!program.to_string().is_empty());
    let _ = program.step_cost();
    let layout = Arc::new(Layout::new(&program));
    if let Ok(plan) = MemoryPlan::new(&program, &layout) {
        let _ = plan.total_bytes();
    }
}

fn edit(p: &mut Program, n: &mut Numbers<'_>) {
    if p.instrs.is_empty() {
        return;
    }
    let at = n.below(p.instrs.len());
    // One past the last value now and then.
    let value = ValueId(n.below(p.values.len() + 1) as u32);
    match n.byte() % 16 {
        0 => {
            let k = n.below(p.instrs[at].inputs.len());
            if let Some(input) = p.instrs[at].inputs.get_mut(k) {
                *input = value;
            }
        }
        1 => {
            let k = n.below(p.instrs[at].outputs.len());
            if let Some(output) = p.instrs[at].outputs.get_mut(k) {
                *output = value;
            }
        }
        2 => drop(p.instrs[at].inputs.pop()),
        3 => p.instrs[at].inputs.push(value),
        4 => drop(p.instrs[at].outputs.pop()),
        5 => p.instrs[at].outputs.push(value),
        6 => drop(p.instrs.remove(at)),
        7 => {
            let other = value.index() % p.instrs.len();
            p.instrs.swap(at, other);
        }
        8 => p.instrs[at].scope = ScopeId(n.size() as u32),
        9 => p.micro_end = n.size(),
        10 => p.grad_accum = n.size(),
        11 => {
            let other = value.index() % p.instrs.len();
            p.instrs[at].op = p.instrs[other].op.clone();
        }
        12 => p.instrs[at].op = attributes(n),
        13 => {
            let v = value.index() % p.values.len();
            p.values[v].ty = Ty::new(DType::ALL[n.below(DType::ALL.len())], n.sizes());
        }
        14 => {
            // A shape of the wrong size that agrees with itself: all values that had the same type get the new one.
            let old = p.values[value.index() % p.values.len()].ty.clone();
            let new = Ty::new(old.dtype, n.sizes());
            p.values.iter_mut().filter(|v| v.ty == old).for_each(|v| v.ty = new.clone());
        }
        _ => {
            let v = value.index() % p.values.len();
            p.values[v].kind = [
                Kind::Temp,
                Kind::Output,
                Kind::Input(Rate::Step),
                Kind::Param(Init::Fill(0.0)),
                Kind::State(Role::Telemetry, Init::Fill(0.0)),
            ][n.below(5)];
        }
    }
}

/// An operation with attributes of any size.
fn attributes(n: &mut Numbers<'_>) -> Op {
    match n.byte() % 6 {
        0 => Op::Reshape(n.sizes().into()),
        1 => Op::Permute(n.sizes()),
        2 => Op::Concat(n.size()),
        3 => Op::TopK(n.size()),
        4 => Op::Slice(slice(n)),
        _ => Op::SliceBackward(slice(n)),
    }
}

fn slice(n: &mut Numbers<'_>) -> Slice {
    Slice { axis: n.size(), start: n.size(), end: n.size(), full: n.size() }
}
