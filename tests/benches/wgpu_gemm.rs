//! GFLOP/s of matmuls on the best wgpu adapter, and of the same matmul in f32 on the CPU backend in the same
//! run.
//!
//! Where processors compute, the time is what all threads of this process took of them, shared by the cores: what a
//! quiet machine would show, seen on a busy one.

use mantissa_core::backend::Backend;
use mantissa_core::dtype::DType;
use mantissa_core::op::matmul::MatMul;
use mantissa_core::shape::Ty;
use mantissa_tests::machine::Machine;
use mantissa_tests::{devices, operands};
use std::fs;
use std::thread::available_parallelism;
use std::time::Instant;

/// Rounds, of which the fastest counts; matmuls in each.
const ROUNDS: usize = 30;
const PRODUCTS: usize = 1;

const LAYOUTS: [(&str, bool, bool); 3] = [("NN", false, false), ("NT", false, true), ("TN", true, false)];

fn main() {
    let Some(gpu) = devices::wgpu_backend() else { return };
    let software = gpu.facts().software;
    let cpu = devices::cpu();
    println!("{}, against {}", gpu.capabilities().device, cpu.capabilities().device);
    for sizes in [[1024, 1024, 1024], [2048, 384, 128], [2048, 128, 512], [128, 384, 2048]] {
        for (name, trans_a, trans_b) in LAYOUTS {
            print!("{:>16} {name}", format!("{sizes:?}"));
            let of = |backend: &dyn Backend, dtype| product(backend, sizes, (trans_a, trans_b), dtype);
            let mut reference = of(&*cpu, DType::F32);
            for dtype in [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2] {
                let rate = gflops(&mut of(&*gpu, dtype), sizes, software);
                print!(" | {dtype} {rate:6.1}");
            }
            println!(" | cpu f32 {:6.1}", gflops(&mut reference, sizes, true));
        }
    }
}

/// `y = a b` stored as f32.
fn product(backend: &dyn Backend, [m, n, k]: [usize; 3], (trans_a, trans_b): (bool, bool), dtype: DType) -> Machine {
    let shape = |r, c, trans| if trans { [c, r] } else { [r, c] };
    let types = [Ty::new(dtype, shape(m, k, trans_a)), Ty::new(dtype, shape(k, n, trans_b))];
    operands::alone_on(backend, MatMul::new(trans_a, trans_b, DType::F32).op(), &types, types.len(), 1)
}

fn gflops(machine: &mut Machine, [m, n, k]: [usize; 3], processors: bool) -> f64 {
    // The result is read to wait for the device.
    let mut round = |products: usize| {
        let start = Clock::start(processors);
        (0..products).for_each(|_| machine.step(&[]).expect("the matmul runs"));
        let y = machine.bytes("y0").expect("the result is there");
        assert_eq!(y.len(), m * n * size_of::<f32>());
        start.seconds()
    };
    round(1);
    // What reading costs is taken off.
    let best = |seconds: Vec<f64>| seconds.into_iter().fold(f64::MAX, f64::min);
    let read = best((0..ROUNDS).map(|_| round(0)).collect());
    let all = best((0..ROUNDS).map(|_| round(PRODUCTS)).collect());
    2.0 * (m * n * k * PRODUCTS) as f64 / (all - read).max(f64::EPSILON) * 1e-9
}

/// Time by the clock, or that of the processors shared by the cores.
struct Clock {
    start: Instant,
    processors: Option<f64>,
}

impl Clock {
    fn start(processors: bool) -> Clock {
        Clock { start: Instant::now(), processors: processor_seconds().filter(|_| processors) }
    }

    fn seconds(&self) -> f64 {
        let cores = available_parallelism().map_or(1, usize::from) as f64;
        match (self.processors, processor_seconds()) {
            (Some(start), Some(end)) => (end - start) / cores,
            (None, _) | (_, None) => self.start.elapsed().as_secs_f64(),
        }
    }
}

/// Seconds that the threads of this process ran, where the system says so.
fn processor_seconds() -> Option<f64> {
    let nanoseconds = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    Some(tasks.flatten().filter_map(nanoseconds).sum::<u64>() as f64 * 1e-9)
}
