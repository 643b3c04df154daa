// One-dimensional work on a grid of workgroups that may be folded in two: a dimension holds 65535 groups at most.

// Index of the workgroup.
fn group_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.x + group.y * groups.x;
}
