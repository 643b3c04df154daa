//! One way of writing f32 values in a format: dtype, rounding, overflow, and for random rounding a seed.
//!
//! Random words are a pure function of (seed, tensor name, element index), so neither the order of tensors nor the size
//! of the pieces a file is read in changes a result.

use crate::cli::cast::{CastMode, ScaleRule};
use mantissa_core::float::{self, e8m0, slices};
use mantissa_core::rng::{self, threefry2x32};
use mantissa_core::{DType, Error, Overflow, Result};

/// Seed of random rounding when none is given.
const DEFAULT_SEED: u64 = 1337;

#[derive(Clone, Copy, Debug)]
enum Rounding {
    Nearest,
    Stochastic { seed: u64 },
    Scale(ScaleRule),
}

/// How values are written.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    dtype: DType,
    overflow: Overflow,
    rounding: Rounding,
}

impl Encoder {
    /// Checks that the options belong together.
    pub fn new(dtype: DType, mode: Option<CastMode>, seed: Option<u64>, rule: Option<ScaleRule>) -> Result<Encoder> {
        check(mode, seed, rule)?;
        if rule.is_some() && dtype != DType::E8m0 {
            return Err(Error::config("--scale-rule", "--to e8m0", dtype.name()));
        }
        let overflow = match (mode, rule) {
            (Some(CastMode::Saturate), _) => Overflow::Saturate,
            (Some(CastMode::Ieee), _) => Overflow::Ieee,
            // Each rule comes with its own answer to infinity: OCP gives NaN, Transformer Engine the largest scale.
            (Some(CastMode::Stochastic) | None, Some(ScaleRule::Floor)) => Overflow::Ieee,
            (Some(CastMode::Stochastic) | None, Some(ScaleRule::Ceil)) => Overflow::Saturate,
            (Some(CastMode::Stochastic) | None, None) => dtype.overflow(),
        };
        let rounding = match (mode, rule) {
            (_, Some(rule)) => Rounding::Scale(rule),
            (Some(CastMode::Stochastic), None) => Rounding::Stochastic { seed: seed.unwrap_or(DEFAULT_SEED) },
            (Some(CastMode::Saturate | CastMode::Ieee) | None, None) => Rounding::Nearest,
        };
        Ok(Encoder { dtype, overflow, rounding })
    }

    /// Format written.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The key of a tensor's random words.
    pub fn key(&self, tensor: &str) -> [u32; 2] {
        let seed = match self.rounding {
            Rounding::Stochastic { seed } => seed,
            Rounding::Nearest | Rounding::Scale(_) => 0,
        };
        let hash = tensor.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
        threefry2x32([seed as u32, (seed >> 32) as u32], [hash as u32, (hash >> 32) as u32])
    }

    /// Code of element `index`.
    pub fn code(&self, key: [u32; 2], index: u64, x: f32) -> u32 {
        match self.rounding {
            Rounding::Nearest => float::encode(self.dtype, self.overflow, x),
            Rounding::Stochastic { .. } => {
                let random = rng::bits(key[0], key[1], (index >> 32) as u32, index as u32);
                float::encode_stochastic(self.dtype, self.overflow, x, random)
            }
            Rounding::Scale(rule) => u32::from(scale_code(rule, self.overflow, x)),
        }
    }

    /// Writes elements `first..` of a tensor as they lie in memory: native byte order, tf32 as f32. `out` is aligned
    /// for the dtype.
    pub fn encode(&self, key: [u32; 2], first: u64, x: &[f32], out: &mut [u8]) {
        // Tf32 lies in memory as f32, and the slice codec copies it: rounding is done here, one value at a time.
        match (self.dtype, self.rounding) {
            (DType::F32 | DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 | DType::E8m0, Rounding::Nearest) => {
                slices::encode_par(self.dtype, self.overflow, x, out);
            }
            (DType::F32 | DType::Tf32 | DType::U32 | DType::I32, _) => {
                let values: &mut [f32] = bytemuck::cast_slice_mut(out);
                for (i, (&x, v)) in x.iter().zip(values).enumerate() {
                    *v = float::decode(self.dtype, self.code(key, first + i as u64, x));
                }
            }
            (DType::F16 | DType::Bf16, _) => {
                let codes: &mut [u16] = bytemuck::cast_slice_mut(out);
                for (i, (&x, c)) in x.iter().zip(codes).enumerate() {
                    *c = self.code(key, first + i as u64, x) as u16;
                }
            }
            (DType::E4m3 | DType::E5m2 | DType::E8m0, _) => {
                for (i, (&x, c)) in x.iter().zip(out).enumerate() {
                    *c = self.code(key, first + i as u64, x) as u8;
                }
            }
        }
    }
}

/// Options that contradict each other whatever the format.
pub fn check(mode: Option<CastMode>, seed: Option<u64>, rule: Option<ScaleRule>) -> Result<()> {
    let found = |mode: Option<CastMode>| match mode {
        None => "no --mode",
        Some(CastMode::Saturate) => "--mode saturate",
        Some(CastMode::Ieee) => "--mode ieee",
        Some(CastMode::Stochastic) => "--mode stochastic",
    };
    if seed.is_some() && mode != Some(CastMode::Stochastic) {
        return Err(Error::config("--seed", "--mode stochastic", found(mode)));
    }
    if rule.is_some() && mode == Some(CastMode::Stochastic) {
        return Err(Error::config("--scale-rule", "--mode saturate or ieee, or none", found(mode)));
    }
    Ok(())
}

