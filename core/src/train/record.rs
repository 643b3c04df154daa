//! Records the Programs of a run: the training step, the evaluation of a batch, the scores for sampling.

use super::config::TrainConfig;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::op::expr::Ex;
use crate::op::update::{NormType, Record, RecordMode};
use crate::optim::Optim;
use crate::precision::clip;
use crate::precision::fp8;
use crate::precision::scaler::GradScaler;
use crate::program::{Fp8Slot, Program, Rate, Role};
use crate::shape::Ty;
use crate::telemetry::{Slot, TELEMETRY};
use crate::trace::{Graph, Var};
use std::sync::Arc;

/// Name of the optimizer and prefix of its states.
pub const OPTIM: &str = "optim";
/// Name of the output with the evaluation loss.
pub const LOSS: &str = "loss";
/// Name of the output with the scores.
pub const LOGITS: &str = "logits";
/// Prefix of the outputs with captured gradients.
pub const GRAD: &str = "grad.";

/// Records one training step. Fails if `config` is invalid.
pub fn train_step(config: &TrainConfig) -> Result<Program> {
    train_graph(config)?.finish()
}

/// The same step, bit for bit, with every matmul result materialised: for `doctor` and `compare`. Fails as
/// [`train_step`] does.
pub fn observable_step(config: &TrainConfig) -> Result<Program> {
    train_graph(config)?.finish_unfused()
}

/// The training step as recorded, before the passes. Fails if `config` is invalid.
pub fn train_graph(config: &TrainConfig) -> Result<Graph> {
    config.validate()?;
    let g = graph("train", config, true)?;
    g.set_grad_accum(config.grad_accum);
    record_train(&g, config)?;
    Ok(g)
}

/// The training step on inputs of the given types, with outputs that a comparison wants to see: [`LOGITS`] in f32 and,
/// under [`GRAD`], every gradient after unscale and before clipping. One micro-step only: the logits of others would be
/// gone. Fails if `config` is invalid, has several micro-steps, or the inputs do not fit the model.
pub fn captured_step(config: &TrainConfig, inputs: [Ty; 2]) -> Result<Program> {
    config.validate()?;
    if config.grad_accum != 1 {
        return Err(Error::config("grad_accum", "1, to read the logits of a step", config.grad_accum.to_string()));
    }
    let g = graph("captured", config, true)?;
    record_step(&g, config, inputs, true)?;
    g.finish()
}

fn graph(what: &str, config: &TrainConfig, training: bool) -> Result<Graph> {
    let g = Graph::new(format!("{what} {}", config.recipe.name), training);
    g.set_overrides(config.recipe.compiled_overrides()?);
    Ok(g)
}

fn record_train(g: &Graph, config: &TrainConfig) -> Result<()> {
    record_step(g, config, config.model.input_types(config.batch), false)
}

