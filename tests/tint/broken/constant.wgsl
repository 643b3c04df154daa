// A constant that is infinite, which WGSL has no value for.
@group(0) @binding(0) var<storage, read_write> y: array<u32>;

const INFINITE: u32 = 0x7f800000u;

@compute @workgroup_size(64)
fn broken(@builtin(local_invocation_index) lane: u32) {
    y[lane] = u32(f32(lane) < bitcast<f32>(INFINITE));
}
