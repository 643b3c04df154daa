//! What the kernel tests share: awkward sizes, random rows, stored values of any dtype, comparison.

use crate::dtype::DType;
use crate::float::view::{View, ViewMut};
use crate::rng::Rng;

/// Sizes around the lane count, with tails.
pub(crate) const SIZES: [usize; 6] = [1, 3, 7, 32, 65, 257];

/// Every dtype a kernel may store values in.
pub(crate) const FLOATS: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];

/// `n` standard normal values.
pub(crate) fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, 99);
    (0..n).map(|_| rng.normal()).collect()
}

/// Values as a tensor stores them.
pub(crate) struct Stored {
    dtype: DType,
    len: usize,
    words: Vec<u32>,
}

impl Stored {
    /// `x` rounded to `dtype`.
    pub(crate) fn of(dtype: DType, x: &[f32]) -> Stored {
        let mut stored = Stored::zeros(dtype, x.len());
        stored.view_mut().store(0, x);
        stored
    }

    /// `len` elements of leftover bits, so that a kernel that skips an element is seen.
    pub(crate) fn dirty(dtype: DType, len: usize) -> Stored {
        let mut stored = Stored::zeros(dtype, len);
        stored.words.fill(0x3B3B_3B3B);
        stored
    }

    fn zeros(dtype: DType, len: usize) -> Stored {
        Stored { dtype, len, words: vec![0; (len * dtype.size_bytes()).div_ceil(4)] }
    }

    pub(crate) fn view(&self) -> View<'_> {
        View::new(self.dtype, &bytemuck::cast_slice(&self.words)[..self.len * self.dtype.size_bytes()])
    }

    pub(crate) fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut::new(self.dtype, &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len * self.dtype.size_bytes()])
    }

    /// The stored values.
    pub(crate) fn values(&self) -> Vec<f32> {
        let mut x = vec![0.0; self.len];
        self.view().decode_into(&mut x);
        x
    }

    /// The stored values in f64.
    pub(crate) fn exact(&self) -> Vec<f64> {
        self.values().into_iter().map(f64::from).collect()
    }
}

/// Asserts that `got`, stored as `dtype`, is `want` up to one rounding and `tol` (absolute and relative).
#[track_caller]
pub(crate) fn assert_close(dtype: DType, got: &[f32], want: &[f64], tol: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let format = dtype.format().expect("a float dtype");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let bound = tol * want.abs().max(1.0) + dtype.unit_roundoff() * want.abs() * 1.01 + format.min_subnormal;
        let err = (f64::from(got) - want).abs();
        assert!(err <= bound, "{what} [{i}] as {dtype}: got {got}, want {want}, error {err:e} above {bound:e}");
    }
}

/// Central differences of `f` at `x`, in f64.
pub(crate) fn numeric_gradient(x: &[f64], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let (at, h) = (x[i], 1e-5);
            x[i] = at + h;
            let up = f(&x);
            x[i] = at - h;
            let down = f(&x);
            x[i] = at;
            (up - down) / (2.0 * h)
        })
        .collect()
}
