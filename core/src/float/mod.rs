//! Codecs between f32 and the stored formats.

use crate::dtype::{DType, Overflow};

pub mod slices;

/// Code of `x` in `dtype`, round to nearest even. (Working placeholder of the table-driven codec.)
pub fn encode(dtype: DType, overflow: Overflow, x: f32) -> u32 {
    let f = dtype.format().expect("floating dtype");
    if matches!(dtype, DType::F32) {
        return x.to_bits();
    }
    let (e, m) = (f.exponent_bits, f.mantissa_bits);
    let all_exp = ((1u32 << e) - 1) << m;
    let sign = if x.is_sign_negative() { 1u32 << (e + m) } else { 0 };
    let nan = if f.has_inf { all_exp | 1 << (m - 1) } else { all_exp | ((1 << m) - 1) };
    let max_code = if f.has_inf { all_exp - 1 } else { (all_exp | ((1 << m) - 1)) - 1 };
    let inf = if f.has_inf { all_exp } else { nan };
    if x.is_nan() {
        return nan | sign;
    }
    let a = x.abs() as f64;
    let quantum = if a < f.min_normal { f.min_subnormal } else { 2f64.powi((a.log2().floor()) as i32 - m as i32) };
    let v = (a / quantum).round_ties_even() * quantum;
    let code = if v > f.max {
        match overflow {
            Overflow::Saturate => max_code,
            Overflow::Ieee => inf,
        }
    } else if v < f.min_normal {
        (v / f.min_subnormal) as u32
    } else {
        let ex = v.log2().floor() as i32;
        let frac = ((v / 2f64.powi(ex) - 1.0) * 2f64.powi(m as i32)) as u32;
        (((ex + f.bias) as u32) << m) | frac
    };
    code | sign
}

/// Value of a code.
pub fn decode(dtype: DType, code: u32) -> f32 {
    match dtype {
        DType::F32 => return f32::from_bits(code),
        DType::E8m0 => return if code == 255 { f32::NAN } else { 2f64.powi(code as i32 - 127) as f32 },
        DType::Tf32 => return f32::from_bits(code << 13),
        DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 | DType::U32 | DType::I32 => {}
    }
    let f = dtype.format().expect("floating dtype");
    let (e, m) = (f.exponent_bits, f.mantissa_bits);
    let sign = if code >> (e + m) & 1 == 1 { -1.0 } else { 1.0 };
    let ex = (code >> m) & ((1 << e) - 1);
    let fr = code & ((1 << m) - 1);
    if f.has_inf && ex == (1 << e) - 1 {
        return if fr == 0 { sign * f32::INFINITY } else { f32::NAN };
    }
    if !f.has_inf && ex == (1 << e) - 1 && fr == (1 << m) - 1 {
        return f32::NAN;
    }
    let v = if ex == 0 { fr as f64 * f.min_subnormal } else { (1.0 + fr as f64 * 2f64.powi(-(m as i32))) * 2f64.powi(ex as i32 - f.bias) };
    sign * v as f32
}