/// An e8m0 code under a rule; what lies beyond `2^127` follows `overflow`.
fn scale_code(rule: ScaleRule, overflow: Overflow, x: f32) -> u8 {
    let (largest, nan) = (e8m0::encode(Overflow::Saturate, f32::INFINITY), e8m0::encode(Overflow::Saturate, f32::NAN));
    let over = match overflow {
        Overflow::Saturate => largest,
        Overflow::Ieee => nan,
    };
    match rule {
        _ if x.is_nan() => nan,
        _ if x.is_infinite() => over,
        ScaleRule::Floor => e8m0::encode_floor(x, 0),
        ScaleRule::Ceil if x.abs() > e8m0::decode(largest) => over,
        ScaleRule::Ceil => e8m0::encode_ceil(x),
    }
}

/// The f32 toward zero from `x`, its last bit set if that is not `x` itself: rounded again to a narrower format it
/// gives what one rounding of `x` would.
pub fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    if x.is_nan() || f64::from(nearest) == x {
        return nearest;
    }
    let past = u32::from(f64::from(nearest).abs() > x.abs());
    f32::from_bits((nearest.to_bits() - past) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let message = |d, m, s, r| Encoder::new(d, m, s, r).unwrap_err().to_string();
        assert!(message(DType::F16, None, Some(1), None).contains("--seed: expected --mode stochastic, got no --mode"));
        assert!(message(DType::E4m3, None, None, Some(ScaleRule::Ceil)).contains("--scale-rule: expected --to e8m0, got e4m3"));
        assert!(message(DType::E8m0, Some(CastMode::Stochastic), None, Some(ScaleRule::Ceil)).contains("saturate or ieee"));
    }

    #[test]
    fn slices_hold_the_codes_of_single_values() {
        let x: Vec<f32> = (0..999).map(|i| ((i * 7919 % 2001) as f32 - 1000.0) * 0.731f32.powi(i % 40) * 3.0).collect();
        let modes = [None, Some(CastMode::Saturate), Some(CastMode::Ieee), Some(CastMode::Stochastic)];
        for (dtype, mode) in crate::cli::cast::DTYPES.into_iter().flat_map(|d| modes.map(|m| (d, m))) {
            let encoder = Encoder::new(dtype, mode, None, None).unwrap();
            let (key, first) = (encoder.key("w"), 5u64);
            let mut words = vec![0u32; 1000];
            let out: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut words)[..x.len() * dtype.size_bytes()];
            encoder.encode(key, first, &x, out);
            let mut back = vec![0f32; x.len()];
            slices::decode(dtype, out, &mut back);
            for (i, &x) in x.iter().enumerate() {
                let want = float::decode(dtype, encoder.code(key, first + i as u64, x));
                assert_eq!(back[i].to_bits(), want.to_bits(), "{dtype} {mode:?} {x}");
            }
        }
    }

    #[test]
    fn random_rounding_is_right_on_average_and_depends_on_seed_and_name() {
        let draw = |seed, name: &str| -> Vec<u32> {
            let e = Encoder::new(DType::E4m3, Some(CastMode::Stochastic), Some(seed), None).unwrap();
            (0..20_000).map(|i| e.code(e.key(name), i, 1.03)).collect()
        };
        let mean = draw(1, "w").iter().map(|&c| f64::from(float::decode(DType::E4m3, c))).sum::<f64>() / 20_000.0;
        // Between 1 and 1.125; five deviations of the mean.
        let deviation = 0.125 * (0.24f64 * 0.76 / 20_000.0).sqrt();
        assert!((mean - 1.03).abs() <= 5.0 * deviation, "{mean}");
        assert_eq!(draw(1, "w"), draw(1, "w"));
        assert_ne!(draw(1, "w"), draw(2, "w"));
        assert_ne!(draw(1, "w"), draw(1, "b"));
    }

    #[test]
    fn scale_rules_bracket_the_value() {
        let code = |rule, mode, x| Encoder::new(DType::E8m0, mode, None, Some(rule)).unwrap().code([0; 2], 0, x);
        assert_eq!((code(ScaleRule::Floor, None, 3.0), code(ScaleRule::Ceil, None, 3.0)), (128, 129));
        assert_eq!((code(ScaleRule::Floor, None, 4.0), code(ScaleRule::Ceil, None, 4.0)), (129, 129));
        assert_eq!((code(ScaleRule::Floor, None, f32::INFINITY), code(ScaleRule::Ceil, None, f32::INFINITY)), (0xFF, 0xFE));
        assert_eq!(code(ScaleRule::Floor, Some(CastMode::Saturate), f32::INFINITY), 0xFE);
        assert_eq!(code(ScaleRule::Ceil, Some(CastMode::Ieee), 3e38), 0xFF);
        assert_eq!(code(ScaleRule::Ceil, None, f32::NAN), 0xFF);
    }
}
