//! What part of training an instruction is, and a name for it that survives a change of recipe.
//!
//! Two recipes record different Programs of one model: casts and quantizations come and go, elementwise chains fuse
//! differently. What stays is the scope, the operation, whether the loss depends on it, and the order among its like.
//! That is [`Key`].

use crate::op::map::{Node, NodeId};
use crate::op::{Family, Op};
use crate::program::{Instr, Kind, Program, Role, ValueId};
use crate::telemetry::Slot;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Part of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The loss depends on it.
    Forward,
    /// The rest of a micro-step: gradients.
    Backward,
    /// Once per step: unscale, clip, optimizer.
    Update,
}

impl Phase {
    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Forward => "forward",
            Phase::Backward => "backward",
            Phase::Update => "update",
        }
    }
}

/// The phase of every instruction. A Program that records no loss (an evaluation) is all forward up to its update part.
pub fn phases(program: &Program) -> Vec<Phase> {
    let update = program.micro_end.min(program.instrs.len());
    let is_loss = |i: &&Instr| matches!(&i.op, Op::Record(r) if r.slot == Slot::Loss as usize);
    let loss = program.instrs.iter().find(is_loss).map(|i| i.inputs[0]);
    let Some(loss) = loss else {
        return (0..program.instrs.len()).map(|i| if i < update { Phase::Forward } else { Phase::Update }).collect();
    };
    let mut phases = vec![Phase::Backward; update];
    phases.resize(program.instrs.len(), Phase::Update);
    // States are read as the last step left them: the chain of causes ends there, except at the loss sum itself.
    let mut wanted: Vec<bool> = vec![false; program.values.len()];
    wanted[loss.index()] = true;
    for (i, instr) in program.instrs[..update].iter().enumerate().rev() {
        if !instr.outputs.iter().any(|o| wanted[o.index()]) {
            continue;
        }
        phases[i] = Phase::Forward;
        for &id in &instr.inputs {
            wanted[id.index()] |= is_temporary(program, id);
        }
    }
    phases
}

fn is_temporary(program: &Program, id: ValueId) -> bool {
    match program.value(id).kind {
        Kind::Temp | Kind::Output => true,
        Kind::Param(_) | Kind::State(..) | Kind::Input(_) => false,
    }
}

/// What an instruction is called in every recipe of one model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Scope name.
    pub scope: String,
    /// Part of the step.
    pub phase: Phase,
    /// Operation, with the formula of an elementwise one.
    pub family: String,
    /// Elements of its first output.
    pub numel: usize,
    /// Its number among those that agree in all of the above.
    pub ordinal: usize,
}

/// Keys of the instructions that mean the same in every recipe: those of forward and backward that compute something.
/// Views, plain conversions, fp8 quantization and bookkeeping have none.
pub fn keys(program: &Program) -> Vec<Option<Key>> {
    let phases = phases(program);
    let mut seen: HashMap<(String, Phase, String, usize), usize> = HashMap::new();
    // What follows from statistics alone.
    let mut told: Vec<bool> = program.values.iter().map(|v| matches!(v.kind, Kind::State(Role::Telemetry, _))).collect();
    let key = |(at, instr): (usize, &Instr)| -> Option<Key> {
        if !instr.inputs.is_empty() && instr.inputs.iter().all(|id| told[id.index()]) {
            instr.outputs.iter().for_each(|id| told[id.index()] = true);
            return None;
        }
        let family = family(program, instr).filter(|_| phases[at] != Phase::Update)?;
        let ty = program.ty(*instr.outputs.first()?);
        if !ty.dtype.is_float() {
            return None;
        }
        let (scope, numel) = (program.scope(instr.scope).to_string(), ty.shape.numel());
        let next = seen.entry((scope.clone(), phases[at], family.clone(), numel)).or_default();
        *next += 1;
        Some(Key { scope, phase: phases[at], family, numel, ordinal: *next - 1 })
    };
    program.instrs.iter().enumerate().map(key).collect()
}

fn family(program: &Program, instr: &Instr) -> Option<String> {
    if let Op::Map(m) = &instr.op {
        let first = instr.inputs.first().map(|&i| program.ty(i));
        // Further outputs may be copies of the first in other dtypes.
        let value = m.expr.outputs[0];
        let copy = |id: &NodeId| *id == value || matches!(m.expr.nodes[usize::from(*id)], Node::Round(_, x) if x == value);
        if first.is_none_or(|t| m.as_cast(t).is_some()) || !m.expr.outputs.iter().all(copy) {
            return None;
        }
        // Roundings between fused parts belong to the recipe, not to the formula.
        let plain: Vec<String> = m
            .expr
            .nodes
            .iter()
            .filter(|n| !matches!(n, Node::Round(..) | Node::Input(_)))
            .map(|n| match n {
                Node::Unary(f, _) => format!("{f:?}").to_lowercase(),
                Node::Binary(f, ..) => format!("{f:?}").to_lowercase(),
                Node::Const(bits) => f32::from_bits(*bits).to_string(),
                Node::Select(_) => "select".into(),
                Node::Dropout { .. } => "dropout".into(),
                Node::Uniform { .. } => "uniform".into(),
                Node::Round(..) | Node::Input(_) => String::new(),
            })
            .collect();
        return Some(format!("map {}", plain.join(" ")));
    }
    let row = instr.op.row();
    match row.family {
        Family::View | Family::Quantize | Family::Update => None,
        Family::Product
        | Family::Attention
        | Family::AttentionBackward
        | Family::Convolution
        | Family::Elementwise
        | Family::Reduction
        | Family::Index
        | Family::Layout => Some(row.name.to_string()),
    }
}

/// A short name of an instruction for reports: the operation without its long attributes.
pub fn short(instr: &Instr) -> String {
    let text = crate::program::display::op_text(&instr.op);
    match text.char_indices().nth(40) {
        Some((cut, _)) => format!("{}..", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::tiny;
    use crate::precision::recipe::RecipeName;
    use crate::train::record::train_step;

    #[test]
    fn forward_ends_at_the_loss() {
        for name in RecipeName::ALL {
            for grad_accum in [1, 2] {
                let mut config = tiny(name);
                config.grad_accum = grad_accum;
                let program = train_step(&config).unwrap();
                let phases = phases(&program);
                for (instr, phase) in program.instrs.iter().zip(&phases) {
                    let name = instr.op.row().name;
                    if name.ends_with("backward") {
                        assert_eq!(*phase, Phase::Backward, "{name}");
                    }
                    if matches!(name, "cross_entropy" | "embedding" | "norm" | "attention") {
                        assert_eq!(*phase, Phase::Forward, "{name}");
                    }
                    if matches!(name, "optimizer" | "unscale_check" | "grad_norm") {
                        assert_eq!(*phase, Phase::Update, "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_key_of_f32_is_found_in_every_recipe() {
        let keys_of = |name| -> Vec<Key> { keys(&train_step(&tiny(name)).unwrap()).into_iter().flatten().collect() };
        let base = keys_of(RecipeName::F32);
        let unique: std::collections::HashSet<&Key> = base.iter().collect();
        assert_eq!(unique.len(), base.len());
        for name in RecipeName::ALL {
            let other = keys_of(name);
            let missing: Vec<&Key> = base.iter().filter(|k| !other.contains(k)).collect();
            assert!(missing.is_empty(), "{name}: {missing:?}");
        }
    }
}
