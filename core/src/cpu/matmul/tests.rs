//! The matmul over every dtype, order, scale and batch form against f64.

use super::*;
use crate::cpu::map::functions;
use crate::float;
use crate::op::matmul::Activation;

const FLOATS: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];

/// Values in `[-1, 1]` stored as `dtype`, and what they decode to.
fn stored(dtype: DType, n: usize, seed: u64) -> (Vec<u32>, Vec<f64>) {
    let mut rng = crate::rng::Rng::new(seed, 0);
    let x: Vec<f32> = (0..n).map(|_| rng.uniform() * 2.0 - 1.0).collect();
    let mut words = vec![0u32; n];
    let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..n * dtype.size_bytes()];
    ViewMut::new(dtype, bytes).store(0, &x);
    let mut back = vec![0.0; n];
    View::new(dtype, bytes).decode_into(&mut back);
    (words, back.into_iter().map(f64::from).collect())
}

fn view(dtype: DType, words: &[u32], n: usize) -> View<'_> {
    View::new(dtype, &bytemuck::cast_slice(words)[..n * dtype.size_bytes()])
}

/// Runs a matmul and compares with f64; the true values of A and B come from `a` and `b` times `scales`.
struct Case<'a> {
    args: MatMulArgs,
    dtypes: [DType; 3],
    trans: [bool; 2],
    scale: [Scale<'a>; 2],
    bias: Option<DType>,
}

fn element_scale(scale: &Scale<'_>, matrix: usize, (rows, columns): (usize, usize), (r, c): (usize, usize)) -> f64 {
    match scale {
        Scale::None => 1.0,
        Scale::PerTensor(s) => f64::from(*s),
        Scale::Blocks { scales, axis } => {
            let i = match axis {
                BlockAxis::Last => (matrix * rows + r) * columns.div_ceil(32) + c / 32,
                BlockAxis::SecondLast => (matrix * rows.div_ceil(32) + r / 32) * columns + c,
            };
            2f64.powi(i32::from(scales.bytes[i]) - 127)
        }
    }
}

fn check(case: &Case<'_>) {
    let MatMulArgs { batch, m, n, k, a_batch_stride, b_batch_stride, compute, accumulate } = case.args;
    let [da, db, dy] = case.dtypes;
    let len = |stride: usize, matrix: usize| if stride == 0 { matrix } else { (batch - 1) * stride + matrix };
    let (na, nb) = (len(a_batch_stride, m * k), len(b_batch_stride, k * n));
    let ((aw, a), (bw, b), (mut yw, old)) = (stored(da, na, 1), stored(db, nb, 2), stored(dy, batch * m * n, 3));
    let (biasw, bias) = stored(case.bias.unwrap_or(DType::F32), n, 4);
    let operand =
        |dtype, words, n, i: usize| Operand { view: view(dtype, words, n), trans: case.trans[i], scale: case.scale[i] };
    let y_bytes = &mut bytemuck::cast_slice_mut(&mut yw)[..batch * m * n * dy.size_bytes()];
    let mut work = vec![f32::NAN; matmul_work_len(&case.args, dy)];
    matmul(
        ViewMut::new(dy, y_bytes),
        &operand(da, &aw, na, 0),
        &operand(db, &bw, nb, 1),
        case.bias.map(|d| view(d, &biasw, n)),
        &Epilogue::default(),
        &case.args,
        &mut work,
    );
    let mut y = vec![0.0f32; batch * m * n];
    View::new(dy, y_bytes).decode_into(&mut y);
    let round = |x: f64, dtype: DType| {
        if compute == DType::Tf32 && dtype == DType::F32 { f64::from(float::round_to(DType::Tf32, x as f32)) } else { x }
    };
    let format = dy.format().expect("a float");
    for i in 0..batch {
        for r in 0..m {
            for c in 0..n {
                let (mut sum, mut size) = (0.0, 0.0);
                for kk in 0..k {
                    let (ai, ad) = if case.trans[0] { ((kk, r), (k, m)) } else { ((r, kk), (m, k)) };
                    let (bi, bd) = if case.trans[1] { ((c, kk), (n, k)) } else { ((kk, c), (k, n)) };
                    let x = round(a[i * a_batch_stride + ai.0 * ad.1 + ai.1], da);
                    let w = round(b[i * b_batch_stride + bi.0 * bd.1 + bi.1], db);
                    let sa = element_scale(&case.scale[0], if a_batch_stride == 0 { 0 } else { i }, ad, ai);
                    let sb = element_scale(&case.scale[1], if b_batch_stride == 0 { 0 } else { i }, bd, bi);
                    sum += x * sa * w * sb;
                    size += (x * sa * w * sb).abs();
                }
                let at = (i * m + r) * n + c;
                let (add, add_size) = (
                    if case.bias.is_some() { bias[c] } else { 0.0 } + if accumulate { old[at] } else { 0.0 },
                    bias[c].abs() + old[at].abs(),
                );
                let want = (sum + add).clamp(-format.max, format.max);
                let u = DType::F32.unit_roundoff();
                let tol = (k as f64 + 4.0) * u * (size + add_size)
                    + dy.unit_roundoff() * want.abs() * 1.001
                    + format.min_subnormal / 2.0;
                let err = (f64::from(y[at]) - want).abs();
                assert!(err <= tol, "{:?} {:?} [{i},{r},{c}]: {} for {want}, tol {tol:e}", case.args, case.dtypes, y[at]);
            }
        }
    }
}

