//! Global norm of a list of gradients: a norm per tensor, then the norm of these norms, as PyTorch combines them.
//!
//! Accumulation is f32 in 32 lanes over blocks of 1024 elements, lanes over the blocks of a piece, then halving; piece
//! norms and tensor norms are combined by the same function. Sums therefore have at most about 60 additions in a row
//! and depend on lengths only. Within an f32 the norm neither overflows nor loses small elements: a piece whose plain
//! sum of squares leaves the safe range is summed again with a power-of-two factor (2^-80 or 2^90), which is exact. The
//! result is infinite only if an element is: (2e38, 2e38) gives 2.83e38 where PyTorch gives inf, and (1e-30, 1e-30)
//! gives 1.41e-30 where it gives 0. NaN anywhere gives NaN for every kind of norm.
//!
//! Finite gradients may have a norm that exceeds f32, up to 2^148. The norm given is then the largest f32, which is
//! finite as they are; the norm times 2^-64, given beside it, is right and is what clipping divides by.
//!
//! Sources: PyTorch `clip_grad.py`; scaling after Blue, "A portable Fortran program to find the Euclidean norm", 1978.

use super::bits::ABS_MASK;
use super::chunks::{BLOCK, CHUNK, blocks};
use crate::float::view::View;
use crate::op::update::NormType;
use crate::par::{self, simd};

/// Scratch of [`grad_norm`] for tensors of these lengths, in f32.
pub fn grad_norm_work_len(lengths: impl IntoIterator<Item = usize>) -> usize {
    lengths.into_iter().map(pieces_of).sum()
}

/// Factor on a norm that may exceed f32.
pub const FAR: f32 = 1.0 / (1u128 << 64) as f32;

