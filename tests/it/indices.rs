//! Labels and tokens out of range are refused before a step starts, with their place, on every device.

use mantissa_core::data::Batch;
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::train::Session;
use mantissa_tests::data::normal;
use mantissa_tests::{devices, tiny};

#[test]
fn a_label_or_token_out_of_range_is_refused_and_leaves_the_run_as_it_was() {
    for backend in [devices::cpu()].into_iter().chain(devices::wgpu()) {
        let config = tiny::mlp(Recipe::new(RecipeName::F32));
        let x = normal(32 * 32, 1.0, 1);
        let good: Vec<u32> = (0..32).collect();
        let step = |s: &mut Session, targets: &[u32]| {
            s.step(Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(targets) })
        };
        let mut straight = Session::new(backend.clone(), config.clone()).expect("a run");
        let mut tried = Session::new(backend.clone(), config).expect("a run");
        let mut bad = good.clone();
        bad[7] = 32;
        let error = step(&mut tried, &bad).expect_err("refused").to_string();
        assert_eq!(error, "input `targets` at [7]: expected an index below 32, or -100 to leave it out, found 32");
        let eval = tried.eval(Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&bad) });
        assert!(eval.is_err_and(|e| e.to_string().contains("`targets` at [7]")));
        assert_eq!(tried.steps(), 0);
        let (a, b) = (step(&mut straight, &good).expect("runs"), step(&mut tried, &good).expect("runs"));
        assert_eq!(a.loss.to_bits(), b.loss.to_bits());

        let config = tiny::gpt(Recipe::new(RecipeName::F32), 2);
        let mut session = Session::new(backend, config).expect("a run");
        let mut tokens = vec![5u32; 8 * 32];
        let targets = tokens.clone();
        tokens[3 * 32 + 4] = u32::MAX;
        let batch = Batch { x: bytemuck::cast_slice(&tokens), targets: bytemuck::cast_slice(&targets) };
        let error = session.step(batch).expect_err("refused").to_string();
        assert!(error.starts_with("input `x` at [3, 4]: expected an index below "), "{error}");
        assert!(error.ends_with(", found -1"), "{error}");
    }
}
