//! Elementwise expressions: casts bit for bit over all codes, every function on numbers and non-numbers, broadcasting,
//! random numbers, updates in place, and random expressions whose arithmetic is exact.

use mantissa_backend_wgpu::{AttentionKernel, F16Decoding, MatmulKernel, Vec8Access};
use mantissa_core::DType;
use mantissa_core::op::Op;
use mantissa_core::op::expr::{Ex, Map};
use mantissa_core::op::map::{BinaryFn, MapExpr, Node, NodeId, UnaryFn};
use mantissa_core::program::{Init, Role};
use mantissa_core::rng::Rng;
use mantissa_core::shape::{Shape, Ty};
use mantissa_core::trace::Graph;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::machine::{Machine, bytes_of};
use mantissa_tests::parity::{Bound, Case};

const EXACT: &[Bound] = &[Bound::Exact];
const FLOATS: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];

fn op(expr: MapExpr, shape: &[usize], out: &[DType]) -> Op {
    Op::Map(Map { expr, shape: Shape::from(shape.to_vec()), out: out.to_vec() })
}

fn cast(from: DType, to: DType, bytes: Vec<u8>) -> Case {
    let n = bytes.len() / from.size_bytes();
    Case::of_bytes(format!("{from} to {to}"), op(Ex::input(0).finish(), &[n], &[to]), vec![(Ty::new(from, [n]), bytes)])
}

/// Every code of a dtype of one or two bytes.
fn codes(dtype: DType) -> Vec<u8> {
    match dtype.size_bytes() {
        1 => (0..=u8::MAX).collect(),
        _ => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
    }
}

/// f32 words with each value of the upper 24 bits, the lower ones at the borders of the strata or anywhere inside.
fn stratified() -> Vec<u8> {
    let low = |i: u32| match (i ^ i >> 9) & 3 {
        0 => 0x00,
        1 => 0x01,
        2 => 0xff,
        _ => i.wrapping_mul(0x9E37_79B9) >> 24,
    };
    (0..1u32 << 24).flat_map(|i| (i << 8 | low(i)).to_le_bytes()).collect()
}

#[test]
fn casts_of_every_code_are_exact() {
    let cpu = devices::cpu();
    for gpu in devices::wgpu_both_preludes() {
        for from in [DType::F16, DType::Bf16, DType::E4m3, DType::E5m2, DType::E8m0] {
            for to in DType::ALL {
                cast(from, to, codes(from)).check(&*cpu, &*gpu, EXACT);
            }
        }
    }
}