/// Norm over all elements of all `grads` (any float dtype), at most the largest f32 if all are finite; and the norm
/// times [`FAR`]. 0 for no elements. `norms: [grads.len()]` receives the norm of each, if the whole is within f32.
pub fn grad_norm(grads: &[View<'_>], kind: NormType, norms: &mut [f32], work: &mut [f32]) -> [f32; 2] {
    debug_assert_eq!(grads.len(), norms.len());
    let work = &mut work[..grad_norm_work_len(grads.iter().map(View::len))];
    let near = total(grads, kind, norms, work, |x| x);
    if near != f32::INFINITY {
        return [near, near * FAR];
    }
    // Either an element is infinite or the norm exceeds f32.
    let far = total(grads, kind, norms, work, |x| x * FAR);
    [if far == f32::INFINITY { far } else { f32::MAX }, far]
}

/// A change of elements before they enter a norm.
trait Change: Fn(f32) -> f32 + Copy + Sync + Send {}
impl<F: Fn(f32) -> f32 + Copy + Sync + Send> Change for F {}

fn total(grads: &[View<'_>], kind: NormType, norms: &mut [f32], work: &mut [f32], change: impl Change) -> f32 {
    tensor_norms(grads, kind, norms, work, change);
    norm(View::of(norms), kind, |x| x)
}

fn pieces_of(len: usize) -> usize {
    len.div_ceil(CHUNK)
}

/// Halves the list and the scratch in step, so that small tensors run in parallel with each other.
fn tensor_norms(grads: &[View<'_>], kind: NormType, norms: &mut [f32], work: &mut [f32], change: impl Change) {
    match grads {
        [] => {}
        [grad] => {
            par::chunks(work, 1, |i, piece| {
                piece[0] = norm(grad.part(i * CHUNK..grad.len().min((i + 1) * CHUNK)), kind, change);
            });
            norms[0] = norm(View::of(work), kind, |x| x);
        }
        _ => {
            let (left, right) = grads.split_at(grads.len() / 2);
            let (norms0, norms1) = norms.split_at_mut(left.len());
            let (work0, work1) = work.split_at_mut(left.iter().map(|g| pieces_of(g.len())).sum());
            par::chunks(&mut [(left, norms0, work0), (right, norms1, work1)], 1, |_, half| {
                let (grads, norms, work) = &mut half[0];
                tensor_norms(grads, kind, norms, work, change);
            });
        }
    }
}

/// Norm of one piece, on this thread.
fn norm(x: View<'_>, kind: NormType, change: impl Change) -> f32 {
    match kind {
        NormType::L1 => sum(x, |v| change(v).abs()),
        NormType::Inf => change(largest(x)),
        NormType::L2 => {
            let plain = sum(x, |v| {
                let v = change(v);
                v * v
            });
            // Squares below 2^-126 may be lost, each by less than 2^-126; harmless while the mean square is above
            // 2^-100.
            let safe = x.len() as f32 * SMALLEST_MEAN_SQUARE;
            if plain.is_nan() || (plain >= safe && plain < f32::INFINITY) {
                return plain.sqrt();
            }
            let top = change(largest(x));
            if top == 0.0 || top == f32::INFINITY {
                return top;
            }
            let factor = if plain < safe { ENLARGE } else { REDUCE };
            let scaled = sum(x, |v| {
                let v = change(v) * factor;
                v * v
            });
            scaled.sqrt() / factor
        }
    }
}

const SMALLEST_MEAN_SQUARE: f32 = 1.0 / (1u128 << 100) as f32;
/// Brings elements of an overflowing sum (at least one above 2^57) to where 2^14 squares cannot overflow.
const REDUCE: f32 = 1.0 / (1u128 << 80) as f32;
/// Brings elements of a vanishing sum (all below 2^-43) to where the square of the smallest subnormal is a normal
/// number.
const ENLARGE: f32 = (1u128 << 90) as f32;

const LANES: usize = 32;

/// Sum of `term(x)` in the order that the module text gives.
#[inline(always)]
fn sum(x: View<'_>, term: impl Fn(f32) -> f32 + Copy) -> f32 {
    let mut scratch = [0.0; BLOCK];
    let mut total = [0.0f32; LANES];
    for range in blocks(x.len()) {
        let x = x.load(range, &mut scratch);
        simd::vectorize(
            #[inline(always)]
            || {
                let mut lanes = [0.0f32; LANES];
                let whole = x.chunks_exact(LANES);
                let rest = whole.remainder();
                for x in whole {
                    for l in 0..LANES {
                        lanes[l] += term(x[l]);
                    }
                }
                for (lane, &x) in lanes.iter_mut().zip(rest) {
                    *lane += term(x);
                }
                for l in 0..LANES {
                    total[l] += lanes[l];
                }
            },
        );
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            total[l] += total[l + width];
        }
        width /= 2;
    }
    total[0]
}

/// Largest magnitude; NaN if there is one, since NaN has larger bits than infinity.
fn largest(x: View<'_>) -> f32 {
    let mut scratch = [0.0; BLOCK];
    let mut top = 0;
    for range in blocks(x.len()) {
        let x = x.load(range, &mut scratch);
        top = simd::vectorize(
            #[inline(always)]
            || x.iter().fold(top, |top, v| top.max(v.to_bits() & ABS_MASK)),
        );
    }
    f32::from_bits(top)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::float;
    use crate::rng::Rng;

    const KINDS: [NormType; 3] = [NormType::L1, NormType::L2, NormType::Inf];

    fn both(grads: &[&[f32]], kind: NormType) -> [f32; 2] {
        let views: Vec<_> = grads.iter().map(|g| View::of(g)).collect();
        let mut work = vec![0.0; grad_norm_work_len(views.iter().map(View::len))];
        grad_norm(&views, kind, &mut vec![0.0; views.len()], &mut work)
    }

    fn total(grads: &[&[f32]], kind: NormType) -> f32 {
        both(grads, kind)[0]
    }

    #[test]
    fn golden_norms() {
        // docs/precision.md 3.1.
        assert_eq!(total(&[&[3.0, 4.0]], NormType::L2).to_bits(), 0x40A0_0000);
        assert_eq!(total(&[&[3.0, 4.0], &[12.0]], NormType::L2).to_bits(), 0x4150_0000);
        assert_eq!(total(&[&[3.0, -4.0]], NormType::Inf), 4.0);
        assert_eq!(total(&[&[3.0, -4.0]], NormType::L1), 7.0);
        for kind in KINDS {
            assert_eq!(total(&[], kind), 0.0);
            assert_eq!(total(&[&[], &[0.0, -0.0], &[]], kind), 0.0);
            assert_eq!(total(&[&[1.0], &[f32::NEG_INFINITY, 2.0]], kind), f32::INFINITY);
            assert!(total(&[&[1.0], &[f32::INFINITY, f32::NAN]], kind).is_nan());
        }
    }

    #[test]
    fn extreme_magnitudes_neither_overflow_nor_vanish() {
        let near = |got: f32, expect: f64| assert!((f64::from(got) / expect - 1.0).abs() <= 2e-7, "{got:e} {expect:e}");
        near(total(&[&[2e38, 2e38]], NormType::L2), 2e38 * 2f64.sqrt());
        near(total(&[&[2e38], &[2e38, 1.0]], NormType::L2), 2e38 * 2f64.sqrt());
        near(total(&[&[1e-30, 1e-30]], NormType::L2), 1e-30 * 2f64.sqrt());
        let smallest = f64::from(f32::from_bits(1));
        assert_eq!(f64::from(total(&[&[f32::from_bits(3), f32::from_bits(4)]], NormType::L2)), 5.0 * smallest);
        near(total(&[&vec![1e17; 40_000]], NormType::L2), 1e17 * 200.0);
        near(total(&[&vec![3e-20; 40_000]], NormType::L2), 3e-20 * 200.0);
    }

    #[test]
    fn norms_of_finite_gradients_are_finite_and_known_beyond_f32() {
        let far = 2f64.powi(-64);
        let largest = vec![f32::MAX; 40_000];
        let lists: [(&[&[f32]], f64, f64); 4] = [
            (&[&[3e38, 3e38]], 3e38 * 2f64.sqrt(), 6e38),
            (&[&[3e38], &[-3e38, 1.0], &[]], 3e38 * 2f64.sqrt(), 6e38),
            (&[&largest], 200.0 * f64::from(f32::MAX), 40_000.0 * f64::from(f32::MAX)),
            (&[&[3.0], &[4.0]], 5.0, 7.0),
        ];
        for (grads, l2, l1) in lists {
            for (kind, exact) in [(NormType::L2, l2), (NormType::L1, l1)] {
                let [norm, reduced] = both(grads, kind);
                let saturated = exact.min(f64::from(f32::MAX));
                assert!((f64::from(norm) / saturated - 1.0).abs() <= 2e-7, "{kind:?}: {norm:e} for {exact:e}");
                assert!((f64::from(reduced) / (exact * far) - 1.0).abs() <= 2e-6, "{kind:?}: {reduced:e} for {exact:e}");
            }
        }
        for kind in KINDS {
            assert_eq!(both(&[&[3e38, f32::NEG_INFINITY]], kind), [f32::INFINITY; 2]);
            assert!(both(&[&[3e38, 3e38, f32::NAN]], kind).iter().all(|n| n.is_nan()));
        }
    }

    #[test]
    fn equals_f64_for_every_dtype_and_many_sizes() {
        let mut rng = Rng::new(4, 0);
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let sizes = [1, 3, 7, 65, 257, 1025, CHUNK + 1, 5 * CHUNK + 77];
            let stored: Vec<Vec<u8>> = sizes
                .iter()
                .map(|&n| {
                    let x: Vec<f32> = (0..n).map(|_| rng.normal() * 0.01).collect();
                    let mut bytes = vec![0; n * dtype.size_bytes()];
                    float::slices::encode(dtype, dtype.overflow(), &x, &mut bytes);
                    bytes
                })
                .collect();
            let grads: Vec<_> = stored.iter().map(|b| View::new(dtype, b)).collect();
            let mut work = vec![0.0; grad_norm_work_len(sizes)];
            for kind in KINDS {
                let mut norms = vec![0.0; grads.len()];
                let [got, _] = grad_norm(&grads, kind, &mut norms, &mut work);
                let combine = |x: &[f64]| match kind {
                    NormType::L1 => x.iter().map(|v| v.abs()).sum::<f64>(),
                    NormType::L2 => x.iter().map(|v| v * v).sum::<f64>().sqrt(),
                    NormType::Inf => x.iter().fold(0.0, |m: f64, v| m.max(v.abs())),
                };
                let each: Vec<f64> = grads
                    .iter()
                    .map(|g| {
                        let mut x = vec![0.0; g.len()];
                        g.decode_into(&mut x);
                        combine(&x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>())
                    })
                    .collect();
                for (got, expect) in norms.iter().chain([&got]).zip(each.iter().chain([&combine(&each)])) {
                    // Four ulps of f32: sums of up to 82 thousand terms.
                    assert!(
                        (f64::from(*got) - expect).abs() <= 4.0 * 2f64.powi(-24) * expect,
                        "{dtype} {kind:?} {got} {expect}"
                    );
                }
            }
        }
    }
}
