//! Unscaling gradients and finding non-finite ones, over a list of tensors.
//!
//! An element is bad if it is non-finite before the product with `inv_scale` or after it, as it is stored. Testing the
//! product covers both: infinity and NaN times anything are infinity or NaN. PyTorch tests before only, so with a scale
//! below 1 a finite gradient may become infinite unseen (`[3e38] * 4` gives `[inf]` and `found_inf = 0`); here
//! that sets `found_inf`. The stored bits are the same. A flag is only ever set, never cleared.
//! Tests on non-finite values look at exponent bits. Arithmetic: one f32 product an element, one rounding on store.
//!
//! Source: PyTorch `AmpKernels.cu`, `_amp_foreach_non_finite_check_and_unscale_`;
//! docs/precision.md 2.3.

use super::bits::{self, ABS_MASK, INF_BITS};
use super::chunks::{BLOCK, Count, Splittable, blocks, for_each_chunk, for_each_chunk_of};
use crate::dtype::DType;
use crate::float::view::{View, ViewMut};
use crate::par::{self, simd};

/// One gradient tensor: where it is read and where the unscaled one goes.
#[derive(Debug)]
pub struct UnscaleRef<'a> {
    /// The scaled gradient (any float dtype), or `None` to unscale `out` in place.
    pub grad: Option<View<'a>>,
    /// The unscaled gradient (any float dtype, usually f32), as long as `grad`.
    pub out: ViewMut<'a>,
}

/// Multiplies every gradient by `inv_scale` and sets `found_inf` to 1 if any element is non-finite before or after.
/// `underflow`, where given, receives the number of non-zero elements that became zero.
pub fn unscale(grads: &mut [UnscaleRef<'_>], inv_scale: f32, found_inf: &mut f32, underflow: Option<&mut u32>) {
    let (bad, lost) = (Count::default(), Count::default());
    let task = Task { inv_scale, bad: &bad, lost: underflow.is_some().then_some(&lost) };
    par::chunks(grads, 1, |_, one| {
        let whole = UnscaleRef { grad: one[0].grad, out: one[0].out.reborrow() };
        for_each_chunk(whole, &|piece| task.piece(piece));
    });
    raise(found_inf, &bad);
    if let Some(underflow) = underflow {
        *underflow = lost.get();
    }
}

/// Sets `found_inf` to 1 if any element of any tensor is non-finite; changes nothing else.
pub fn check_finite(grads: &[View<'_>], found_inf: &mut f32) {
    let bad = Count::default();
    for_each_chunk_of(grads, &|x| {
        let mut scratch = [0.0; BLOCK];
        for range in blocks(x.len()) {
            let x = x.load(range, &mut scratch);
            let top = simd::vectorize(
                #[inline(always)]
                || x.iter().fold(0, |top: u32, x| top.max(x.to_bits() & ABS_MASK)),
            );
            bad.add(u32::from(top >= INF_BITS));
        }
    });
    raise(found_inf, &bad);
}

/// Sticky: a flag that holds anything but 0 stays as it is.
fn raise(found_inf: &mut f32, bad: &Count) {
    if bad.get() != 0 && !bits::is_set(*found_inf) {
        *found_inf = 1.0;
    }
}

impl Splittable for UnscaleRef<'_> {
    fn elements(&self) -> usize {
        debug_assert!(self.grad.is_none_or(|grad| grad.len() == self.out.len()));
        self.out.len()
    }
    fn split(self, at: usize) -> (Self, Self) {
        let (grad0, grad1) = self.grad.map(|grad| grad.split(at)).unzip();
        let (out0, out1) = self.out.split(at);
        (UnscaleRef { grad: grad0, out: out0 }, UnscaleRef { grad: grad1, out: out1 })
    }
}

/// What a piece needs beyond its operands.
struct Task<'a> {
    inv_scale: f32,
    bad: &'a Count,
    lost: Option<&'a Count>,
}

