// Invocations leave the loop at different turns, and a barrier follows.
@group(0) @binding(0) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn broken(@builtin(local_invocation_index) lane: u32) {
    var turn = 0u;
    loop {
        if turn > lane {
            break;
        }
        turn += 1u;
        workgroupBarrier();
    }
    y[lane] = turn;
}
