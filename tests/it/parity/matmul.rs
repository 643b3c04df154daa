//! Matmuls: layouts, dtypes, scales, edges.

use mantissa_core::DType;
use mantissa_core::backend::Backend;
use mantissa_core::float::slices;
use mantissa_core::op::matmul::{Activation, Epilogue, MatMul};
use mantissa_core::op::scale::{BlockAxis, OperandScale, scale_type};
use mantissa_core::shape::Ty;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::machine::bytes_of;
use mantissa_tests::parity::{Bound, Case};
use std::sync::Arc;

pub(super) const FLOATS: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];
pub(super) const LAYOUTS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

/// A product of normal values: [m, k] times [k, n], `batch` of them if it is not empty.
#[derive(Clone)]
pub(super) struct Product {
    pub(super) op: MatMul,
    dtypes: [DType; 2],
    batch: Vec<usize>,
    shared: bool,
    sizes: [usize; 3],
    bias: DType,
    addend: DType,
    /// The output lies over its addend.
    in_place: bool,
    /// How much more than a sum its epilogue may be off.
    slope: f64,
    /// Values that replace those at an index of an operand.
    planted: Vec<(usize, usize, f32)>,
}

impl Product {
    pub(super) fn new((trans_a, trans_b): (bool, bool), dtype: DType, out: DType, sizes: [usize; 3]) -> Product {
        let op = MatMul::new(trans_a, trans_b, out);
        let (f32, batch, planted) = (DType::F32, Vec::new(), Vec::new());
        let (shared, in_place, slope) = (false, false, 1.0);
        Product { op, dtypes: [dtype; 2], batch, shared, sizes, bias: f32, addend: f32, in_place, slope, planted }
    }

    fn types(&self) -> [Ty; 2] {
        let [m, n, k] = self.sizes;
        let shape = |lead: &[usize], r: usize, c: usize, trans: bool| [lead, &if trans { [c, r] } else { [r, c] }].concat();
        let lead_b: &[usize] = if self.shared { &[] } else { &self.batch };
        [
            Ty::new(self.dtypes[0], shape(&self.batch, m, k, self.op.trans_a)),
            Ty::new(self.dtypes[1], shape(lead_b, k, n, self.op.trans_b)),
        ]
    }

    /// Compares every kind of product with the CPU's, each of which may be off by the forward bound `K u sum |a||b|` of
    /// a sum of products.
    #[track_caller]
    fn check(&self) {
        for device in devices::wgpu_with_every_matmul() {
            self.check_on(&*device);
        }
    }

    /// The same for one device.
    #[track_caller]
    pub(super) fn check_on(&self, device: &dyn Backend) {
        let case = self.case();
        let [_, _, k] = self.sizes;
        let largest_scale: f64 = self.op.scales.iter().zip(TENSOR_SCALES).map(|(s, tensor)| largest(*s, tensor)).product();
        let terms = (k as f64 + 2.0) * DType::F32.unit_roundoff();
        // On either side. The mean product of two standard normals is 2 / pi; 16 covers a lone large one, and the bias.
        let bound = 1.5 * terms * (k as f64 + 16.0) * largest_scale;
        let rounding = self.op.round.map_or(0.0, |d| 4.0 * d.unit_roundoff() * (k as f64).sqrt() * 4.0 * largest_scale);
        case.check(&*devices::cpu(), device, &[Bound::Absolute(vec![self.slope * (bound + rounding)])]);
    }