#[test]
fn casts_of_f32_are_exact() {
    let cpu = devices::cpu();
    let bytes = stratified();
    for gpu in devices::wgpu_both_preludes() {
        for to in DType::ALL {
            cast(DType::F32, to, bytes.clone()).check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn what_the_software_adapter_can_do_is_used() {
    let Some(usual) = devices::wgpu_backend() else { return };
    let profile = usual.profile();
    if usual.facts().software && usual.facts().converts_f16 {
        assert_eq!(profile.prelude.f16, F16Decoding::Unpack);
    }
    // Panels need integers of 64 bits too, and subgroups of eight.
    if profile.matmul[0] == MatmulKernel::Panels {
        assert_eq!(profile.prelude.vec8, Vec8Access::Words64);
        assert_eq!(profile.attention, AttentionKernel::Subgroups);
    }
}

/// Minutes, and the whole of f32: `-- --ignored`.
#[test]
#[ignore = "all 2^32 values, minutes"]
fn casts_of_all_f32_are_exact() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for part in 0..=u8::MAX {
        let words = (0..1u32 << 24).map(|i| u32::from(part) << 24 | i);
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        for to in [DType::F16, DType::Bf16, DType::E4m3, DType::E5m2, DType::E8m0] {
            cast(DType::F32, to, bytes.clone()).check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn casts_of_integers_are_exact() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let words = (0..4096u32).flat_map(|i| [i, i << 12, i << 20, i.wrapping_mul(0x9E37_79B9), u32::MAX - i, 1 << 31 ^ i]);
    let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    for from in [DType::U32, DType::I32] {
        for to in DType::ALL {
            cast(from, to, bytes.clone()).check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn rounding_inside_an_expression_is_exact() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let bytes: Vec<u8> = stratified().chunks_exact(4).step_by(251).flatten().copied().collect();
    let n = bytes.len() / 4;
    for to in DType::ALL {
        let mut expr = Ex::input(0).finish();
        expr.outputs[0] = expr.push(Node::Round(to, 0));
        let x = vec![(Ty::new(DType::F32, [n]), bytes.clone())];
        Case::of_bytes(format!("round to {to}"), op(expr, &[n], &[DType::F32]), x).check(&*cpu, &*gpu, EXACT);
    }
}

/// Lengths around the words of every packing and the size of a workgroup.
#[test]
fn casts_of_awkward_lengths_leave_no_code_behind() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for n in [1, 2, 3, 5, 7, 65, 257, 1021, 1025] {
        for from in FLOATS {
            for to in FLOATS {
                let ty = Ty::new(from, [n]);
                Case::of(
                    format!("{n} from {from} to {to}"),
                    op(Ex::input(0).finish(), &[n], &[to]),
                    vec![(ty, normal(n, 3.0, 1))],
                )
                .check(&*cpu, &*gpu, EXACT);
            }
        }
    }
}

/// Numbers of every magnitude, both signs, and what is no number. Subnormals stay out: an adapter may take them for
/// zero in arithmetic.
fn sample() -> Vec<f32> {
    let special = [0.0, 1.0, 0.5, 3.0, 88.7, 88.8, 89.5, 103.9, 105.0, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN];
    let wide = normal(1500, 1.0, 1).into_iter().enumerate().map(|(i, x)| x * 1.2f32.powi(i as i32 % 800 - 450));
    let usual = normal(1500, 3.0, 2);
    special.into_iter().chain(wide.filter(|x| x.is_normal())).chain(usual).flat_map(|x| [x, -x]).collect()
}

/// Bounds of each element: `16 u` of the result, times its exponent where it comes from an exponential, whose relative
/// error is the absolute one of its argument; and where `absolute`, that of a value near 1. Results below the smallest
/// normal number may be 0.
fn bounds(case: &Case, absolute: bool) -> Vec<Bound> {
    let want = case.run(&*devices::cpu()).expect("the specification runs");
    let u = DType::F32.unit_roundoff();
    let each = want[0].1.chunks_exact(4).map(|b| {
        let w = f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])).abs();
        let relative = if w > 0.0 && w.is_finite() { w * (1.0 + w.ln().abs()) } else { 0.0 };
        16.0 * u * (relative + if absolute { 1.0 } else { 0.0 }) + f64::from(f32::MIN_POSITIVE)
    });
    vec![Bound::Absolute(each.collect())]
}

#[test]
fn functions_of_one_value() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for f in UnaryFn::ALL {
        let mut x = sample();
        // Near their zeros these are differences of values near 1.
        let cancels = matches!(f, UnaryFn::Sin | UnaryFn::Cos | UnaryFn::GeluErf | UnaryFn::GeluErfGrad);
        if matches!(f, UnaryFn::Sin | UnaryFn::Cos) {
            x.retain(|x| !(x.abs() > 1e5 && x.is_finite()));
        }
        let n = x.len();
        let case =
            Case::of(f.name(), op(Ex::input(0).unary(f).finish(), &[n], &[DType::F32]), vec![(Ty::new(DType::F32, [n]), x)]);
        let bit_wise = matches!(
            f,
            UnaryFn::Neg
                | UnaryFn::Abs
                | UnaryFn::Floor
                | UnaryFn::Sign
                | UnaryFn::Relu
                | UnaryFn::ReluGrad
                | UnaryFn::IsFinite
        );
        if bit_wise {
            case.check(&*cpu, &*gpu, EXACT);
        } else {
            case.check(&*cpu, &*gpu, &bounds(&case, cancels));
        }
    }
}

#[test]
fn functions_of_two_values() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let all = sample();
    for f in BinaryFn::ALL {
        // Each special value against each, then numbers against numbers.
        let pairs = all[..26].iter().flat_map(|&a| all[..26].iter().map(move |&b| (a, b)));
        let pairs = pairs.chain(all.iter().copied().zip(all.iter().rev().copied())).chain(all.iter().map(|&a| (a, a)));
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.filter(|&(a, b)| f != BinaryFn::Div || (a / b).abs() < 1e38).unzip();
        let (n, ty) = (a.len(), Ty::new(DType::F32, [a.len()]));
        let case = Case::of(
            f.name(),
            op(Ex::input(0).binary(f, Ex::input(1)).finish(), &[n], &[DType::F32]),
            vec![(ty.clone(), a), (ty, b)],
        );
        match f {
            BinaryFn::Max | BinaryFn::Min | BinaryFn::Lt | BinaryFn::Le | BinaryFn::Eq => case.check(&*cpu, &*gpu, EXACT),
            BinaryFn::Add | BinaryFn::Sub | BinaryFn::Mul | BinaryFn::Div | BinaryFn::Pow => {
                case.check(&*cpu, &*gpu, &bounds(&case, false));
            }
        }
    }
}

