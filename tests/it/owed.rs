//! Calls that must follow others: a recording without them would run and train wrongly, so `finish` refuses it and
//! names the line that the missing call belongs to. The order of the calls that are there is checked as they come.

use mantissa_core::optim::{Optim, OptimConfig};
use mantissa_core::precision::clip::{Clip, clip_grads};
use mantissa_core::precision::scaler::{GradScaler, ScalerConfig};
use mantissa_core::precision::{Recipe, RecipeName, fp8};
use mantissa_core::program::{Init, Program, Rate};
use mantissa_core::shape::Ty;
use mantissa_core::trace::{Graph, Var};
use mantissa_core::{DType, Error, Result};

/// What a recording leaves out, or does too often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Story {
    grad_accum: usize,
    no_finish: bool,
    finish_twice: bool,
    finish_first: bool,
    finish_late: bool,
    no_begin: bool,
    no_step: bool,
    no_update: bool,
    backward_twice: bool,
}

/// An fp8 layer in a whole training step with a loss scale, described by `story`. Gives the Program and the lines of:
/// the layer, the micro-steps, the scaler, the optimizer, the second backward.
fn record(story: Story) -> (Result<Program>, [u32; 5]) {
    let mut lines = [0; 5];
    let mut told = || -> Result<Program> {
        let recipe = Recipe::new(RecipeName::Fp8Delayed);
        let config = recipe.fp8.expect("an fp8 recipe");
        let g = Graph::new("story", true);
        lines[1] = line!() + 1;
        g.set_grad_accum(story.grad_accum.max(1));
        lines[2] = line!() + 1;
        let mut scaler = GradScaler::new(&g, Some(ScalerConfig::default()))?;
        let x = g.input("x", Ty::new(DType::F32, [32, 32]), Rate::MicroStep);
        let w = g.param("w", [32, 32], Init::Fill(0.1));
        lines[0] = line!() + 1;
        let loss = g.autocast(recipe.region(), || x.linear(w, None).cast(DType::F32).square().mean_all());
        if story.finish_first {
            fp8::finish(&g, &config);
        }
        lines[3] = line!() + 1;
        let mut optim = Optim::new("optim", OptimConfig::sgd(0.0), vec![w])?;
        optim.backward(scaler.scale(loss));
        if story.backward_twice {
            lines[4] = line!() + 1;
            optim.backward(scaler.scale(loss));
        }
        let finishes = usize::from(!story.no_finish && !story.finish_first) + usize::from(story.finish_twice);
        if story.finish_late {
            g.begin_update();
        }
        for _ in 0..finishes {
            fp8::finish(&g, &config);
        }
        if !story.no_begin {
            g.begin_update();
        }
        if !story.no_step {
            scaler.step(&mut optim)?;
        } else {
            scaler.unscale(&mut optim)?;
        }
        if !story.no_update {
            scaler.update()?;
        }
        g.finish()
    };
    let result = told();
    (result, lines)
}

fn refused(story: Story, call: &str, line: Option<usize>) {
    let (result, lines) = record(story);
    let error = result.expect_err("refused");
    let Error::Misuse { call: found, place, .. } = &error else { panic!("{story:?}: {error}") };
    assert_eq!(*found, call, "{story:?}: {error}");
    let at = line.map_or("tests/it/owed.rs:".to_string(), |i| format!("tests/it/owed.rs:{}", lines[i]));
    assert!(place.ends_with(&at) || line.is_none() && place.contains(&at), "{story:?}: {error}, not at {at}");
}

#[test]
fn a_whole_story_is_taken() {
    for grad_accum in [1, 2] {
        record(Story { grad_accum, ..Story::default() }).0.expect("everything is there");
    }
    // With one micro-step nothing runs twice.
    record(Story { no_begin: true, ..Story::default() }).0.expect("one part");
}

#[test]
fn fp8_layers_need_one_finish_in_its_place() {
    let story = Story::default();
    refused(Story { no_finish: true, ..story }, "fp8::finish", Some(0));
    refused(Story { finish_twice: true, ..story }, "fp8::finish", None);
    refused(Story { finish_first: true, ..story }, "fp8::finish", None);
    refused(Story { finish_late: true, ..story }, "fp8::finish", None);
    // The config of other layers.
    let g = Graph::new("another scaling", true);
    let x = g.input("x", Ty::new(DType::F32, [32, 32]), Rate::MicroStep);
    let w = g.param("w", [32, 32], Init::Fill(0.1));
    let y = g.autocast(Recipe::new(RecipeName::Fp8Delayed).region(), || x.linear(w, None));
    fp8::finish(&g, &Recipe::new(RecipeName::Mxfp8).fp8.expect("an fp8 recipe"));
    g.output("y", y);
    let text = g.finish().expect_err("refused").to_string();
    assert!(text.contains("it was given mx blocks, the layers have another scaling") && text.contains("owed.rs:"), "{text}");
}

