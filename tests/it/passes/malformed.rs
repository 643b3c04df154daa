//! Programs made wrong on purpose: each is refused with instruction, scope, expected and found.

use mantissa_core::op::Op;
use mantissa_core::op::expr::{Ex, Map};
use mantissa_core::optim::{Optim, OptimConfig};
use mantissa_core::precision::scaler::ScalerConfig;
use mantissa_core::precision::{GradScaler, Recipe, RecipeName};
use mantissa_core::program::{Init, Instr, Kind, Program, Rate, Role, ScopeId, ValueId};
use mantissa_core::shape::Ty;
use mantissa_core::trace::Graph;
use mantissa_core::train::record;
use mantissa_core::{DType, Error};
use mantissa_tests::tiny;

fn good() -> Program {
    record::train_step(&tiny::mlp(Recipe::new(RecipeName::F16))).expect("records")
}

/// Index of the first instruction that `keep` accepts.
fn find(p: &Program, keep: impl Fn(&Program, &Instr) -> bool) -> usize {
    p.instrs.iter().position(|i| keep(p, i)).expect("there is one")
}

fn is_temp(p: &Program, id: ValueId) -> bool {
    p.value(id).kind == Kind::Temp
}

/// The error of a mutated Program: instruction, expected, found.
fn refused(p: &Program) -> (usize, String, String) {
    let error = p.validate().expect_err("malformed");
    let text = error.to_string();
    let Error::Program { instr, op, scope, expected, found } = error else { panic!("{text}") };
    assert!(
        text.contains(&format!("instruction {instr} ({op}) in scope `{scope}`: expected {expected}, found {found}")),
        "{text}"
    );
    (instr, expected, found)
}

#[test]
fn the_good_program_is_good() {
    good().validate().expect("valid");
}

#[test]
fn values_that_do_not_exist() {
    let mut p = good();
    let n = p.values.len() as u32;
    p.instrs[3].inputs[0] = ValueId(n);
    assert_eq!(refused(&p), (3, format!("a value below %{n}"), format!("%{n}")));
    let mut p = good();
    p.instrs[5].outputs[0] = ValueId(u32::MAX);
    assert_eq!(refused(&p), (5, format!("a value below %{n}"), format!("%{}", u32::MAX)));
}

#[test]
fn a_temporary_written_twice() {
    let mut p = good();
    let at = find(&p, |p, i| matches!(i.op, Op::MatMul(_)) && is_temp(p, i.outputs[0]));
    let again = p.instrs[at].clone();
    let id = again.outputs[0].0;
    p.instrs.insert(at + 1, again);
    p.micro_end += 1;
    let (instr, expected, found) = refused(&p);
    assert_eq!((instr, expected.as_str()), (at + 1, "each temporary written once"));
    assert!(found.starts_with(&format!("%{id} ")), "{found}");
}

#[test]
fn a_value_read_before_it_is_written() {
    let mut p = good();
    let at = find(&p, |p, i| matches!(i.op, Op::MatMul(_)) && is_temp(p, i.inputs[0]));
    let id = p.instrs[at].inputs[0];
    let writer = find(&p, |_, i| i.outputs.contains(&id));
    let late = p.instrs.remove(writer);
    p.instrs.insert(at, late);
    let (instr, expected, found) = refused(&p);
    assert_eq!(expected, "inputs written before they are read");
    assert!(instr < at && found.starts_with(&format!("%{} ", id.0)), "{instr} {found}");
}

#[test]
fn types_that_the_rule_does_not_give() {
    let mut p = good();
    let at = find(&p, |p, i| matches!(i.op, Op::MatMul(_)) && is_temp(p, i.outputs[0]));
    let out = p.instrs[at].outputs[0];
    p.values[out.index()].ty = Ty::new(DType::E8m0, [2, 2]);
    let (instr, expected, found) = refused(&p);
    assert_eq!((instr, expected.as_str()), (at, "operands its rule accepts"));
    assert!(found.contains("matmul: expected outputs f16[32, 32], got e8m0[2, 2]"), "{found}");
    // An operand short.
    let mut p = good();
    p.instrs[at].inputs.pop();
    assert!(refused(&p).2.contains("inputs"));
    // An output too many.
    let mut p = good();
    p.instrs[at].outputs.push(out);
    assert!(refused(&p).2.contains("matmul: expected outputs"));
}

#[test]
fn a_write_to_an_input() {
    let g = Graph::new("copy", true);
    let x = g.input("x", Ty::new(DType::F32, [4]), Rate::MicroStep);
    g.output("y", x.copy());
    let id = x.id();
    let mut p = g.finish_raw().expect("valid");
    p.instrs[0].outputs[0] = id;
    let (instr, expected, found) = refused(&p);
    assert_eq!((instr, expected.as_str()), (0, "outputs that may be written"));
    assert!(found.contains("x f32[4] (Input(MicroStep))"), "{found}");
}