fn args(batch: usize, m: usize, n: usize, k: usize) -> MatMulArgs {
    let (a_batch_stride, b_batch_stride) = (m * k, k * n);
    MatMulArgs { batch, m, n, k, a_batch_stride, b_batch_stride, compute: DType::F32, accumulate: false }
}

#[test]
fn every_dtype_and_order_agrees_with_f64() {
    for da in FLOATS {
        for db in FLOATS {
            for dy in FLOATS {
                for trans in [[false, false], [false, true], [true, false]] {
                    let args = MatMulArgs { accumulate: trans[1], ..args(1, 7, 37, 65) };
                    let bias = (!trans[0]).then_some(db);
                    check(&Case { args, dtypes: [da, db, dy], trans, scale: [Scale::None; 2], bias });
                }
            }
        }
    }
}

#[test]
fn long_sums_agree_whatever_the_cut() {
    // Rounded outputs: one step of k, several steps, and a split along k; columns beyond one group.
    for (m, n, k) in [(70, 150, 200), (520, 20, 400), (67, 140, 700), (33, 40, 1500)] {
        for dy in [DType::F32, DType::Bf16] {
            for accumulate in [false, true] {
                let args = MatMulArgs { accumulate, ..args(1, m, n, k) };
                let scale = [Scale::PerTensor(0.25), Scale::None];
                for trans in [[false, true], [true, false]] {
                    check(&Case { args, dtypes: [DType::Bf16, DType::F32, dy], trans, scale, bias: Some(DType::F16) });
                }
            }
        }
    }
}

#[test]
fn an_epilogue_gives_the_bits_of_steps_of_their_own() {
    // One step of k and several, sums in the output and outside, a split along k, batches side by side and one after
    // the other.
    let shapes = [
        (1, 70, 150, 200),
        (1, 520, 20, 400),
        (1, 67, 140, 700),
        (1, 33, 40, 1500),
        (3, 9, 35, 50),
        (2, 300, 300, 60),
        (1, 9, 5, 0),
    ];
    for (batch, m, n, k) in shapes {
        let args = args(batch, m, n, k);
        let len = batch * m * n;
        let ((a, _), (b, _), (bias, _)) =
            (stored(DType::Bf16, batch * m * k, 1), stored(DType::Bf16, batch * k * n, 2), stored(DType::F32, n, 3));
        let operand = |words, len| Operand { view: view(DType::Bf16, words, len), trans: false, scale: Scale::PerTensor(0.5) };
        let run = |y: ViewMut<'_>, epilogue: &Epilogue<'_>, args: &MatMulArgs| {
            let mut work = vec![f32::NAN; matmul_work_len(args, y.dtype)];
            let (a, b) = (operand(&a, batch * m * k), operand(&b, batch * k * n));
            matmul(y, &a, &b, Some(view(DType::F32, &bias, n)), epilogue, args, &mut work);
        };
        let mut plain = vec![f32::NAN; len];
        run(ViewMut::of(&mut plain), &Epilogue::default(), &args);
        let (addend, addends) = stored(DType::F16, len, 4);
        for dy in [DType::F32, DType::Bf16] {
            let (old, olds) = stored(dy, len, 5);
            let activations = Activation::ALL.map(|a| (Some(a), false, false));
            for (activation, adds, accumulate) in activations.into_iter().chain([(None, true, false), (None, false, true)]) {
                for round in [None, Some(DType::Bf16), Some(DType::E4m3)] {
                    let addend = adds.then(|| view(DType::F16, &addend, len));
                    let mut words = old.clone();
                    let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..len * dy.size_bytes()];
                    let args = MatMulArgs { accumulate, ..args };
                    run(ViewMut::new(dy, bytes), &Epilogue { round, activation, addend }, &args);
                    for (i, &x) in plain.iter().enumerate() {
                        let x = round.map_or(x, |d| float::round_to(d, x));
                        let x = activation.map_or(x, |a| functions::unary(a.function(), x));
                        let x = if adds { x + addends[i] as f32 } else { x };
                        let want = float::round_to(dy, if accumulate { x + olds[i] as f32 } else { x });
                        let mut got = [0.0f32];
                        View::new(dy, bytes).part(i..i + 1).decode_into(&mut got);
                        let what = (batch, m, n, k, dy, activation, adds, accumulate, round);
                        assert_eq!(got[0].to_bits(), want.to_bits(), "{what:?} [{i}]: {} for {want}", got[0]);
                    }
                }
            }
        }
    }
}

