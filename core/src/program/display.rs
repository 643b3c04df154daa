//! A Program as text: readable, stable, good for snapshot tests and diffs.

use super::{Instr, Kind, Program, Rate, Role, ValueId};
use crate::dtype::DType;
use crate::op::Op;
use crate::op::matmul::{Epilogue, MatMul};
use crate::op::quantize::Scaling;
use crate::op::scale::BlockAxis;
use std::fmt::{self, Write};

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {}", self.name)?;
        for (i, v) in self.values.iter().enumerate() {
            let kind = match v.kind {
                Kind::Param(_) => "param",
                Kind::State(Role::Optimizer, _) => "state(optimizer)",
                Kind::State(Role::Precision, _) => "state(precision)",
                Kind::State(Role::Accumulator, _) => "state(accumulator)",
                Kind::State(Role::Telemetry, _) => "state(telemetry)",
                Kind::Input(Rate::MicroStep) => "input(micro-step)",
                Kind::Input(Rate::Step) => "input(step)",
                Kind::Temp | Kind::Output => continue,
            };
            writeln!(f, "  {kind:<19} %{i} {} {}", v.name, v.ty)?;
        }
        let mut scope = None;
        for (i, instr) in self.instrs.iter().enumerate() {
            if i == 0 || i == self.micro_end {
                scope = None;
                match (i < self.micro_end, self.grad_accum) {
                    (true, 0 | 1) => writeln!(f, "micro-step")?,
                    (true, n) => writeln!(f, "micro-step, {n} times")?,
                    (false, _) => writeln!(f, "update")?,
                }
            }
            if scope != Some(instr.scope) {
                scope = Some(instr.scope);
                let name = self.scope(instr.scope);
                writeln!(f, "  {}:", if name.is_empty() { "(root)" } else { name })?;
            }
            writeln!(f, "    {}", self.instr_text(instr))?;
        }
        Ok(())
    }
}

impl Program {
    /// One instruction as a line: `%7 bf16[2, 3] = matmul(nt) %5 %6 ; why`.
    pub fn instr_text(&self, instr: &Instr) -> String {
        let mut line = String::new();
        for (k, &o) in instr.outputs.iter().enumerate() {
            if k > 0 {
                line.push_str(", ");
            }
            let _ = write!(line, "{}", self.operand(o, true));
            if k == 3 && instr.outputs.len() > 5 {
                let _ = write!(line, ", .. {} more", instr.outputs.len() - 4);
                break;
            }
        }
        let _ = write!(line, " = {}", self.op_text(instr));
        for (k, &i) in instr.inputs.iter().enumerate() {
            let _ = write!(line, " {}", self.operand(i, false));
            if k == 5 && instr.inputs.len() > 8 {
                let _ = write!(line, " .. {} more", instr.inputs.len() - 6);
                break;
            }
        }
        if let Some(why) = &instr.why {
            let _ = write!(line, " ; {why}");
        }
        line
    }

    /// [`op_text`] of an instruction; a map that only converts is a `cast`.
    pub fn op_text(&self, instr: &Instr) -> String {
        match (&instr.op, instr.inputs.first()) {
            (Op::Map(m), Some(&x)) if m.as_cast(self.ty(x)).is_some() => "cast".into(),
            (op, _input) => op_text(op),
        }
    }

    fn operand(&self, id: ValueId, with_type: bool) -> String {
        let v = self.value(id);
        let name = if v.name.is_empty() { format!("%{}", id.0) } else { format!("%{}:{}", id.0, v.name) };
        if with_type { format!("{name} {}", v.ty) } else { name }
    }
}

