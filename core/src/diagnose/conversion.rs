//! What one conversion inside a step costs: an fp8 quantization or a narrowing cast, against its own input.

use super::stats::{Difference, Scaled};
use crate::dtype::DType;
use crate::float::view::View;
use crate::op::Op;
use crate::op::quantize::{Quantize, QuantizeMx};
use crate::op::scale::{BlockAxis, MX_BLOCK};
use crate::program::observe::Moment;
use crate::program::{Instr, Program};

/// The target dtype of an instruction that does nothing but store its input in a narrower one.
pub fn target(program: &Program, instr: &Instr) -> Option<DType> {
    let input = program.ty(*instr.inputs.first()?);
    if let Op::Quantize(Quantize { dtype, .. }) | Op::QuantizeMx(QuantizeMx { dtype, .. }) = &instr.op {
        return Some(*dtype);
    }
    let Op::Map(m) = &instr.op else { return None };
    let to = m.as_cast(input)?;
    (to.is_float() && input.dtype.is_float() && to.size_bytes() < input.dtype.size_bytes()).then_some(to)
}

/// The error of the conversion that has just run; `None` for any other instruction.
pub fn error(now: &Moment<'_>) -> Option<Difference> {
    let instr = now.instr();
    target(now.program, instr)?;
    let original = now.view(instr.inputs[0])?;
    let codes = now.view(instr.outputs[0])?;
    if let Op::QuantizeMx(q) = &instr.op {
        let scales = now.view(instr.outputs[1])?;
        let shape = &now.program.ty(instr.inputs[0]).shape;
        let values = dequantize_mx(codes, scales, [shape.rows(), shape.last()], q.blocks);
        let d = Difference::of(original, View::of(&values));
        return Some(Difference { saturated: saturated(original, codes, &values, q.dtype), ..d });
    }
    let factor = if matches!(instr.op, Op::Quantize(_)) { now.view(instr.outputs[1])?.f32s()[0] } else { 1.0 };
    Some(Difference::of(original, Scaled { view: codes, factor }))
}

/// Values of MX codes [rows, width] with one scale per 32 of a row or of a column.
fn dequantize_mx(codes: View<'_>, scales: View<'_>, [rows, width]: [usize; 2], blocks: BlockAxis) -> Vec<f32> {
    let (mut values, mut scale) = (vec![0.0; codes.len()], vec![0.0; scales.len()]);
    codes.decode_into(&mut values);
    scales.decode_into(&mut scale);
    for r in 0..rows {
        for (c, v) in values[r * width..(r + 1) * width].iter_mut().enumerate() {
            *v *= match blocks {
                BlockAxis::SecondLast => scale[r / MX_BLOCK * width + c],
                BlockAxis::Last => scale[r * width.div_ceil(MX_BLOCK) + c / MX_BLOCK],
            };
        }
    }
    values
}

/// Elements whose code is the largest of `dtype` while the original is larger than what it stands for.
fn saturated(original: View<'_>, codes: View<'_>, values: &[f32], dtype: DType) -> u64 {
    let (mut x, mut code) = (vec![0.0; codes.len()], vec![0.0; codes.len()]);
    original.decode_into(&mut x);
    codes.decode_into(&mut code);
    let full = |c: f32| c.abs() == dtype.max_f32();
    x.iter().zip(code).zip(values).filter(|((x, c), v)| full(*c) && x.abs() > v.abs() && x.is_finite()).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Batch;
    use crate::diagnose::testing::{session, tiny, tokens};
    use crate::precision::recipe::RecipeName;
    use crate::program::observe::Observer;

    #[derive(Default)]
    struct Watch(Vec<(DType, Difference)>);

    impl Observer for Watch {
        fn after(&mut self, now: &Moment<'_>) {
            if let Some(d) = error(now) {
                self.0.push((target(now.program, now.instr()).unwrap(), d));
            }
        }
    }

    fn watched(name: RecipeName, steps: usize) -> Vec<(DType, Difference)> {
        let config = tiny(name);
        let (x, t) = tokens(&config);
        let mut session = session(config);
        let mut watch = Watch::default();
        for _ in 0..steps {
            watch.0.clear();
            let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&t) };
            session.step_observed(batch, &mut watch).unwrap();
        }
        watch.0
    }

    #[test]
    fn fp8_and_mx_lose_what_their_mantissas_say() {
        // e4m3 has 4 significant bits (about 31 dB on smooth data), e5m2 3 (about 25 dB).
        for (name, steps) in [(RecipeName::Fp8Current, 1), (RecipeName::Fp8Delayed, 3), (RecipeName::Mxfp8, 1)] {
            let seen = watched(name, steps);
            assert!(seen.iter().any(|(d, _)| d.is_fp8()), "{name}");
            for (dtype, d) in seen {
                let range = match dtype {
                    DType::E4m3 => 24.0..40.0,
                    DType::E5m2 => 19.0..34.0,
                    DType::F32 | DType::Tf32 | DType::F16 | DType::Bf16 | DType::E8m0 | DType::U32 | DType::I32 => continue,
                };
                // A zero bias gradient and a first bias of zeros are exact.
                assert!(d.noise == 0.0 || range.contains(&d.sqnr_db()), "{name} {dtype}: {} dB, {d:?}", d.sqnr_db());
            }
        }
    }

    #[test]
    fn a_step_without_conversions_has_none() {
        assert_eq!(watched(RecipeName::F32, 1).len(), 0);
    }
}
