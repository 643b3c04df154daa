//! Ways through memory with as few axes as they take.

/// Length and stride of axes, outermost first, that visit the same elements in the same order as these; never none.
///
/// Axes of length 1 go, adjacent axes that step evenly become one: `[B, T, C]` in order is `[[B T C, 1]]`, a scalar
/// `[[n, 0]]`, a row `[C]` under `[N, C]` is `[[N, 0], [C, 1]]`.
pub(super) fn collapse(shape: &[usize], strides: &[usize]) -> Vec<[usize; 2]> {
    let mut axes: Vec<[usize; 2]> = Vec::new();
    for (&len, &stride) in shape.iter().zip(strides).filter(|(len, _)| **len != 1) {
        match axes.last_mut() {
            Some(outer) if outer[1] == stride * len => *outer = [outer[0] * len, stride],
            Some(_) | None => axes.push([len, stride]),
        }
    }
    if axes.is_empty() {
        axes.push([1, 0]);
    }
    axes
}

#[cfg(test)]
mod tests {
    use super::collapse;

    #[test]
    fn the_usual_cases_are_short() {
        assert_eq!(collapse(&[2, 3, 4], &[12, 4, 1]), [[24, 1]]);
        assert_eq!(collapse(&[2, 3, 4], &[0, 0, 0]), [[24, 0]]);
        assert_eq!(collapse(&[2, 3, 4], &[0, 0, 1]), [[6, 0], [4, 1]]);
        assert_eq!(collapse(&[2, 3, 4], &[3, 1, 0]), [[6, 1], [4, 0]]);
        assert_eq!(collapse(&[5, 1, 4], &[1, 9, 5]), [[5, 1], [4, 5]]);
        assert_eq!(collapse(&[1, 1], &[1, 1]), [[1, 0]]);
        assert_eq!(collapse(&[], &[]), [[1, 0]]);
    }
}