#[test]
fn a_choice_does_not_leak_the_other_side() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let ty = Ty::new(DType::F32, [7]);
    let cond = vec![0.0, -0.0, 1.0, f32::NAN, 1e-40, f32::NEG_INFINITY, 0.0];
    let (a, b) = (vec![f32::NAN, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![-1.0, -2.0, f32::NAN, -4.0, f32::INFINITY, -6.0, -0.0]);
    let inputs = vec![(ty.clone(), cond), (ty.clone(), a), (ty, b)];
    Case::of("select", op(Ex::input(0).select(Ex::input(1), Ex::input(2)).finish(), &[7], &[DType::F32]), inputs)
        .check(&*cpu, &*gpu, EXACT);
}

#[test]
fn constants_of_every_kind() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for c in [0.0, -0.0, 0.1, 1e-40, f32::MAX, f32::NEG_INFINITY, f32::NAN] {
        for to in FLOATS {
            let x = vec![(Ty::new(DType::F32, [1]), vec![1.0])];
            let mut expr = Ex::constant(c).finish();
            expr.push(Node::Input(0));
            Case::of(format!("{c} as {to}"), op(expr, &[7], &[to]), x).check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn broadcasting() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let cases: [(&[usize], &[usize], &[usize]); 8] = [
        (&[3, 65], &[65], &[3, 65]),
        (&[65, 3], &[65, 1], &[65, 3]),
        (&[7, 1, 5], &[1, 6, 1], &[7, 6, 5]),
        (&[3, 1, 5, 1], &[2, 1, 7], &[3, 2, 5, 7]),
        (&[], &[257], &[257]),
        (&[1], &[], &[1]),
        (&[2, 3, 1, 5], &[2, 1, 4, 1], &[2, 3, 4, 5]),
        (&[1, 257, 1], &[33, 1, 8], &[33, 257, 8]),
    ];
    for (a, b, shape) in cases {
        for (k, &dtype) in FLOATS.iter().enumerate() {
            let (ta, tb) = (Ty::new(dtype, a.to_vec()), Ty::new(FLOATS[(k + 2) % 5], b.to_vec()));
            let (xa, xb) = (normal(ta.shape.numel(), 1.0, 1), normal(tb.shape.numel(), 1.0, 2));
            let op = op(Ex::input(0).binary(BinaryFn::Sub, Ex::input(1)).finish(), shape, &[FLOATS[(k + 1) % 5]]);
            Case::of(format!("{ta} - {tb}"), op, vec![(ta, xa), (tb, xb)]).check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn random_numbers_are_those_of_the_cpu() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let rng = || (Ty::new(DType::U32, [2]), [0xdead_beefu32, 77].iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>());
    for n in [1, 2, 7, 257, 4097] {
        Case::of_bytes("uniform", op(Ex::node(Node::Uniform { rng: 0, stream: 5 }).finish(), &[n], &[DType::F32]), vec![rng()])
            .check(&*cpu, &*gpu, EXACT);
        for dtype in FLOATS {
            let x = bytes_of(&Ty::new(dtype, [n]), &normal(n, 1.0, 3));
            let op = op(Ex::input(0).dropout(0.3, 1, 9).finish(), &[n], &[dtype]);
            Case::of_bytes(format!("dropout {dtype} {n}"), op, vec![(Ty::new(dtype, [n]), x), rng()])
                .check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn an_output_may_overwrite_an_input() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for dtype in FLOATS {
        for n in [1, 7, 257] {
            let ty = Ty::new(dtype, [n]);
            let inputs = || vec![(ty.clone(), normal(n, 1.0, 1)), (Ty::new(DType::F16, [n]), normal(n, 1.0, 2))];
            let add = op(Ex::input(0).binary(BinaryFn::Add, Ex::input(1)).finish(), &[n], &[dtype]);
            Case::of(format!("{dtype} += f16, {n}"), add, inputs()).over(0, 0).check(&*cpu, &*gpu, EXACT);
            // Both inputs overwritten, each by a function of both, in words of two widths.
            let mut both = Ex::input(0).binary(BinaryFn::Add, Ex::input(1)).finish();
            both.outputs.push(both.nodes.len() as NodeId);
            both.nodes.push(Node::Binary(BinaryFn::Sub, 0, 1));
            let both = op(both, &[n], &[dtype, DType::F16]);
            Case::of(format!("{dtype} and f16, {n}"), both, inputs()).over(0, 0).over(1, 1).check(&*cpu, &*gpu, EXACT);
        }
    }
}

/// A dispatch may not bind a buffer for reading and, elsewhere in it, for writing.
#[test]
fn an_output_may_lie_beside_an_input() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for device in [cpu, gpu] {
        let g = Graph::new("list", false);
        let [a, b, c] =
            ["a", "b", "c"].map(|name| g.state(name, Ty::new(DType::F32, [7]), Role::Telemetry, Init::Fill(0.5)).id());
        // Operands of a list operation share a buffer.
        g.push_into(Op::Zero, &[a, b], &[Some(a), Some(b)]);
        let add = op((Ex::input(0) + Ex::input(1)).finish(), &[7], &[DType::F32]);
        g.push_into(add.clone(), &[b, c], &[Some(a)]);
        g.push_into(add, &[a, c], &[Some(b)]);
        let mut m = Machine::new(&*device, g.finish().expect("valid")).expect("compiles");
        m.step(&[]).expect("runs");
        assert_eq!([m.f32s("a").expect("reads"), m.f32s("b").expect("reads")], [vec![0.5; 7], vec![1.0; 7]]);
    }
}

/// A random expression over three inputs whose arithmetic is exact on multiples of 1/4, so that a contraction of
/// `a * b + c` changes nothing.
fn random_expr(rng: &mut Rng) -> MapExpr {
    const UNARY: [UnaryFn; 6] =
        [UnaryFn::Neg, UnaryFn::Abs, UnaryFn::Relu, UnaryFn::Floor, UnaryFn::ReluGrad, UnaryFn::IsFinite];
    const BINARY: [BinaryFn; 7] =
        [BinaryFn::Add, BinaryFn::Sub, BinaryFn::Max, BinaryFn::Min, BinaryFn::Lt, BinaryFn::Le, BinaryFn::Eq];
    let factor = Node::Const(0.5f32.to_bits());
    let mut nodes = vec![Node::Input(0), Node::Input(1), Node::Input(2), factor, Node::Const(f32::NAN.to_bits())];
    for _ in 0..12 {
        let n = nodes.len() as u64;
        let any = |rng: &mut Rng| rng.below(n) as NodeId;
        let node = match rng.below(6) {
            0 => Node::Unary(UNARY[rng.below(6) as usize], any(rng)),
            1 | 2 => Node::Binary(BINARY[rng.below(7) as usize], any(rng), any(rng)),
            3 => Node::Round(FLOATS[rng.below(5) as usize], any(rng)),
            4 => Node::Binary(BinaryFn::Mul, any(rng), 3),
            _ => Node::Select([any(rng), any(rng), any(rng)]),
        };
        nodes.push(node);
    }
    let last = nodes.len() as NodeId;
    MapExpr { nodes, outputs: (last - 1 - rng.below(3) as NodeId..last).rev().collect() }
}

#[test]
fn random_expressions() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let mut rng = Rng::new(3, 1);
    let shapes: [&[usize]; 5] = [&[5, 13], &[13], &[5, 1], &[1], &[5, 13]];
    for round in 0..60 {
        let expr = random_expr(&mut rng);
        let out: Vec<DType> = expr.outputs.iter().map(|_| FLOATS[rng.below(5) as usize]).collect();
        let inputs: Vec<(Ty, Vec<f32>)> = (0..3)
            .map(|_| {
                let ty = Ty::new(FLOATS[rng.below(5) as usize], shapes[rng.below(5) as usize].to_vec());
                let values = (0..ty.shape.numel()).map(|_| rng.below(33) as f32 / 4.0 - 4.0).collect();
                (ty, values)
            })
            .collect();
        // NaN results of an addition have the payload of the processor: by class, not by bits.
        let bound = [Bound::Absolute(vec![0.0])];
        Case::of(format!("{round}: {expr}"), op(expr, &[5, 13], &out), inputs).check(&*cpu, &*gpu, &bound);
    }
}
