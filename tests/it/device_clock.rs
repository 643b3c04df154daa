//! Steps timed by the clock of a device: every instruction once a micro-step, one after the other, within the step, and
//! the step as it is without.

use mantissa_core::backend::Backend;
use mantissa_core::data::Batch;
use mantissa_core::model::ModelConfig;
use mantissa_core::model::gpt::GptConfig;
use mantissa_core::op::Op;
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::program::observe::Span;
use mantissa_core::train::{Session, TrainConfig};
use mantissa_tests::data::{text, windows};
use mantissa_tests::{device_checks, devices, tiny};
use std::sync::Arc;
use std::time::Instant;

/// Rounding of seconds.
const SLACK_SECS: f64 = 1e-9;

#[test]
fn timestamps_cover_every_instruction_and_change_nothing() {
    let Some(backend) = devices::wgpu() else { return };
    // In bf16 the weights are cast by one launch for all; two micro-steps run the first part twice.
    let config = TrainConfig {
        model: ModelConfig::Gpt(GptConfig { context: 32, ..GptConfig::tiny() }),
        batch: 2,
        grad_accum: 2,
        ..tiny::gpt(Recipe::new(RecipeName::Bf16), 10)
    };
    let (x, targets) = windows(&text(8000), 4, 32, &mut mantissa_core::rng::Rng::new(8, 0));
    let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) };
    let session = |backend: &Arc<dyn Backend>| Session::new(backend.clone(), config.clone()).unwrap();
    let (mut plain, mut timed) = (session(&backend), session(&backend));
    let device = &backend.capabilities().device;
    assert!(timed.has_clock() || !device.contains("llvmpipe"), "{device} has timestamps");
    if !timed.has_clock() {
        device_checks::skipped("clock of a device", device);
        assert!(timed.step_timed(batch).is_err());
        return;
    }
    for _ in 0..2 {
        let start = Instant::now();
        let (result, spans) = timed.step_timed(batch).unwrap();
        let wall_secs = start.elapsed().as_secs_f64();
        assert_eq!(result.report, plain.step(batch).unwrap());
        let program = timed.program();
        let runs = |s: &Span| (s.micro, s.instr);
        let mut seen: Vec<(usize, usize)> = spans.iter().map(runs).collect();
        seen.sort_unstable();
        let mut wanted: Vec<(usize, usize)> = (0..2).flat_map(|m| (0..program.micro_end).map(move |i| (m, i))).collect();
        wanted.extend((program.micro_end..program.instrs.len()).map(|i| (0, i)));
        wanted.sort_unstable();
        assert_eq!(seen, wanted);
        assert!(spans.windows(2).all(|w| w[0].start_secs + w[0].length_secs <= w[1].start_secs + SLACK_SECS));
        let last = spans.last().unwrap();
        let end_secs = last.start_secs + last.length_secs;
        assert!(end_secs <= wall_secs, "{end_secs} s by the device, {wall_secs} s by the host");
        for s in &spans {
            let instr = &program.instrs[s.instr];
            let view = matches!(instr.op, Op::Reshape(_));
            assert_eq!(s.length_secs > 0.0, !view, "{}", program.instr_text(instr));
        }
    }
    let cpu = session(&devices::cpu());
    assert!(!cpu.has_clock());
}
