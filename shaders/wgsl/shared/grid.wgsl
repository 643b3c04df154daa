// Workgroups in a row, which a launch folds where a side of the grid cannot hold them: 65535 on most devices. The grid
// may have a few more than were asked for; kernels guard their bounds.

// Index of the workgroup.
fn group_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.x + groups.x * (group.y + groups.y * group.z);
}

// Place of workgroup `index` among boxes of `width` by `height`, one behind the other in z.
fn group_place(index: u32, width: u32, height: u32) -> vec3<u32> {
    let row = index / width;
    return vec3<u32>(index % width, row % height, row / height);
}