#[test]
fn several_micro_steps_need_an_update_of_their_own() {
    let two = Story { grad_accum: 2, ..Story::default() };
    refused(Story { no_begin: true, ..two }, "unscale", None);
    // Nothing of the update is recorded: still an error.
    let g = Graph::new("micro-steps", true);
    let line = line!() + 1;
    g.set_grad_accum(2);
    g.output("y", g.input("x", Ty::scalar(DType::F32), Rate::MicroStep).exp());
    let text = g.finish().expect_err("refused").to_string();
    assert!(text.starts_with("begin_update: ") && text.ends_with(&format!("owed.rs:{line})")), "{text}");
    let late = Graph::new("late", true);
    late.begin_update();
    late.set_grad_accum(2);
    let text = late.finish().expect_err("refused").to_string();
    assert!(text.starts_with("set_grad_accum: the micro-steps have ended"), "{text}");
}

#[test]
fn a_loss_scale_needs_its_update() {
    refused(Story { no_update: true, ..Story::default() }, "update", Some(2));
    // Scaled again after the update.
    let g = Graph::new("scaled", true);
    let p = g.param("p", [4], Init::Fill(1.0));
    let mut scaler = GradScaler::new(&g, Some(ScalerConfig::default())).expect("valid");
    scaler.set(4.0).expect("valid");
    let line = line!() + 1;
    let scaled = scaler.scale((p * p).sum_all());
    g.output("loss", scaled);
    let text = g.finish().expect_err("refused").to_string();
    assert!(text.starts_with("update: the loss is scaled") && text.ends_with(&format!("owed.rs:{line})")), "{text}");
}

#[test]
fn an_optimizer_needs_its_step_and_a_name_of_its_own() {
    refused(Story { no_step: true, ..Story::default() }, "step", Some(3));
    let g = Graph::new("two", true);
    let p = g.param("p", [4], Init::Fill(1.0));
    let new = || Optim::new("optim", OptimConfig::sgd(0.0), vec![p]);
    let first = new().expect("valid");
    let text = new().expect_err("refused").to_string();
    assert!(text.starts_with("Optim::new: there is an optimizer `optim`"), "{text}");
    drop(first);
}

#[test]
fn gradients_that_would_be_lost_are_refused() {
    refused(Story { backward_twice: true, ..Story::default() }, "backward", Some(4));
}

/// Runs `f` on a scaler and an optimizer with gradients of `p`, before the update unless `begun`.
fn ordered(begun: bool, f: impl for<'g> Fn(&mut GradScaler<'g>, &mut Optim<'g>, Var<'g>) -> Result<()>) -> String {
    let g = Graph::new("order", true);
    g.set_grad_accum(2);
    let mut scaler = GradScaler::new(&g, Some(ScalerConfig::default())).expect("valid");
    let p = g.param("p", [4], Init::Fill(1.0));
    let mut optim = Optim::new("optim", OptimConfig::sgd(0.0), vec![p]).expect("valid");
    let loss = (p * p).sum_all();
    optim.backward(scaler.scale(loss));
    if begun {
        g.begin_update();
    }
    let error = f(&mut scaler, &mut optim, loss).expect_err("misuse");
    assert!(matches!(error, Error::Misuse { .. }), "{error}");
    error.to_string()
}

#[test]
fn the_update_begins_before_its_calls() {
    let unscale = ordered(false, |s, o, _| s.unscale(o));
    let (call, rest) = unscale.split_once(": ").expect("the call");
    assert_eq!(call, "unscale");
    assert!(
        rest.starts_with("it would run in each of the 2 micro-steps; call Graph::begin_update before it (in tests/it/owed.rs:"),
        "{rest}"
    );
    assert!(ordered(false, |s, o, _| s.step(o)).contains("2 micro-steps"));
    assert!(ordered(false, |s, _, _| s.update()).starts_with("update: it would run in each"));
    assert!(ordered(false, |s, o, _| clip_grads(s, o, Clip::Norm(1.0)).map(|_| ())).starts_with("clip: it would run in each"));
}

#[test]
fn clipping_comes_once_and_after_unscale() {
    let scaled = ordered(true, |s, o, _| clip_grads(s, o, Clip::Norm(1.0)).map(|_| ()));
    assert!(
        scaled.starts_with("clip: the gradients still carry the loss scale; call unscale first (in tests/it/owed.rs:"),
        "{scaled}"
    );
    let twice = ordered(true, |s, o, _| {
        s.unscale(o)?;
        clip_grads(s, o, Clip::Norm(1.0))?;
        clip_grads(s, o, Clip::Value(1.0)).map(|_| ())
    });
    assert!(twice.starts_with("clip: a clipping factor is recorded for this step"), "{twice}");
    let unscaled = ordered(true, |s, o, _| s.unscale(o).and_then(|()| s.unscale(o)));
    assert!(unscaled.starts_with("unscale: it was called for this optimizer since the last update"), "{unscaled}");
    let early = ordered(true, |s, o, loss| s.guard(o, loss, loss, None));
    assert!(early.starts_with("guard: the gradients are not ready"), "{early}");
}