#[test]
fn batches_may_share_an_operand() {
    for batch in [2, 5] {
        for (a_shared, b_shared) in [(false, false), (false, true), (true, false)] {
            for (m, n, k) in [(3, 5, 7), (66, 40, 33), (200, 200, 200)] {
                let mut args = args(batch, m, n, k);
                if a_shared {
                    args.a_batch_stride = 0;
                }
                if b_shared {
                    args.b_batch_stride = 0;
                }
                let dtypes = [DType::E4m3, DType::Bf16, DType::F16];
                check(&Case { args, dtypes, trans: [true, false], scale: [Scale::None; 2], bias: None });
            }
        }
    }
}

#[test]
fn block_scales_follow_the_sum_with_ragged_edges() {
    let codes: Vec<u8> = (0..4096).map(|i| 120 + (i * 7 % 13) as u8).collect();
    let scales = View::new(DType::E8m0, &codes);
    // Blocks lie along k: `Last` where k is the stored row, `SecondLast` where it is the column.
    for k in [1, 31, 32, 33, 65, 300] {
        for trans_a in [false, true] {
            for trans_b in [false, true] {
                let axis = |along_row: bool| if along_row { BlockAxis::Last } else { BlockAxis::SecondLast };
                let scale = [Scale::Blocks { scales, axis: axis(!trans_a) }, Scale::Blocks { scales, axis: axis(trans_b) }];
                let dtypes = [DType::E4m3, DType::E5m2, DType::F32];
                check(&Case { args: args(2, 9, 34, k), dtypes, trans: [trans_a, trans_b], scale, bias: None });
            }
        }
    }
}

#[test]
fn tf32_rounds_f32_operands_only() {
    let args = MatMulArgs { compute: DType::Tf32, ..args(1, 5, 33, 64) };
    for dtypes in [[DType::F32; 3], [DType::F32, DType::Bf16, DType::F32]] {
        for trans in [[false, false], [true, true]] {
            check(&Case { args, dtypes, trans, scale: [Scale::None; 2], bias: None });
        }
    }
    let (a, b) = ([1.0 + f32::EPSILON], [1.0f32]);
    let mut y = [0.0f32];
    let one = MatMulArgs { compute: DType::Tf32, ..super::tests::args(1, 1, 1, 1) };
    let operand = |x| Operand { view: View::of(x), trans: false, scale: Scale::None };
    let mut work = vec![0.0; matmul_work_len(&one, DType::F32)];
    matmul(ViewMut::of(&mut y), &operand(&a), &operand(&b), None, &Epilogue::default(), &one, &mut work);
    assert_eq!(y, [1.0]);
}

#[test]
fn a_nan_scale_and_overflow_follow_the_output_format() {
    let a = [300.0f32, 1.0];
    let b = [300.0f32, 0.0];
    let args = args(1, 2, 1, 1);
    let mut work = vec![0.0; matmul_work_len(&args, DType::F16)];
    let mut run = |dy: DType, scale_inv: f32| {
        let mut words = [0u32; 2];
        let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..2 * dy.size_bytes()];
        let a = Operand { view: View::of(&a), trans: false, scale: Scale::PerTensor(scale_inv) };
        let b = Operand { view: View::of(&b[..1]), trans: false, scale: Scale::None };
        matmul(ViewMut::new(dy, bytes), &a, &b, None, &Epilogue::default(), &args, &mut work);
        let mut y = [0.0; 2];
        View::new(dy, bytes).decode_into(&mut y);
        y
    };
    assert_eq!(run(DType::F16, 1.0), [f32::INFINITY, 300.0]);
    assert_eq!(run(DType::E4m3, 1.0), [448.0, 288.0]);
    assert!(run(DType::Bf16, f32::NAN).iter().all(|y| y.is_nan()));
}
