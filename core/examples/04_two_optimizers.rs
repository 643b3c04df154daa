//! Lesson 4: two optimizers, one loss scale. Run with
//! `cargo run --release -p mantissa-lessons --bin 04_two_optimizers`.
//!
//! A small GAN on 2-D points, in f16. Generator and discriminator are updated in one recorded step. Each optimizer is
//! skipped by its own overflow only; the scale backs off if either overflowed. `update` comes once, after both have
//! stepped.

use mantissa_core::backend::{Backend, wait};
use mantissa_core::cpu::CpuBackend;
use mantissa_core::nn::Linear;
use mantissa_core::optim::{Optim, OptimConfig};
use mantissa_core::precision::scaler::{GradScaler, ScalerConfig};
use mantissa_core::precision::settings::Region;
use mantissa_core::program::memory::Layout;
use mantissa_core::program::{Program, Rate, ValueId};
use mantissa_core::rng::Rng;
use mantissa_core::shape::Ty;
use mantissa_core::trace::{Graph, Var};
use mantissa_core::train::session::init_memory;
use mantissa_core::{DType, Result, bytemuck, show};
use std::sync::Arc;

const POINTS: usize = 128;
const STEPS: usize = 600;
/// Mean and deviation of the real points.
const TARGET: ([f32; 2], f32) = ([1.5, -1.0], 0.25);

fn generator(z: Var<'_>) -> Var<'_> {
    let _scope = z.graph().scope("gen");
    let h = Linear::new("up", 2, 32).init_uniform().forward(z).relu();
    Linear::new("down", 32, 2).init_uniform().forward(h)
}

fn discriminator(x: Var<'_>) -> Var<'_> {
    let _scope = x.graph().scope("disc");
    let h = Linear::new("up", 2, 32).init_uniform().forward(x).relu();
    Linear::new("down", 32, 1).init_uniform().forward(h)
}

fn record() -> Result<Program> {
    let g = Graph::new("gan", true);
    let points = Ty::new(DType::F32, [POINTS, 2]);
    let real = g.input("real", points.clone(), Rate::MicroStep);
    let z = g.input("z", points, Rate::MicroStep);
    // -log sigmoid(s) = softplus(-s); softplus is in the f32 class.
    let (fake, d_loss, g_loss) = g.autocast(Region::low(DType::F16), || {
        let fake = generator(z);
        let (on_real, on_fake) = (discriminator(real), discriminator(fake));
        let d_loss = (-on_real).softplus().mean_all() + on_fake.softplus().mean_all();
        (fake, d_loss, (-on_fake).softplus().mean_all())
    });
    let of = |scope: &str| g.params().into_iter().filter(|p| g.name(p.id()).starts_with(scope)).collect::<Vec<_>>();
    let adam = OptimConfig::Adam { beta1: 0.5, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
    let mut d_optim = Optim::new("d", adam, of("disc."))?;
    let mut g_optim = Optim::new("g", adam, of("gen."))?;
    let mut scaler = GradScaler::new(&g, Some(ScalerConfig { init_scale: 2f64.powi(24), ..ScalerConfig::default() }))?;

    // Each optimizer asks for the gradients of its own parameters: no `detach` is needed.
    d_optim.backward(scaler.scale(d_loss));
    g_optim.backward(scaler.scale(g_loss));
    g.begin_update();
    scaler.step(&mut d_optim)?;
    scaler.step(&mut g_optim)?;
    for (name, optim) in [("d_found_inf", &d_optim), ("g_found_inf", &g_optim)] {
        if let Some(found) = scaler.found_inf(optim) {
            g.output(name, found);
        }
    }
    scaler.update()?;
    g.output("fake", fake.cast(DType::F32));
    g.finish()
}

fn main() -> Result<()> {
    let backend = CpuBackend::new();
    let program = Arc::new(record()?);
    let memory = backend.alloc(Arc::new(Layout::new(&program)))?;
    init_memory(&*memory, 3)?;
    let mut step = backend.compile(program.clone(), &memory)?;
    let id = |name: &str| program.find(name).unwrap_or(ValueId(u32::MAX));
    let f32s = |bytes: Vec<u8>| bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect::<Vec<f32>>();
    let mut rng = Rng::new(5, 0);
    let (mut skips, mut distance) = ([0, 0], [f32::NAN; 2]);
    println!(" step  loss_scale  skipped d, g  mean of the generated points");
    for i in 0..STEPS {
        let noise: Vec<f32> = (0..4 * POINTS).map(|_| rng.normal()).collect();
        let (z, rest) = noise.split_at(2 * POINTS);
        let real: Vec<f32> = rest.iter().enumerate().map(|(k, n)| TARGET.0[k % 2] + TARGET.1 * n).collect();
        let lr = 2e-3 * (1.0 - i as f32 / STEPS as f32); // a host value: the Program is recorded once, not per rate
        let rate = bytemuck::bytes_of(&lr);
        let (z, real) = (bytemuck::cast_slice(z), bytemuck::cast_slice(&real));
        step.submit(&[(id("z"), z), (id("real"), real), (id("d.lr"), rate), (id("g.lr"), rate)])?;

        let found = |name: &str| -> Result<bool> { Ok(f32s(wait(step.read(id(name))?)?)[0] != 0.0) };
        let now = [found("d_found_inf")?, found("g_found_inf")?];
        (0..2).for_each(|k| skips[k] += u32::from(now[k]));
        let fake = f32s(wait(step.read(id("fake"))?)?);
        let mean = [0, 1].map(|k| fake.iter().skip(k).step_by(2).sum::<f32>() / POINTS as f32);
        let away = (mean[0] - TARGET.0[0]).hypot(mean[1] - TARGET.0[1]);
        distance[usize::from(i > 0)] = away;
        if i % 60 == 0 || now != [false, false] {
            let scale = f32s(wait(memory.read("loss_scale")?)?)[0];
            let scale = show::loss_scale(scale);
            println!("{:>5}  {scale:>10}  {:>9}, {}  {mean:.2?}", i + 1, skips[0], skips[1]);
        }
    }
    let steps_of = |name: &str| -> Result<u32> { Ok(bytemuck::pod_read_unaligned(&wait(memory.read(name)?)?)) };
    let taken = [steps_of("d.step")?, steps_of("g.step")?];
    println!(
        "\nsteps taken: d {}, g {}; distance from the real mean {:.2} at first, {:.2} at last",
        taken[0], taken[1], distance[0], distance[1]
    );
    assert!(skips[0] + skips[1] > 0, "2^24 is too large for f16");
    assert_eq!([taken[0] + skips[0], taken[1] + skips[1]], [STEPS as u32; 2], "each counter missed exactly its own skips");
    assert!(distance[1] <= 0.25 * distance[0], "the generated points moved onto the real ones");
    Ok(())
}
