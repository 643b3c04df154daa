//! Matmuls in every layout and operand format: operations a second (items), on all threads.
//!
//! `cargo bench -p mantissa-tests --bench matmul`

use divan::Bencher;
use divan::counter::ItemsCount;
use mantissa_core::DType;
use mantissa_core::op::matmul::MatMul;
use mantissa_core::op::scale::{BlockAxis, OperandScale, scale_type};
use mantissa_core::shape::Ty;
use mantissa_tests::operands::alone;

fn main() {
    divan::main();
}

/// Operands of a matmul.
#[derive(Clone, Copy, Debug)]
enum Format {
    Plain(DType),
    Fp8,
    Mx,
}

#[derive(Clone, Copy)]
struct Case {
    layout: &'static str,
    format: Format,
    /// Rows, columns, contraction.
    sizes: [usize; 3],
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let format = match self.format {
            Format::Plain(dtype) => dtype.name(),
            Format::Fp8 => "e4m3",
            Format::Mx => "mx",
        };
        let [m, n, k] = self.sizes;
        write!(f, "{} {format} {m}x{n}x{k}", self.layout)
    }
}

fn cases() -> impl Iterator<Item = Case> {
    // A square, and the first layer of a block of gpt-tiny.
    let sizes = [[1024, 1024, 1024], [2048, 384, 128]];
    let formats = [Format::Plain(DType::F32), Format::Plain(DType::Bf16), Format::Fp8, Format::Mx];
    let layouts = ["nn", "nt", "tn"];
    sizes.into_iter().flat_map(move |sizes| {
        formats.into_iter().flat_map(move |format| layouts.into_iter().map(move |layout| Case { layout, format, sizes }))
    })
}

#[divan::bench(args = cases())]
fn matmul(bencher: Bencher<'_, '_>, case: &Case) {
    let [m, n, k] = case.sizes;
    let (trans_a, trans_b) = (case.layout == "tn", case.layout == "nt");
    let dtype = if let Format::Plain(dtype) = case.format { dtype } else { DType::E4m3 };
    let a = Ty::new(dtype, if trans_a { [k, m] } else { [m, k] });
    let b = Ty::new(dtype, if trans_b { [n, k] } else { [k, n] });
    let along =
        |last: bool| if last { OperandScale::Blocks(BlockAxis::Last) } else { OperandScale::Blocks(BlockAxis::SecondLast) };
    let scales = match case.format {
        Format::Plain(_) => [OperandScale::None; 2],
        Format::Fp8 => [OperandScale::Tensor; 2],
        // Along the contraction.
        Format::Mx => [along(!trans_a), along(trans_b)],
    };
    let mut types = vec![a.clone(), b.clone()];
    if scales[0] != OperandScale::None {
        types.extend([scale_type(scales[0], &a), scale_type(scales[1], &b)]);
    }
    let op = MatMul { scales, ..MatMul::new(trans_a, trans_b, DType::F32) };
    let mut product = alone(op.op(), &types, types.len(), 1);
    bencher.counter(ItemsCount::new(2 * m * n * k)).bench_local(|| product.step(&[]).expect("it runs"));
}
