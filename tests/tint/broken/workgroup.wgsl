// More invocations than every device takes: the text is right, the pipeline is not.
@group(0) @binding(0) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(512)
fn broken(@builtin(local_invocation_index) lane: u32) {
    y[lane] = lane;
}
