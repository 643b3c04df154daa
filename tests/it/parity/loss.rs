//! Cross entropy.

use mantissa_core::DType;
use mantissa_core::op::loss::{CrossEntropy, IGNORE_INDEX};
use mantissa_core::op::{Op, Real};
use mantissa_core::shape::Ty;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::machine::bytes_of;
use mantissa_tests::parity::{Bound, Case};
use mantissa_tests::tolerance::ulps;

const DTYPES: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];
const SHAPES: [[usize; 2]; 7] = [[1, 1], [3, 7], [9, 65], [7, 257], [64, 48], [700, 10], [3, 4100]];

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

fn smoothed(smoothing: f64) -> CrossEntropy {
    CrossEntropy { label_smoothing: Real(smoothing) }
}

/// Every fifth target is ignored, but for a single row.
fn targets([n, v]: [usize; 2]) -> Vec<u32> {
    (0..n).map(|i| if i % 5 == 4 { IGNORE_INDEX } else { (i * 7 % v) as u32 }).collect()
}

fn forward(x: &[f32], targets: &[u32], [n, v]: [usize; 2], dtype: DType, o: CrossEntropy) -> Case {
    let logits = Ty::new(dtype, [n, v]);
    let inputs = vec![(logits.clone(), bytes_of(&logits, x)), (Ty::new(DType::U32, [n]), words(targets))];
    Case::of_bytes(format!("{o:?} {dtype} [{n}, {v}]"), Op::CrossEntropy(o), inputs)
}

fn backward(x: &[f32], targets: &[u32], [n, v]: [usize; 2], dtype: DType, o: CrossEntropy) -> Case {
    let stats = |row: &[f32]| {
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        [largest, 1.0 / row.iter().map(|x| (x - largest).exp()).sum::<f32>()]
    };
    let stats: Vec<f32> = x.chunks(v).flat_map(stats).collect();
    let count = targets.iter().filter(|t| **t != IGNORE_INDEX).count() as f32;
    let mut case = forward(x, targets, [n, v], dtype, o);
    case.name.push_str(" backward");
    if let Op::CrossEntropy(o) = case.op {
        case.op = Op::CrossEntropyBackward(o);
    }
    let scalar = Ty::scalar(DType::F32);
    let more = [(Ty::new(DType::F32, [n, 2]), stats), (scalar.clone(), vec![count]), (scalar, vec![1024.0])];
    case.inputs.extend(more.into_iter().map(|(ty, v)| (ty.clone(), bytes_of(&ty, &v))));
    case
}

/// Bounds of loss, statistics of the rows and count.
fn bounds(o: &CrossEntropy) -> [Bound; 3] {
    let ulps = Bound::Ulps(ulps(&Op::CrossEntropy(o.clone())));
    [ulps.clone(), ulps, Bound::Exact]
}

#[test]
fn every_dtype_shape_and_smoothing() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for dtype in DTYPES {
        for [n, v] in SHAPES {
            for smoothing in [0.0, 0.1] {
                let (o, x, t) = (smoothed(smoothing), normal(n * v, 3.0, 1), targets([n, v]));
                forward(&x, &t, [n, v], dtype, o.clone()).check(&*cpu, &*gpu, &bounds(&o));
                let bound = Bound::Ulps(ulps(&Op::CrossEntropyBackward(o.clone())));
                backward(&x, &t, [n, v], dtype, o).check(&*cpu, &*gpu, &[bound]);
            }
        }
    }
}

#[test]
fn ignored_rows_wrong_targets_and_extreme_logits() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let [n, v] = [6, 5];
    let inf = f32::INFINITY;
    let mut x = normal(n * v, 2.0, 2);
    x[5] = 3.0e4;
    x[10] = -inf;
    let mut broken = x.clone();
    broken[15] = f32::NAN;
    broken[20] = inf;
    broken[25..].fill(-inf);
    let good = [0, 0, 1, 2, IGNORE_INDEX, 4];
    let wrong = [0, v as u32, 1, 2, u32::MAX, 4];
    for o in [smoothed(0.0), smoothed(0.2)] {
        for t in [good, wrong, [IGNORE_INDEX; 6]] {
            for x in [&x, &broken] {
                forward(x, &t, [n, v], DType::F32, o.clone()).check(&*cpu, &*gpu, &bounds(&o));
                backward(x, &t, [n, v], DType::F32, o.clone()).check(&*cpu, &*gpu, &[Bound::Ulps(64.0)]);
            }
        }
    }
}
