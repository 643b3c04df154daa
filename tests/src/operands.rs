//! Programs of a single operation over values that stay in memory, so that a benchmark times the operation and no copy
//! of its operands.

use crate::machine::Machine;
use mantissa_core::backend::Backend;
use mantissa_core::cpu::CpuBackend;
use mantissa_core::dtype::DType;
use mantissa_core::op::Op;
use mantissa_core::op::update::Optimizer;
use mantissa_core::program::{Init, Role, ValueId};
use mantissa_core::shape::Ty;
use mantissa_core::trace::Graph;

/// Normal values of this type; scales are 1.
pub fn operand(g: &Graph, name: &str, ty: &Ty) -> ValueId {
    let one = ty.dtype == DType::E8m0 || ty.shape.is_empty();
    let init = if one || !ty.dtype.is_float() { Init::Fill(1.0) } else { Init::Normal { std: 1.0 } };
    g.state(name, ty.clone(), Role::Telemetry, init).id()
}

/// `op` over operands of these types. Those from `updated` on are also its outputs, in order, behind `fresh` new ones.
pub fn alone(op: Op, types: &[Ty], updated: usize, fresh: usize) -> Machine {
    alone_on(&CpuBackend::new(), op, types, updated, fresh)
}

/// As [`alone`], on any backend.
pub fn alone_on(backend: &dyn Backend, op: Op, types: &[Ty], updated: usize, fresh: usize) -> Machine {
    let g = Graph::new("alone", true);
    let inputs: Vec<ValueId> = types.iter().enumerate().map(|(i, ty)| operand(&g, &format!("x{i}"), ty)).collect();
    let outputs: Vec<Option<ValueId>> =
        vec![None; fresh].into_iter().chain(inputs[updated..].iter().copied().map(Some)).collect();
    let results = g.push_into(op, &inputs, &outputs);
    for (i, y) in results.iter().take(fresh).enumerate() {
        g.output(&format!("y{i}"), *y);
    }
    let program = g.finish_raw().expect("the operands fit the operation");
    Machine::new(backend, program).expect("the operation runs")
}

/// An optimizer step over parameters of these types.
pub fn optimizer(op: Optimizer, params: &[Ty]) -> Machine {
    let g = Graph::new("optimizer", true);
    let list = |what: &str| -> Vec<ValueId> {
        params.iter().enumerate().map(|(i, ty)| operand(&g, &format!("{what}.{i}"), ty)).collect()
    };
    let (lr, step) = (operand(&g, "lr", &Ty::scalar(DType::F32)), operand(&g, "step", &Ty::scalar(DType::U32)));
    let (weights, grads) = (list("w"), list("dw"));
    let moments: Vec<ValueId> = ["m", "v"].into_iter().take(op.rule.moments()).flat_map(list).collect();
    let inputs = [&[lr, step][..], &weights, &grads, &moments].concat();
    let outputs: Vec<Option<ValueId>> = [&[step][..], &weights, &moments].concat().into_iter().map(Some).collect();
    g.push_into(op.op(), &inputs, &outputs);
    let program = g.finish_raw().expect("the lists fit the optimizer");
    Machine::new(&CpuBackend::new(), program).expect("the optimizer runs")
}
