//! The test oracle: every format as a table of its values in f64, built from [`DType::format`] with plain arithmetic.
//!
//! Shares nothing with the codecs. Rounding is a search among the exact midpoints of neighbouring values.

use crate::dtype::{DType, Overflow};

/// Values and rounding rule of one signed format.
pub(super) struct Oracle {
    /// `values[code]` for the non-negative finite codes, and after them the value that would come next.
    values: Vec<f64>,
    sign_at: u32,
    has_inf: bool,
    keeps_payload: bool,
    mantissa_bits: u32,
}

impl Oracle {
    pub(super) fn new(dtype: DType) -> Oracle {
        let f = dtype.format().expect("a floating dtype");
        let steps = 2f64.powi(f.mantissa_bits as i32);
        let mut values = Vec::new();
        let mut code = 0u32;
        loop {
            let exponent = code >> f.mantissa_bits;
            let fraction = f64::from(code & ((1 << f.mantissa_bits) - 1)) / steps;
            let value = match exponent {
                0 => fraction * f.min_normal,
                e => (1.0 + fraction) * f.min_normal * 2f64.powi(e as i32 - 1),
            };
            values.push(value);
            if value > f.max {
                break;
            }
            code += 1;
        }
        Oracle {
            values,
            sign_at: f.exponent_bits + f.mantissa_bits,
            has_inf: f.has_inf,
            keeps_payload: f.mantissa_bits > 3,
            mantissa_bits: f.mantissa_bits,
        }
    }

    /// Codes from 0 to the largest finite one.
    pub(super) fn finite_codes(&self) -> std::ops::Range<u32> {
        0..self.over()
    }

    /// The value of a non-negative finite code, or of the place after the last.
    pub(super) fn value(&self, code: u32) -> f64 {
        self.values[code as usize]
    }

    /// The midpoint between `code` and the next one.
    pub(super) fn midpoint(&self, code: u32) -> f64 {
        0.5 * (self.value(code) + self.value(code + 1))
    }

    /// The sign bit of the code.
    pub(super) fn sign(&self) -> u32 {
        1 << self.sign_at
    }

    /// Infinity, or NaN where there is none.
    pub(super) fn over(&self) -> u32 {
        self.values.len() as u32 - 1
    }

    /// The canonical NaN.
    pub(super) fn nan(&self) -> u32 {
        if self.has_inf { self.over() | 1 << (self.mantissa_bits - 1) } else { self.over() }
    }

    pub(super) fn encode(&self, overflow: Overflow, x: f32) -> u32 {
        let sign = if x.is_sign_negative() { self.sign() } else { 0 };
        if x.is_nan() {
            let payload = (x.to_bits() >> (23 - self.mantissa_bits)) & ((1 << self.mantissa_bits) - 1);
            return sign | self.nan() | if self.keeps_payload { payload } else { 0 };
        }
        sign | self.cap(overflow, self.nearest(f64::from(x.abs()), 0))
    }

    /// Codes of consecutive f32 bit patterns of one sign, in rising order of magnitude, none of them NaN.
    pub(super) fn encode_run(&self, overflow: Overflow, first: f32, out: &mut [u32]) {
        let sign = if first.is_sign_negative() { self.sign() } else { 0 };
        let bits = first.abs().to_bits();
        let mut code = self.nearest(f64::from(first.abs()), 0);
        for (i, out) in out.iter_mut().enumerate() {
            code = self.nearest(f64::from(f32::from_bits(bits + i as u32)), code);
            *out = sign | self.cap(overflow, code);
        }
    }

    fn cap(&self, overflow: Overflow, code: u32) -> u32 {
        match overflow {
            Overflow::Saturate => code.min(self.over() - 1),
            Overflow::Ieee => code,
        }
    }

    /// The code nearest to `a`, known to be `from` or more; the even one of two; [`Oracle::over`] beyond the last.
    fn nearest(&self, a: f64, from: u32) -> u32 {
        let below = |code: u32| {
            let midpoint = self.midpoint(code);
            if a == midpoint { code.is_multiple_of(2) } else { a < midpoint }
        };
        // In a run the answer is `from` or the next; otherwise bisect.
        let near = from..(from + 2).min(self.over());
        near.clone().find(|&code| below(code)).unwrap_or_else(|| self.bisect(near.end, below))
    }

    fn bisect(&self, from: u32, below: impl Fn(u32) -> bool) -> u32 {
        let (mut lo, mut hi) = (from, self.over());
        while lo < hi {
            let mid = lo + (hi - lo) / 2;
            if below(mid) {
                hi = mid;
            } else {
                lo = mid + 1;
            }
        }
        lo
    }
}