#[test]
fn a_temporary_across_the_micro_step_boundary() {
    for (n, ok) in [(1, true), (3, false)] {
        let g = Graph::new("accumulate", true);
        g.set_grad_accum(n);
        let _scope = g.scope("model");
        let x = g.input("x", Ty::new(DType::F32, [4]), Rate::MicroStep).exp();
        g.begin_update();
        let y = x + 1.0;
        drop(_scope);
        g.output("y", y);
        let result = g.finish_raw();
        assert_eq!(result.is_ok(), ok);
        if let Err(error) = result {
            let text = error.to_string();
            let want =
                "instruction 1 (map) in scope `model`: expected only states to pass from micro-steps to the update, found %";
            assert!(text.contains(want), "{text}");
        }
    }
}

/// A step whose gradient is unscaled in place; `after` may read it then.
fn after_unscale(read: impl for<'g> Fn(&'g Graph, mantissa_core::trace::Var<'g>)) -> mantissa_core::Result<Program> {
    let g = Graph::new("in place", true);
    let record = |g: &Graph| -> mantissa_core::Result<()> {
        let mut scaler = GradScaler::new(g, Some(ScalerConfig::default()))?;
        let p = g.param("p", [2, 2], Init::Fill(1.0));
        let mut optim = Optim::new("optim", OptimConfig::sgd(0.0), vec![p])?;
        optim.backward(scaler.scale((p * p).sum_all()));
        let grad = optim.grads()?[0];
        let view = grad.reshape([4]);
        scaler.unscale(&mut optim)?;
        read(g, g.var(grad.id()));
        read(g, g.var(view.id()));
        scaler.step(&mut optim)?;
        scaler.update()
    };
    record(&g)?;
    g.finish_raw()
}

#[test]
fn a_reader_after_an_in_place_update() {
    after_unscale(|_, _| {}).expect("nobody reads");
    let direct = after_unscale(|g, v| {
        if v.shape().len() == 2 {
            g.output("late", v * 2.0);
        }
    });
    let text = direct.expect_err("stale").to_string();
    assert!(text.contains("(map)") && text.contains("expected no reader after an in-place update, found %"), "{text}");
    let through_a_view = after_unscale(|g, v| {
        if v.shape().len() == 1 {
            g.output("late", v * 2.0);
        }
    });
    let text = through_a_view.expect_err("stale").to_string();
    assert!(text.contains("(map)") && text.contains("expected no reader after an in-place update, found %"), "{text}");
}

#[test]
fn a_view_of_a_state_read_after_its_update() {
    for (read_late, ok) in [(false, true), (true, false)] {
        let g = Graph::new("view", true);
        let state = g.state("state", Ty::new(DType::F32, [2, 2]), Role::Telemetry, Init::Fill(1.0));
        let view = state.reshape([4]);
        let early = view * 2.0;
        let double = Map::new(Ex::input(0) + Ex::input(0), &[state.ty()], DType::F32).expect("fits");
        g.push_into(double.op(), &[state.id()], &[Some(state.id())]);
        g.output("y", if read_late { view + 1.0 } else { early + state.reshape([4]) });
        assert_eq!(g.finish_raw().is_ok(), ok);
    }
}

#[test]
fn an_in_place_update_of_another_state() {
    // An optimizer that would read one parameter and write another.
    let mut p = good();
    let at = find(&p, |_, i| matches!(i.op, Op::Optimizer(_)));
    let (a, b) = (p.find("mlp.fc1.bias").expect("a parameter"), p.find("mlp.fc2.bias").expect("a parameter"));
    assert_eq!(p.ty(a), p.ty(b));
    let swap = |id: &mut ValueId| {
        if *id == a {
            *id = b;
        } else if *id == b {
            *id = a;
        }
    };
    p.instrs[at].outputs.iter_mut().for_each(swap);
    let (instr, expected, _) = refused(&p);
    assert_eq!((instr, expected.as_str()), (at, "each updated state among the outputs, at its place"));
}

#[test]
fn scopes_and_bounds() {
    let mut p = good();
    let n = p.scopes.len() as u32;
    p.instrs[4].scope = ScopeId(n);
    assert_eq!(refused(&p), (4, format!("a scope below {n}"), n.to_string()));
    for mutate in [
        |p: &mut Program| p.micro_end = p.instrs.len() + 1,
        |p: &mut Program| p.grad_accum = 0,
        |p: &mut Program| p.scopes.clear(),
    ] {
        let mut p = good();
        mutate(&mut p);
        assert!(refused(&p).1.starts_with("micro_end within"));
    }
}
