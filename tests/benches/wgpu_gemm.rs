//! GFLOP/s of matrix products on the best wgpu adapter, and of the same product in f32 on the CPU backend in the same run.

use mantissa_core::backend::Backend;
use mantissa_core::dtype::DType;
use mantissa_core::op::matmul::MatMul;
use mantissa_core::shape::Ty;
use mantissa_tests::machine::Machine;
use mantissa_tests::{devices, operands};
use std::time::Instant;

/// Rounds, of which the fastest counts; products in each.
const ROUNDS: usize = 7;
const PRODUCTS: usize = 3;

const LAYOUTS: [(&str, bool, bool); 3] = [("NN", false, false), ("NT", false, true), ("TN", true, false)];

fn main() {
    let Some(gpu) = devices::wgpu() else { return };
    let cpu = devices::cpu();
    println!("{}, against {}", gpu.capabilities().device, cpu.capabilities().device);
    for sizes in [[1024, 1024, 1024], [2048, 384, 128], [2048, 128, 512], [128, 384, 2048]] {
        for (name, trans_a, trans_b) in LAYOUTS {
            print!("{:>16} {name}", format!("{sizes:?}"));
            let of = |backend: &dyn Backend, dtype| product(backend, sizes, (trans_a, trans_b), dtype);
            let mut reference = of(&*cpu, DType::F32);
            for dtype in [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2] {
                let rate = gflops(&mut of(&*gpu, dtype), sizes);
                print!(" | {dtype} {rate:6.1}");
            }
            println!(" | cpu f32 {:6.1}", gflops(&mut reference, sizes));
        }
    }
}

/// `y = a b` stored as f32.
fn product(backend: &dyn Backend, [m, n, k]: [usize; 3], (trans_a, trans_b): (bool, bool), dtype: DType) -> Machine {
    let shape = |r, c, trans| if trans { [c, r] } else { [r, c] };
    let types = [Ty::new(dtype, shape(m, k, trans_a)), Ty::new(dtype, shape(k, n, trans_b))];
    operands::alone_on(backend, MatMul::new(trans_a, trans_b, DType::F32).op(), &types, types.len(), 1)
}

fn gflops(machine: &mut Machine, [m, n, k]: [usize; 3]) -> f64 {
    // The result is read to wait for the device.
    let mut round = |products: usize| {
        let start = Instant::now();
        (0..products).for_each(|_| machine.step(&[]).expect("the product runs"));
        let y = machine.bytes("y0").expect("the result is there");
        assert_eq!(y.len(), m * n * size_of::<f32>());
        start.elapsed().as_secs_f64()
    };
    round(1);
    // What reading costs is taken off.
    let best = |seconds: Vec<f64>| seconds.into_iter().fold(f64::MAX, f64::min);
    let read = best((0..ROUNDS).map(|_| round(0)).collect());
    let all = best((0..ROUNDS).map(|_| round(PRODUCTS)).collect());
    2.0 * (m * n * k * PRODUCTS) as f64 / (all - read).max(f64::EPSILON) * 1e-9
}