    pub(super) fn case(&self) -> Case {
        let types = self.types();
        let mut values: Vec<Vec<f32>> = (0..2).map(|i| normal(types[i].shape.numel(), 1.0, 7 + i as u32)).collect();
        for &(operand, at, x) in &self.planted {
            values[operand][at] = x;
        }
        let mut inputs: Vec<(Ty, Vec<u8>)> = types.iter().zip(&values).map(|(t, v)| (t.clone(), bytes_of(t, v))).collect();
        for (i, t) in types.iter().enumerate() {
            let ty = scale_type(self.op.scales[i], t);
            match self.op.scales[i] {
                OperandScale::None => {}
                OperandScale::Tensor => {
                    inputs.push((ty.clone(), bytes_of(&ty, &[TENSOR_SCALES[i] as f32])));
                }
                OperandScale::Blocks(_) => {
                    // Powers of two from 1/4 to 4.
                    let codes: Vec<u8> = (0..ty.shape.numel()).map(|j| 125 + (j * 7 % 5) as u8).collect();
                    inputs.push((ty, codes));
                }
            }
        }
        let [_, n, _] = self.sizes;
        if self.op.bias {
            let ty = Ty::new(self.bias, [n]);
            let values = normal(n, 1.0, 9);
            inputs.push((ty.clone(), bytes_of(&ty, &values)));
        }
        if let Some(i) = self.op.addend_input() {
            let shape = [&self.batch[..], &[self.sizes[0], n]].concat();
            let ty = Ty::new(self.addend, shape);
            let values = normal(ty.shape.numel(), 1.0, 10);
            assert_eq!(i, inputs.len());
            inputs.push((ty.clone(), bytes_of(&ty, &values)));
        }
        let name = format!("{:?} {:?} {:?} batch {:?} shared {}", self.op, self.dtypes, self.sizes, self.batch, self.shared);
        let case = Case::of_bytes(name, self.op.clone().op(), inputs);
        match self.op.addend_input().filter(|_| self.in_place) {
            Some(i) => case.over(0, i),
            None => case,
        }
    }
}

/// Scales of whole tensors in these tests.
const TENSOR_SCALES: [f64; 2] = [0.375, 3.0];

fn largest(scale: OperandScale, tensor: f64) -> f64 {
    match scale {
        OperandScale::None => 1.0,
        OperandScale::Tensor => tensor,
        OperandScale::Blocks(_) => 4.0,
    }
}

#[test]
fn every_layout_at_awkward_sizes() {
    let sizes = [
        [1, 1, 1],
        [3, 7, 65],
        [7, 3, 2],
        [65, 257, 7],
        [64, 128, 32],
        [257, 65, 64],
        [1, 300, 33],
        // Whole blocks of eight columns, for panels.
        [3, 8, 65],
        [65, 264, 7],
        [257, 72, 64],
        [130, 4, 12],
        [72, 136, 260],
        [16, 16, 3000],
    ];
    for layout in LAYOUTS {
        for size in sizes {
            Product::new(layout, DType::F32, DType::F32, size).check();
        }
    }
}

#[test]
fn every_dtype_in_and_out() {
    for layout in LAYOUTS {
        for from in FLOATS {
            for (out, sizes) in [
                (from, [9, 48, 32]),
                (DType::F32, [33, 20, 40]),
                (DType::F32, [35, 24, 38]),
                (DType::Bf16, [5, 7, 9]),
                (DType::E4m3, [6, 18, 16]),
            ] {
                Product::new(layout, from, out, sizes).check();
            }
        }
    }
    for out in FLOATS {
        Product::new((false, false), DType::Bf16, out, [40, 33, 64]).check();
        Product::new((false, true), DType::Bf16, out, [40, 32, 64]).check();
    }
}

#[test]
fn mixed_fp8_operands_with_scales() {
    for layout in LAYOUTS {
        for dtypes in [[DType::E4m3, DType::E4m3], [DType::E5m2, DType::E4m3], [DType::E4m3, DType::E5m2]] {
            for scales in [[true, true], [true, false], [false, true]] {
                let mut p = Product::new(layout, DType::E4m3, DType::Bf16, [48, 80, 96]);
                p.dtypes = dtypes;
                p.op.scales = scales.map(|s| if s { OperandScale::Tensor } else { OperandScale::None });
                p.op.bias = true;
                p.check();
            }
        }
    }
}

#[test]
fn block_scales_along_the_contraction() {
    for (trans_a, trans_b) in LAYOUTS {
        for sizes in [[48, 64, 96], [3, 5, 70], [16, 32, 33]] {
            for batch in [vec![], vec![3]] {
                let mut p = Product::new((trans_a, trans_b), DType::E4m3, DType::F32, sizes);
                p.dtypes = [DType::E4m3, DType::E5m2];
                p.batch = batch;
                p.op.scales[0] =
                    if trans_a { OperandScale::Blocks(BlockAxis::SecondLast) } else { OperandScale::Blocks(BlockAxis::Last) };
                p.op.scales[1] =
                    if trans_b { OperandScale::Blocks(BlockAxis::Last) } else { OperandScale::Blocks(BlockAxis::SecondLast) };
                p.check();
            }
        }
    }
}