fn record_step(g: &Graph, config: &TrainConfig, inputs: [Ty; 2], capture: bool) -> Result<()> {
    let recipe = &config.recipe;
    let mut scaler = GradScaler::new(g, recipe.scaler)?;
    let forward = g.autocast(recipe.region(), || config.model.forward_on(g, inputs));
    let loss = match config.grad_accum {
        1 => forward.loss,
        n => forward.loss * (1.0 / n as f32),
    };
    let mut optim = Optim::new(OPTIM, config.optim, g.params())?;
    optim.backward(scaler.scale(loss));
    if let Some(fp8) = &recipe.fp8 {
        fp8::finish(g, fp8);
    }
    let step_loss = sum_over_micro_steps(g, "loss_sum", loss);
    let guards = config.on_nonfinite.guards();
    let fp8_nonfinite = guards.then(|| fp8::nonfinite(g)).flatten().map(|n| sum_over_micro_steps(g, "fp8.nonfinite_sum", n));
    g.begin_update();
    record(g, Slot::Loss, step_loss);
    if let Some(scale) = scaler.loss_scale() {
        record(g, Slot::LossScale, scale);
    }
    scaler.unscale(&mut optim)?;
    if capture {
        g.output(LOGITS, g.map(Ex::input(0), &[forward.logits], DType::F32));
        for (param, grad) in optim.params().iter().zip(optim.grads()?) {
            // A copy: the gradient itself lies in the list of the optimizer.
            g.output(&format!("{GRAD}{}", g.name(param.id)), grad.copy());
        }
    }
    let norm = match config.clip {
        Some(clip) => clip::clip_grads(&scaler, &mut optim, clip)?,
        None => clip::grad_norm(&scaler, &optim, NormType::L2)?,
    };
    record(g, Slot::GradNorm, norm);
    if guards {
        scaler.guard(&optim, step_loss, norm, fp8_nonfinite)?;
    }
    if config.grad_accum > 1 {
        for sum in [Some(step_loss), fp8_nonfinite].into_iter().flatten() {
            g.push_into(Op::Zero, &[sum.id], &[Some(sum.id)]);
        }
    }
    if let Some(found_inf) = scaler.found_inf(&optim).filter(|_| tells_found_inf(config, &g.fp8_slots())) {
        record(g, Slot::FoundInf, found_inf);
    }
    scaler.step(&mut optim)?;
    scaler.update()?;
    if let Some(tracker) = scaler.growth_tracker() {
        let _why = g.because(Some(Arc::from("telemetry is f32")));
        record(g, Slot::GrowthTracker, tracker.cast(DType::F32));
    }
    Ok(())
}

/// Whether the step reports `found_inf`: without a loss scale and fp8 tensors it follows from the loss and the norm,
/// which are reported.
pub(super) fn tells_found_inf(config: &TrainConfig, fp8: &[Fp8Slot]) -> bool {
    config.recipe.scaler.is_some() || (config.on_nonfinite.guards() && !fp8.is_empty())
}

/// The sum of the scalar `x` over the step: itself for one micro-step, else the state `name`, which the update must
/// clear.
fn sum_over_micro_steps<'g>(g: &'g Graph, name: &str, x: Var<'g>) -> Var<'g> {
    if g.grad_accum() == 1 {
        return x;
    }
    let sum = g.root_state(name, Ty::scalar(DType::F32), Role::Telemetry, 0.0);
    g.add_into(sum, x);
    g.var(sum)
}

fn record(g: &Graph, slot: Slot, value: Var<'_>) {
    let telemetry = g.root_state(TELEMETRY, Ty::new(DType::F32, [Slot::Count as usize]), Role::Telemetry, 0.0);
    let op = Record { slot: slot as usize, mode: RecordMode::Set };
    g.push_into(Op::Record(op), &[value.id, telemetry], &[Some(telemetry)]);
}

/// Records the evaluation loss of one batch, in the precision of training but with frozen fp8 scales and no dropout.
/// Fails if the recipe or the model is invalid.
pub fn eval_step(config: &TrainConfig) -> Result<Program> {
    let g = graph("eval", config, false)?;
    let forward = g.autocast(config.recipe.region(), || config.model.forward(&g, config.batch));
    if let Some(fp8) = &config.recipe.fp8 {
        fp8::finish(&g, fp8);
    }
    g.output(LOSS, forward.loss);
    g.finish()
}

/// Records the scores for one batch of `batch`, f32. Fails if the recipe or the model is invalid.
pub fn logits(config: &TrainConfig, batch: usize) -> Result<Program> {
    let g = graph("logits", config, false)?;
    let [x, _] = config.model.input_types(batch);
    let x = g.input("x", x, Rate::MicroStep);
    let logits = g.autocast(config.recipe.region(), || config.model.logits(x));
    if let Some(fp8) = &config.recipe.fp8 {
        fp8::finish(&g, fp8);
    }
    let logits = g.map(Ex::input(0), &[logits], DType::F32);
    g.output(LOGITS, logits);
    g.finish()
}
