//! Advice on the sizes of matmuls: tensor cores read operands in pieces of 16 bytes, work best on rows of 128 bytes,
//! and give the result in tiles of 128. Source: NVIDIA, Matrix Multiplication Background User's Guide; shape rules of
//! fp8 in `precision/fp8.rs`.

use super::price;
use crate::dtype::DType;
use crate::op::Op;
use crate::op::scale::{MX_BLOCK, OperandScale};
use crate::program::Program;
use std::collections::{BTreeMap, HashSet};

/// Bytes that a row must be a multiple of for tensor cores to read it without padding.
const ROW_BYTES: usize = 16;
/// Bytes of a row that use the memory system fully.
const GOOD_ROW_BYTES: usize = 128;
/// Rows and columns of a tile of the result.
const TILE: usize = 128;

/// What one size of a matmul should be a multiple of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Steps {
    must: usize,
    good: usize,
}

fn steps(dtype: DType, mx: bool) -> Steps {
    let width = dtype.size_bytes();
    let must = if mx { MX_BLOCK } else { ROW_BYTES / width };
    Steps { must, good: GOOD_ROW_BYTES / width }
}

/// Matmuls that have a size in common.
#[derive(Default)]
struct Products {
    first: String,
    all: HashSet<String>,
}

/// One line for each size that is not the multiple it should be, naming the matmuls it appears in; and the fp8 layers
/// that fell back.
pub(super) fn advice(program: &Program) -> Vec<String> {
    // (size, step, whether it is a must) -> matmuls.
    let mut found: BTreeMap<(std::cmp::Reverse<bool>, usize, usize), Products> = BTreeMap::new();
    for instr in &program.instrs {
        let Op::MatMul(m) = &instr.op else { continue };
        let Ok(d) = m.dims(program.ty(instr.inputs[0]), program.ty(instr.inputs[1])) else { continue };
        let mx = m.scales.iter().any(|s| matches!(s, OperandScale::Blocks(_)));
        let dtype = price::compute_dtype(program, instr);
        let steps = steps(dtype, mx);
        let scope = program.scope(instr.scope);
        let mut note = |size: usize, step: usize, must: bool| {
            let what = format!("{scope} ({}x{}x{} {dtype})", d.m, d.n, d.k);
            let products = found.entry((std::cmp::Reverse(must), size, step)).or_default();
            if products.all.is_empty() {
                products.first.clone_from(&what);
            }
            products.all.insert(what);
        };
        let mut sizes = vec![d.m, d.n, d.k];
        sizes.dedup();
        for size in sizes {
            if !size.is_multiple_of(steps.must) {
                note(size, steps.must, true);
            } else if size > steps.good && !size.is_multiple_of(steps.good) {
                note(size, steps.good, false);
            }
        }
        for size in [d.m, d.n] {
            if size > TILE && size.is_multiple_of(steps.good) && !size.is_multiple_of(TILE) {
                note(size, TILE, false);
            }
        }
    }
    // Layers that an override or the model keeps out of fp8 need no advice.
    let sizes = program.fp8_left_out.iter().filter(|left| left.why.contains("is not a multiple of"));
    let mut lines: Vec<String> = sizes.map(|left| format!("{}: fp8: {}", left.scope, left.why)).collect();
    lines.extend(found.into_iter().map(|((must, size, step), Products { first, all })| {
        let padded = size.next_multiple_of(step);
        let verb = if must.0 { "tensor cores need" } else { "is faster with" };
        let others = match all.len() {
            1 => String::new(),
            n => format!(" and {} more matmuls", n - 1),
        };
        match must.0 {
            true => format!("size {size}: {verb} a multiple of {step}, such as {padded}: {first}{others}"),
            false => format!("size {size} {verb} a multiple of {step}, such as {padded}: {first}{others}"),
        }
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::recipe::{Recipe, RecipeName};
    use crate::precision::{Region, fp8};
    use crate::program::{Init, Rate};
    use crate::shape::Ty;
    use crate::trace::Graph;

    fn product(region: Region, [m, n, k]: [usize; 3]) -> Program {
        let g = Graph::new("product", false);
        let x = g.input("x", Ty::new(DType::F32, [m, k]), Rate::Step);
        let fp8 = region.fp8;
        g.autocast(region, || {
            let _scope = g.scope("net.fc");
            let w = g.param("weight", [n, k], Init::Fill(0.0));
            g.output("y", x.linear(w, None));
        });
        if let Some(config) = &fp8 {
            fp8::finish(&g, config);
        }
        g.finish().unwrap()
    }

    #[test]
    fn round_sizes_need_no_advice() {
        for name in RecipeName::ALL {
            let program = product(Recipe::new(name).region(), [256, 512, 1024]);
            assert_eq!(advice(&program), Vec::<String>::new(), "{name}");
        }
    }

    #[test]
    fn bad_sizes_are_named_with_the_multiple_of_their_dtype() {
        let lines = advice(&product(Region::low(DType::Bf16), [256, 50257, 768]));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("size 50257: tensor cores need a multiple of 8, such as 50264"), "{lines:?}");
        assert!(lines[0].contains("net.fc (256x50257x768 bf16)"), "{lines:?}");
        let lines = advice(&product(Region::low(DType::Bf16), [256, 200, 768]));
        assert!(lines[0].contains("size 200 is faster with a multiple of 64, such as 256"), "{lines:?}");
        let lines = advice(&product(Region::low(DType::Bf16), [256, 320, 768]));
        assert!(lines[0].contains("size 320 is faster with a multiple of 128, such as 384"), "{lines:?}");
    }

    #[test]
    fn fp8_layers_that_fall_back_say_why() {
        let lines = advice(&product(Recipe::new(RecipeName::Fp8Current).region(), [256, 128, 136]));
        assert!(lines[0].starts_with("net.fc: fp8: in_features 136 is not a multiple of 16"), "{lines:?}");
        let lines = advice(&product(Recipe::new(RecipeName::Mxfp8).region(), [256, 128, 48]));
        assert!(lines[0].contains("in_features 48 is not a multiple of 32"), "{lines:?}");
    }
}
