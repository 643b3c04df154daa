//! Grids of workgroups. A launch asks for a number of groups; a device takes them folded into sides that it can hold.
//! Every kernel finds its index with `wgsl/shared/grid.wgsl` and guards its bounds, so a launch knows nothing of sides.

/// Sides of a grid that holds `n` groups, few of them for nothing, none longer than `most`. `None` if there is no such
/// grid, or the index of a group would not fit `u32`.
pub(crate) fn folded(n: usize, most: u32) -> Option<[u32; 3]> {
    let most = most.max(1) as usize;
    let rows = n.div_ceil(most).max(1);
    let layers = rows.div_ceil(most);
    let rows = rows.div_ceil(layers);
    let columns = n.div_ceil(rows * layers);
    let fits = layers <= most && u32::try_from(columns * rows * layers).is_ok();
    fits.then(|| [columns, rows, layers].map(|side| side as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_hold_every_group_and_little_more() {
        for (n, most) in [(0, 65535), (1, 65535), (65535, 65535), (65536, 65535), (1_000_000, 65535), (1 << 31, 65535)] {
            let [x, y, z] = folded(n, most).expect("it fits").map(|d| d as usize);
            assert!(x * y * z >= n && x * y * z < n + y * z, "{n}: {x} x {y} x {z}");
            assert!(x.max(y).max(z) <= 65535, "{n}");
        }
    }

    #[test]
    fn three_sides_are_used_where_two_do_not_suffice() {
        for n in [9, 10, 26, 27] {
            let sides = folded(n, 3).expect("it fits");
            assert!(sides.iter().all(|&d| d <= 3) && sides.iter().product::<u32>() >= n as u32, "{n}: {sides:?}");
        }
        assert_eq!(folded(28, 3), None);
        assert_eq!(folded(usize::MAX / 2, u32::MAX), None, "no index fits");
    }
}