impl Task<'_> {
    fn piece(&self, UnscaleRef { grad, mut out }: UnscaleRef<'_>) {
        let dtype = out.dtype;
        let mut row = [0.0; BLOCK];
        for range in blocks(out.len()) {
            match out.as_f32() {
                Some(out) => {
                    let x = &mut out[range.clone()];
                    if let Some(grad) = grad {
                        grad.part(range).decode_into(x);
                    }
                    self.multiply(x, dtype);
                }
                None => {
                    let x = &mut row[..range.len()];
                    grad.unwrap_or(out.as_view()).part(range.clone()).decode_into(x);
                    self.multiply(x, dtype);
                    out.store(range.start, x);
                }
            }
        }
    }

    /// `x *= inv_scale` for values that will be stored as `dtype`.
    fn multiply(&self, x: &mut [f32], dtype: DType) {
        let inv_scale = self.inv_scale;
        if let Some(lost) = self.lost {
            let zero = bits::underflow_bits(dtype);
            let lose = |x: &f32| x.to_bits() & ABS_MASK != 0 && (x * inv_scale).to_bits() & ABS_MASK <= zero;
            lost.add(simd::vectorize(
                #[inline(always)]
                || x.iter().fold(0, |n, x| n + u32::from(lose(x))),
            ));
        }
        let top = simd::vectorize(
            #[inline(always)]
            || {
                let mut top = 0;
                for x in x {
                    *x *= inv_scale;
                    top = top.max(x.to_bits() & ABS_MASK);
                }
                top
            },
        );
        self.bad.add(u32::from(top >= bits::overflow_bits(dtype)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float;
    use crate::op::update::inv_scale;
    use crate::rng::Rng;

    fn encoded(dtype: DType, x: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; x.len() * dtype.size_bytes()];
        float::slices::encode(dtype, dtype.overflow(), x, &mut bytes);
        bytes
    }

    fn in_place(dtype: DType, tensors: &[&[f32]], inv: f32, mut found: f32) -> (Vec<Vec<f32>>, f32, u32) {
        let mut stored: Vec<Vec<u8>> = tensors.iter().map(|x| encoded(dtype, x)).collect();
        let mut lost = 0;
        let mut refs: Vec<_> = stored.iter_mut().map(|b| UnscaleRef { grad: None, out: ViewMut::new(dtype, b) }).collect();
        unscale(&mut refs, inv, &mut found, Some(&mut lost));
        let values = stored.iter().map(|b| {
            let mut x = vec![0.0; b.len() / dtype.size_bytes()];
            View::new(dtype, b).decode_into(&mut x);
            x
        });
        (values.collect(), found, lost)
    }

    fn same(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
    }

    #[test]
    fn golden_unscale_kernel() {
        // docs/precision.md 2.3; the last f32 row is our stated difference.
        const INF: f32 = f32::INFINITY;
        const NAN: f32 = f32::NAN;
        const TINY: f32 = 1.0 / 65536.0;
        type Tensors = &'static [&'static [f32]];
        let rows: [(DType, Tensors, f32, Tensors, f32, u32); 8] = [
            (DType::F32, &[&[2.0, 4.0], &[8.0]], 0.5, &[&[1.0, 2.0], &[4.0]], 0.0, 0),
            (DType::F32, &[&[INF, 4.0], &[8.0]], 0.5, &[&[INF, 2.0], &[4.0]], 1.0, 0),
            (DType::F32, &[&[NAN, -INF, 1.0]], 0.25, &[&[NAN, -INF, 0.25]], 1.0, 0),
            (DType::F32, &[&[1.0, INF]], 1.0, &[&[1.0, INF]], 1.0, 0),
            (DType::F32, &[&[3e38]], 4.0, &[&[INF]], 1.0, 0),
            (DType::Bf16, &[&[3.0, 1.0]], 0.1, &[&[0.30078125, 0.10009765625]], 0.0, 0),
            (DType::F16, &[&[6e-8, 1.0]], TINY, &[&[0.0, TINY]], 0.0, 1),
            (DType::F16, &[&[60000.0, 1.0]], 2.0, &[&[INF, 2.0]], 1.0, 0),
        ];
        for (i, (dtype, grads, inv, expect, flag, underflow)) in rows.into_iter().enumerate() {
            let (got, found, lost) = in_place(dtype, grads, inv, 0.0);
            assert!(got.iter().zip(expect).all(|(g, e)| same(g, e)), "row {i}: {got:?}");
            assert_eq!((found, lost), (flag, underflow), "row {i}");
        }
    }

    #[test]
    fn golden_reciprocal_and_the_scale_that_died() {
        // docs/precision.md 2.3: the product with the f32 reciprocal, not a division.
        let (got, _, _) = in_place(DType::F32, &[&[10.0]], inv_scale(3.0), 0.0);
        assert_eq!(got[0][0].to_bits(), 0x4055_5556);
        // docs/precision.md 2.5: at scale 0 PyTorch writes 0 * inf = NaN into the weights; the test after the product
        // sees it.
        let (got, found, _) = in_place(DType::F32, &[&[0.0, 0.0]], inv_scale(0.0), 0.0);
        assert!(got[0].iter().all(|x| x.is_nan()) && found == 1.0);
    }

    #[test]
    fn flag_is_sticky() {
        assert_eq!(in_place(DType::F32, &[&[1.0]], 0.5, 1.0).1, 1.0);
        assert_eq!(in_place(DType::F32, &[&[f32::NAN]], 0.5, 2.0).1, 2.0);
        assert!(in_place(DType::F32, &[&[f32::INFINITY]], 0.5, f32::NAN).1.is_nan());
        let mut found = 0.0;
        unscale(&mut [], 0.5, &mut found, None);
        assert_eq!(found, 0.0);
    }

    #[test]
    fn out_of_place_and_check_agree_for_every_dtype_and_size() {
        let mut rng = Rng::new(1, 0);
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for n in [1, 3, 7, 65, 257, 1025, 3 * super::super::chunks::CHUNK + 5] {
                let x: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
                for poison in [None, Some((n / 2, f32::NAN)), Some((n - 1, f32::NEG_INFINITY))] {
                    let mut x = x.clone();
                    if let Some((at, value)) = poison {
                        x[at] = value;
                    }
                    let bytes = encoded(dtype, &x);
                    let grad = View::new(dtype, &bytes);
                    let (mut out, mut found, mut checked) = (vec![7.0f32; n], 0.0, 0.0);
                    unscale(&mut [UnscaleRef { grad: Some(grad), out: ViewMut::of(&mut out) }], 0.3, &mut found, None);
                    check_finite(&[grad, View::of(&[1.0]), grad], &mut checked);
                    assert_eq!((found, checked), (f32::from(poison.is_some()), f32::from(poison.is_some())));
                    let mut expect = vec![0.0; n];
                    grad.decode_into(&mut expect);
                    expect.iter_mut().for_each(|v| *v *= 0.3);
                    assert!(same(&out, &expect), "{dtype} {n}");
                }
            }
        }
    }
}
