// A scalar into its telemetry slot. CPU twin: Op::Record in core/src/cpu/dispatch/update.rs.
//
// Formula: y[slot] = x[0], or y[slot] + x[0] where ADD.
//% const ADD: bool = false

struct Params {
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(1)
fn record() {
    if (ADD) {
        y[params.slot] = bitcast<u32>(bitcast<f32>(y[params.slot]) + bitcast<f32>(x[0]));
    } else {
        y[params.slot] = x[0];
    }
}
