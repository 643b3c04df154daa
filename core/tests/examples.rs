//! Runs the examples of the documentation, which lie in `core/docs`. Cargo runs examples in documentation after all
//! tests, where they would hide the tally of the workspace.

#[path = "../docs/layers.rs"]
mod layers;
#[path = "../docs/one_layer.rs"]
mod one_layer;
#[path = "../docs/optimizer.rs"]
mod optimizer;
#[path = "../docs/own_model.rs"]
mod own_model;
#[path = "../docs/session.rs"]
mod session;
#[path = "../docs/vars.rs"]
mod vars;

#[test]
fn one_layer_says_what_it_says() {
    one_layer::one_layer().expect("it records");
}

#[test]
fn layers_have_the_dtypes_that_are_said() {
    layers::one_block().expect("it records");
}

#[test]
fn vars_have_the_shapes_that_are_said() {
    vars::shapes_and_dtypes().expect("it records");
}

#[test]
fn a_model_of_ones_own_learns() {
    let losses = own_model::train(60).expect("it runs");
    assert!((losses[0] - 4f32.ln()).abs() <= 0.5, "a guess among four classes at first: {losses:?}");
    assert!(losses[59] <= 0.5 * losses[0], "{losses:?}");
}

#[test]
fn a_clipped_step_moves_by_the_rate() {
    let w = optimizer::clipped_sgd().expect("it runs");
    assert!((w[0] - 0.75).abs() <= 1e-6 && (w[1] - 0.5).abs() <= 1e-6, "{w:?}");
}

#[test]
fn a_session_reports_every_step() {
    let reports = session::five_steps().expect("it runs");
    assert_eq!(reports.iter().map(|r| r.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(reports.iter().all(|r| r.loss.is_finite() && r.grad_norm > 0.0 && !r.found_inf));
    assert!(reports[4].loss <= 0.9 * reports[0].loss, "{} and {}", reports[0].loss, reports[4].loss);
}

/// The README shows the recording of `own_model`.
#[test]
fn the_readme_shows_the_model_that_is_run() {
    let lines = |text: &str| text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect::<Vec<_>>();
    let readme = include_str!("../../README.md");
    let block = readme.split("```rust\n").nth(1).and_then(|t| t.split("```").next()).expect("the README has Rust in it");
    let example = include_str!("../docs/own_model.rs");
    let body = example.split("pub(crate) fn record() -> Result<Program> {").nth(1).and_then(|t| t.split("\n}\n").next());
    let body = lines(body.expect("the example has `record`"));
    let block = lines(block);
    assert!(block.len() >= 10 && body.join("\n").contains(&block.join("\n")), "{block:#?}\nis not a part of\n{body:#?}");
}