#[test]
fn batches_with_their_own_or_a_shared_operand() {
    for layout in LAYOUTS {
        for (batch, shared) in [(vec![3], false), (vec![2, 2], false), (vec![3], true), (vec![1, 5], true)] {
            for (dtype, sizes) in
                [(DType::F32, [17, 9, 12]), (DType::Bf16, [7, 13, 40]), (DType::F32, [9, 70, 5]), (DType::F32, [9, 24, 5])]
            {
                let mut p = Product::new(layout, dtype, dtype, sizes);
                (p.batch, p.shared) = (batch.clone(), shared);
                p.check();
            }
        }
    }
}

#[test]
fn bias_tf32_and_rounding_of_the_result() {
    for bias in FLOATS {
        let mut p = Product::new((false, true), DType::Bf16, DType::Bf16, [20, 36, 24]);
        (p.op.bias, p.bias) = (true, bias);
        p.check();
    }
    for layout in LAYOUTS {
        for size in [[33, 44, 52], [5, 6, 7]] {
            let mut p = Product::new(layout, DType::F32, DType::F32, size);
            p.op.compute = DType::Tf32;
            p.check();
        }
    }
    for round in [DType::F16, DType::Bf16] {
        let mut p = Product::new((true, false), round, DType::F32, [24, 40, 64]);
        p.op.round = Some(round);
        p.check();
    }
}

/// Outputs whose rows share words, split sums and batches among them; derivatives of activations are below 1.2.
#[test]
fn activations_and_addends_behind_the_rounding() {
    let epilogues = Activation::ALL.map(Epilogue::Activation).into_iter().chain([Epilogue::Add]);
    for epilogue in epilogues {
        for (from, out, round, addend) in [
            (DType::F32, DType::F32, None, DType::F32),
            (DType::Bf16, DType::Bf16, Some(DType::Bf16), DType::F16),
            (DType::F16, DType::F32, Some(DType::F16), DType::F32),
            (DType::E4m3, DType::E4m3, None, DType::E5m2),
        ] {
            // All of it for one activation: they differ by a line.
            let smooth = matches!(epilogue, Epilogue::Activation(a) if a != Activation::Relu);
            if smooth && out != DType::Bf16 {
                continue;
            }
            for (layout, batch, sizes) in [
                (LAYOUTS[0], vec![], [33, 44, 40]),
                (LAYOUTS[1], vec![], [70, 37, 9]),
                (LAYOUTS[2], vec![3], [9, 21, 30]),
                (LAYOUTS[1], vec![], [200, 264, 64]),
                (LAYOUTS[0], vec![3], [35, 24, 20]),
                (LAYOUTS[2], vec![], [5, 6, 33000]),
                (LAYOUTS[0], vec![], [5, 8, 33000]),
            ] {
                let mut p = Product::new(layout, from, out, sizes);
                (p.op.epilogue, p.op.round, p.batch, p.addend) = (epilogue, round, batch, addend);
                (p.op.bias, p.slope) = (sizes[0] > sizes[1], 1.2);
                p.check();
                if epilogue == Epilogue::Add {
                    (p.addend, p.in_place) = (out, true);
                    p.check();
                }
            }
        }
    }
}

#[test]
fn non_finite_values_reach_exactly_the_sums_that_read_them() {
    for layout in LAYOUTS {
        for dtype in FLOATS {
            for sizes in [[13, 21, 10], [24, 32, 48]] {
                let mut p = Product::new(layout, dtype, DType::F32, sizes);
                let last = sizes[0] * sizes[2] - 1;
                p.planted = vec![(0, 4, f32::NAN), (0, last, f32::INFINITY), (1, 7, f32::NEG_INFINITY), (1, 9, 0.0)];
                if dtype == DType::E5m2 {
                    // Casts saturate; infinities of this format come as codes only.
                    p.planted = vec![(0, 4, f32::NAN)];
                }
                p.check();
            }
        }
    }
}

