//! Devices with small limits: grids of workgroups that no side can hold, and buffers that no binding can show.

use mantissa_backend_wgpu::LowerLimits;
use mantissa_core::backend::Backend;
use mantissa_core::data::Batch;
use mantissa_core::error::Error;
use mantissa_core::model::ModelConfig;
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::rng::Rng;
use mantissa_core::train::{Session, TrainConfig};
use mantissa_tests::data::{normal, text, windows};
use mantissa_tests::{devices, tiny};
use std::sync::Arc;

/// Every saved value after two steps, and the loss on data that is not trained on.
fn two_steps(backend: &Arc<dyn Backend>, config: &TrainConfig) -> (Vec<Vec<u8>>, f32) {
    let mut session = Session::measuring(backend.clone(), config.clone(), &[]).expect("a session");
    let (x, targets): (Vec<u8>, Vec<u32>) = match &config.model {
        ModelConfig::Gpt(gpt) => {
            let (x, targets) = windows(&text(8000), config.batch, gpt.context, &mut Rng::new(8, 0));
            (bytemuck::cast_slice(&x).to_vec(), targets)
        }
        ModelConfig::Mlp(mlp) => {
            let x = normal(config.batch * mlp.inputs, 1.0, 3);
            let classes = (0..config.batch as u32).map(|i| i % mlp.classes as u32);
            (bytemuck::cast_slice(&x).to_vec(), classes.collect())
        }
    };
    let batch = Batch { x: &x, targets: bytemuck::cast_slice(&targets) };
    session.step(batch).expect("a step");
    session.step_measured(batch).expect("a step with statistics");
    let loss = session.eval(batch).expect("an evaluation");
    (session.saved().map(|entry| session.read(&entry.name).expect("bytes")).collect(), loss)
}

#[test]
fn a_grid_that_is_folded_in_three_gives_the_same_bits() {
    // 2197 workgroups at most, as 13 rows of 13 layers of 13.
    let lower = LowerLimits { groups: Some(13), ..LowerLimits::default() };
    let (Some(usual), Some(folding)) = (devices::wgpu(), devices::wgpu_limited(lower)) else { return };
    let mut configs: Vec<TrainConfig> = [RecipeName::F16, RecipeName::Fp8Delayed, RecipeName::Fp8Current, RecipeName::Mxfp8]
        .map(|name| tiny::gpt(Recipe::new(name), 10))
        .into();
    configs.push(tiny::mlp(Recipe::new(RecipeName::F32)));
    for config in configs {
        assert!(two_steps(&usual, &config) == two_steps(&folding, &config), "{}", config.recipe.name);
    }
}

#[test]
fn a_buffer_that_cannot_be_bound_is_refused_by_its_use_and_both_sizes() {
    let lower = LowerLimits { buffer_bytes: Some(1 << 16), ..LowerLimits::default() };
    let Some(small) = devices::wgpu_limited(lower) else { return };
    let config = tiny::gpt(Recipe::new(RecipeName::Bf16), 10);
    let Err(e) = Session::new(small.clone(), config) else { panic!("weights of more than 64 KiB") };
    assert!(matches!(e, Error::BufferTooLarge { holds: "weights" | "optimizer", largest: 65536, .. }), "{e}");
    assert!(e.to_string().contains("expected buffers of at most 0.1 MiB, got one of "), "{e}");
    // The device is as good as before.
    let fits = tiny::mlp(Recipe::new(RecipeName::F32));
    Session::new(small, fits).expect("a small model fits");
}
