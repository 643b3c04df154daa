//! A step allocates nothing after the first, whether it measures tensors or not, and the memory plan is what the
//! backend allocates. A binary of its own: it counts every allocation of the process, so nothing else may run beside
//! it.

use mantissa_core::backend::Backend;
use mantissa_core::cpu::CpuBackend;
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::program::memory::Layout;
use mantissa_core::program::{Kind, Rate, ValueId};
use mantissa_core::train::{TrainConfig, measured, record};
use mantissa_tests::tiny;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_step_allocates_nothing_and_the_plan_is_what_is_allocated() {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
    threads.install(|| {
        for name in RecipeName::ALL {
            check(name);
        }
    });
}

fn check(name: RecipeName) {
    let config = TrainConfig { grad_accum: 2, ..tiny::gpt(Recipe::new(name), 10) };
    let backend = CpuBackend::new();
    let program = Arc::new(record::train_step(&config).expect("records"));
    let tensors = measured::select(&program, &[]).expect("selects");
    let variant = Arc::new(measured::measured(&program, &tensors).expect("measures"));
    let layout = Arc::new(Layout::new(&variant));

    let region = Region::new(ALLOCATOR);
    let memory = backend.alloc(layout.clone()).expect("memory");
    let persistent: usize = layout.buffers.iter().map(|b| b.size).sum();
    let got = region.change().bytes_allocated;
    let list = 128 * (layout.buffers.len() + 4);
    assert!(got >= persistent && got <= persistent + list, "{name}: planned {persistent} persistent bytes, allocated {got}");

    let region = Region::new(ALLOCATOR);
    let mut step = backend.compile(program.clone(), &memory).expect("compiles");
    let change = region.change();
    let own: usize = step.plan().buffers.iter().map(|b| b.size).sum();
    assert_eq!(step.plan().total_bytes(), persistent + own);
    // What is left is the table of operands, a few small lists for each instruction.
    let table = (change.bytes_allocated - change.bytes_deallocated).saturating_sub(own + step.scratch_bytes());
    let allowed = 4096 * program.instrs.len();
    assert!(
        table > 0 && table <= allowed,
        "{name}: planned {own}, scratch {}, table {table} of {allowed}",
        step.scratch_bytes()
    );
    // The variant that measures tensors takes the temporaries of the step.
    let region = Region::new(ALLOCATOR);
    let mut measuring = step.compile_variant(variant.clone()).expect("compiles").expect("the CPU shares them");
    let change = region.change();
    let kept = change.bytes_allocated - change.bytes_deallocated;
    assert!(kept <= 4096 * variant.instrs.len(), "{name}: the variant took {kept} bytes, its step {own}");
    assert_eq!((measuring.scratch_bytes(), measuring.plan().total_bytes()), (step.scratch_bytes(), step.plan().total_bytes()));
    let inputs: Vec<(ValueId, Vec<u8>)> = program
        .values_where(|v| matches!(v.kind, Kind::Input(_)))
        .map(|(id, v)| {
            let copies = if v.kind == Kind::Input(Rate::MicroStep) { program.grad_accum } else { 1 };
            (id, vec![0; v.ty.size_bytes() * copies])
        })
        .collect();
    let inputs: Vec<(ValueId, &[u8])> = inputs.iter().map(|(id, b)| (*id, &b[..])).collect();
    for _ in 0..2 {
        step.submit(&inputs).expect("runs");
        measuring.submit(&inputs).expect("runs");
    }

    let steps = 10;
    let region = Region::new(ALLOCATOR);
    for _ in 0..steps {
        step.submit(&inputs).expect("runs");
        measuring.submit(&inputs).expect("runs");
    }
    let change = region.change();
    println!("{name}: {} allocations, {} bytes in {steps} steps", change.allocations, change.bytes_allocated);
    assert_eq!((change.allocations, change.reallocations), (0, 0), "{name}: {change:?}");
}
