//! A step timed by the device: each instruction with launches is a separate pass with a timestamp at either
//! end. All of them are resolved into one buffer and read once, after the step. Nothing waits between instructions.

use crate::bound::Bound;
use mantissa_core::backend::wait;
use mantissa_core::error::Result;
use mantissa_core::program::ValueId;
use mantissa_core::program::observe::Span;

/// Timestamps of a pass: begin and end.
const ENDS: usize = 2;
/// Passes that one query set serves.
const PASSES: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / ENDS;
const TICK_BYTES: usize = wgpu::QUERY_SIZE as usize;
const SECS_PER_NANO: f64 = 1e-9;

/// Runs a step and waits for it. Errs if an input does not fit, or the device fails.
pub(crate) fn run(bound: &Bound, inputs: &[(ValueId, &[u8])]) -> Result<Vec<Span>> {
    bound.load_inputs(inputs)?;
    let order: Vec<(usize, usize)> = bound.order().collect();
    let launched: Vec<(usize, usize)> = order.iter().copied().filter(|&(index, _)| bound.launches(index)).collect();
    let ticks = run_passes(bound, &launched)?;
    let nanos_per_tick = f64::from(bound.context.gpu.queue.get_timestamp_period());
    let secs = |ticks: u64| ticks as f64 * nanos_per_tick * SECS_PER_NANO;
    let origin = ticks.first().copied().unwrap_or(0);
    let mut passes = ticks.chunks_exact(ENDS);
    let mut now = origin;
    let mut spans = Vec::with_capacity(order.len());
    for (instr, micro) in order {
        // Views, and casts that another instruction does, take no time.
        let (begin, end) = bound.launches(instr).then(|| passes.next()).flatten().map_or((now, now), |t| (t[0], t[1]));
        let (start_secs, length_secs) = (secs(begin.saturating_sub(origin)), secs(end.saturating_sub(begin)));
        spans.push(Span { instr, micro, start_secs, length_secs });
        now = end;
    }
    share_out_casts(bound, &mut spans);
    spans.sort_by(|a, b| a.start_secs.total_cmp(&b.start_secs));
    Ok(spans)
}

/// Encodes a pass for each of `launched`, submits all at once, and returns the ticks at both ends of each.
fn run_passes(bound: &Bound, launched: &[(usize, usize)]) -> Result<Vec<u64>> {
    let gpu = &bound.context.gpu;
    let device = &gpu.device;
    let bytes = launched.len() * ENDS * TICK_BYTES;
    let resolved = gpu.create_buffer(&wgpu::BufferDescriptor {
        label: Some("timestamps"),
        size: bytes.max(TICK_BYTES) as u64,
        usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    })?;
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("timed step") });
    for (k, part) in launched.chunks(PASSES).enumerate() {
        let count = (part.len() * ENDS) as u32;
        let set = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        for (first, &(index, micro)) in (0..).step_by(ENDS).zip(part) {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &set,
                    beginning_of_pass_write_index: Some(first),
                    end_of_pass_write_index: Some(first + 1),
                }),
            });
            bound.encode(&mut pass, index..index + 1, micro);
        }
        encoder.resolve_query_set(&set, 0..count, &resolved, (k * PASSES * ENDS * TICK_BYTES) as u64);
    }
    gpu.queue.submit([encoder.finish()]);
    gpu.check()?;
    let read = wait(Box::new(bound.context.staging.download(&resolved, 0, bytes)))?;
    Ok(read.chunks_exact(TICK_BYTES).map(|t| u64::from_ne_bytes(std::array::from_fn(|i| t[i]))).collect())
}

/// Casts of parameters run as one launch, at the place of the first of their group. Its time is shared out by the bytes
/// that each writes, and they follow each other.
fn share_out_casts(bound: &Bound, spans: &mut [Span]) {
    let program = &bound.program;
    for group in &bound.plan.cast_groups {
        let bytes: Vec<f64> = group.iter().map(|&index| program.cost(&program.instrs[index]).written_bytes as f64).collect();
        let all: f64 = bytes.iter().sum();
        for micro in 0..program.grad_accum {
            let Some(first) = spans.iter().find(|s| s.instr == group[0] && s.micro == micro).copied() else { continue };
            let mut start = first.start_secs;
            for (&index, bytes) in group.iter().zip(&bytes) {
                let share = first.length_secs * bytes / all.max(f64::MIN_POSITIVE);
                if let Some(span) = spans.iter_mut().find(|s| s.instr == index && s.micro == micro) {
                    (span.start_secs, span.length_secs) = (start, share);
                }
                start += share;
            }
        }
    }
}