/// Name and attributes of an operation.
pub fn op_text(op: &Op) -> String {
    let name = op.row().name;
    match op {
        Op::Map(m) => format!("map {{ {} }}", m.expr),
        Op::Reduce(r) => format!("reduce({:?} {:?}{})", r.kind, r.axes, round_text(r.round)).to_lowercase(),
        Op::MatMul(m) => matmul_text(m),
        Op::Attention(a) | Op::AttentionBackward(a) => {
            let causal = if a.causal { " causal" } else { "" };
            let dropout = a.dropout.map(|d| format!(" dropout {}", d.p.f32())).unwrap_or_default();
            format!("{name}(heads {}/{}{causal}{dropout})", a.heads, a.kv_heads)
        }
        Op::Norm(n) | Op::NormBackward(n) => format!("{name}({})", n.name()),
        Op::Softmax(s) | Op::SoftmaxBackward(s) => format!("{name}{}", if s.log { "(log)" } else { "" }),
        Op::CrossEntropy(c) | Op::CrossEntropyBackward(c) => {
            if c.label_smoothing.0 == 0.0 {
                name.to_string()
            } else {
                format!("{name}(smoothing {})", c.label_smoothing)
            }
        }
        Op::Reshape(s) => format!("reshape {s}"),
        Op::Permute(p) => format!("permute {p:?}"),
        Op::Concat(axis) => format!("concat(axis {axis})"),
        Op::Slice(s) | Op::SliceBackward(s) => format!("{name}(axis {} {}..{} of {})", s.axis, s.start, s.end, s.full),
        Op::TopK(k) => format!("top_k({k})"),
        Op::Quantize(q) => {
            let how = match q.scaling {
                Scaling::Delayed { .. } => "delayed",
                Scaling::Current { .. } => "current",
            };
            format!("quantize({} {how} slot {})", q.dtype, q.slot)
        }
        Op::QuantizeMx(q) => {
            let along = if q.blocks == BlockAxis::Last { "1x32" } else { "32x1" };
            format!("quantize_mx({} {along})", q.dtype)
        }
        Op::ClipCoef(c) => match c.percentile {
            None => format!("clip_coef({})", c.max_norm),
            Some(p) => format!("clip_coef(percentile {p})"),
        },
        Op::ClipValue(c) => format!("clip_value({})", c.limit),
        Op::Optimizer(o) => {
            let rule = match o.rule {
                crate::op::update::Rule::Adam { decoupled: true, .. } => "adamw",
                crate::op::update::Rule::Adam { decoupled: false, .. } => "adam",
                crate::op::update::Rule::Sgd { .. } => "sgd",
            };
            format!("optimizer({rule} over {} tensors)", o.len())
        }
        Op::Record(r) => format!("record(slot {})", r.slot),
        Op::TensorStats(s) => {
            let scale = s.scale_at.map(|i| format!(" scale {i}")).unwrap_or_default();
            format!("tensor_stats({}{scale} slot {})", s.format, s.slot)
        }
        Op::Embedding
        | Op::EmbeddingBackward(_)
        | Op::Gather
        | Op::GatherBackward(_)
        | Op::Conv2d(_)
        | Op::Conv2dDgrad(_)
        | Op::Conv2dWgrad(_)
        | Op::Pool2d(_)
        | Op::Pool2dBackward(_)
        | Op::UnscaleCheck(_)
        | Op::GradNorm(_)
        | Op::UpdateLossScale(_)
        | Op::UpdateFp8Scales(_)
        | Op::Zero => name.to_string(),
    }
}

fn round_text(round: Option<DType>) -> String {
    round.map_or(String::new(), |d| format!(" rounded to {d}"))
}

fn matmul_text(m: &MatMul) -> String {
    let t = |trans: bool| if trans { 't' } else { 'n' };
    let mut text = format!("matmul({}{}", t(m.trans_a), t(m.trans_b));
    if m.compute == DType::Tf32 {
        text.push_str(" tf32");
    }
    if m.bias {
        text.push_str(" bias");
    }
    text.push_str(&round_text(m.round));
    let then = match m.epilogue {
        Epilogue::None => String::new(),
        Epilogue::Activation(a) => format!(" {}", a.function().name()),
        Epilogue::Add => m.addend_input().map_or(String::new(), |i| format!(" + i{i}")),
    };
    text + &then + ")"
}