#[test]
fn subnormal_codes_are_values() {
    for dtype in [DType::F16, DType::E4m3, DType::E5m2] {
        let size = dtype.size_bytes();
        // Every code of a byte, or those of 16 bits around zero, times one.
        let codes: Vec<u8> = match size {
            1 => (0..=255).collect(),
            _ => (0..256u16).flat_map(|c| (c * 5 + (c % 2) * 0x8000).to_le_bytes()).collect(),
        };
        let mut decoded = vec![0.0; 256];
        slices::decode(dtype, &codes, &mut decoded);
        // Of one column, and of the eight that panels take.
        for columns in [1, 8] {
            let ones = Ty::new(dtype, [1, columns]);
            let inputs = vec![(Ty::new(dtype, [256, 1]), codes.clone()), (ones.clone(), bytes_of(&ones, &vec![1.0; columns]))];
            let case = Case::of_bytes(
                format!("codes of {dtype}, {columns} columns"),
                MatMul::new(false, false, DType::F32).op(),
                inputs,
            );
            for device in devices::wgpu_with_every_matmul() {
                case.check(&*devices::cpu(), &*device, &[Bound::Absolute(vec![0.0])]);
            }
        }
        assert!(decoded.iter().any(|v| *v != 0.0 && v.abs() < 0.01));
    }
}

/// A product with the identity shows every code, and where an infinity or NaN meets a zero.
#[test]
fn every_code_is_decoded_four_at_a_time() {
    const K: usize = 16;
    let every: Vec<Arc<dyn Backend>> = devices::wgpu_with_every_matmul().into_iter().map(|d| d as Arc<dyn Backend>).collect();
    for dtype in [DType::F16, DType::Bf16, DType::E4m3, DType::E5m2] {
        let codes: Vec<u8> = match dtype.size_bytes() {
            1 => (0..=u8::MAX).collect(),
            _ => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
        };
        let rows = codes.len() / dtype.size_bytes() / K;
        let one = Ty::new(dtype, [K, K]);
        let identity: Vec<f32> = (0..K * K).map(|i| f32::from(u8::from(i / K == i % K))).collect();
        let inputs = vec![(Ty::new(dtype, [rows, K]), codes), (one.clone(), bytes_of(&one, &identity))];
        let case = Case::of_bytes(format!("codes of {dtype}"), MatMul::new(false, false, DType::F32).op(), inputs);
        for device in every.iter().cloned().chain(devices::wgpu_baseline()) {
            case.check(&*devices::cpu(), &*device, &[Bound::Absolute(vec![0.0])]);
        }
    }
}

#[test]
fn long_sums_of_small_results() {
    for (layout, dtype) in [((true, false), DType::F32), ((true, false), DType::Bf16), ((false, true), DType::E4m3)] {
        Product::new(layout, dtype, DType::F32, [64, 48, 16384]).check();
    }
}

/// Every kernel adds one product after the other, k ascending. A GPU's compiler may contract some of these sums and not
/// others.
#[test]
fn every_matmul_kernel_gives_the_same_bits() {
    let devices: Vec<_> = devices::wgpu_with_every_matmul().into_iter().filter(|d| d.facts().software).collect();
    for layout in LAYOUTS {
        // Rows that are whole vectors, and rows that are not.
        for (dtype, sizes) in [
            (DType::F32, [70, 84, 300]),
            (DType::F32, [33, 67, 37]),
            (DType::F32, [33, 88, 37]),
            (DType::Bf16, [40, 72, 96]),
            (DType::Bf16, [35, 43, 29]),
            (DType::E4m3, [32, 48, 176]),
            (DType::E4m3, [39, 41, 70]),
        ] {
            let case = Product::new(layout, dtype, DType::F32, sizes).case();
            let results: Vec<_> = devices.iter().map(|d| case.run(&**d).expect("the product runs")).collect();
            for (result, device) in results.iter().zip(&devices) {
                assert!(
                    result == &results[0],
                    "{}: {:?} is not as {:?}",
                    case.name,
                    device.profile().matmul[0],
                    devices[0].profile().matmul[0]
                );
            }
        }
    }
}
