//! Launches of elementwise expressions.

use super::axes;
use super::builder::{Arg, Frame, Launch};
use super::kernel::Kernel;
use mantissa_core::DType;
use mantissa_core::error::{Error, Result};
use mantissa_core::op::expr::{Map, rng_input};
use mantissa_core::shape::Ty;
use mantissa_shaders::map::{self, Access, Input, Operand};

/// An elementwise expression in one launch.
pub(super) fn map(m: &Map, f: &mut Frame<'_>) -> Result<()> {
    let n = m.shape.numel();
    if n == 0 {
        return Ok(());
    }
    let inputs: Vec<Input> = f.tx().iter().enumerate().map(|(i, t)| input(m, f, i, t)).collect();
    let outputs: Vec<DType> = f.ty().iter().map(|t| t.dtype).collect();
    let kernel = map::generate(&m.expr, &inputs, &outputs, n);
    if kernel.args.len() > f.limits.max_storage_buffers {
        let most = format!("at most {} operands in memory of their own", f.limits.max_storage_buffers);
        return Err(Error::operand("map", most, kernel.args.len().to_string()));
    }
    let arg = |operand: Operand| match operand {
        Operand::Input(i) => f.x(i),
        Operand::Output(i) => f.y(i),
    };
    let args: Vec<(u32, Arg)> = kernel.args.iter().map(|&(number, operand)| (number, arg(operand))).collect();
    f.push(Launch {
        kernel: Kernel {
            label: format!("map {}", m.expr),
            text: kernel.text,
            entry: "map",
            bindings: kernel.bindings,
            needs: &[],
        },
        uniform: kernel.uniform.iter().flat_map(|w| w.to_le_bytes()).collect(),
        args,
        tables: Vec::new(),
        groups: n.div_ceil(map::GROUP),
    });
    Ok(())
}

/// How input `i` of type `t` is read.
fn input(m: &Map, f: &Frame<'_>, i: usize, t: &Ty) -> Input {
    let outputs = 0..f.ty().len();
    let random = m.expr.nodes.iter().any(|node| rng_input(node) == Some(i as u16));
    let access = match outputs.clone().find(|&k| f.y(k) == f.x(i)) {
        Some(k) => Access::InPlace(k),
        None if random => Access::Random,
        None => Access::Axes(axes::collapse(&m.shape, &t.shape.broadcast_strides(&m.shape))),
    };
    let beside_output = outputs.into_iter().any(|k| f.y_place(k).buffer == f.x_place(i).buffer);
    Input { dtype: t.dtype, access, beside_output }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::instruction;
    use crate::launch::{AttentionKernel, LaunchLimits, MatmulKernel};
    use mantissa_core::op::expr::Ex;
    use mantissa_core::program::memory::Place;
    use mantissa_core::program::operands::Operands;

    #[test]
    fn more_operands_than_the_device_binds_are_an_error() {
        let types = vec![Ty::new(DType::F32, [4]); 8];
        let sum = (1..8).fold(Ex::input(0), |sum, i| sum + Ex::input(i));
        let op = Map::new(sum, &types, DType::F32).expect("fits").op();
        let operands = Operands {
            places: (0..9).map(|buffer| Place { buffer, offset: 0, size: 16 }).collect(),
            strides: vec![0; 9],
            inputs: (0..8).map(|i| (i, DType::F32)).collect(),
            outputs: vec![(8, DType::F32)],
            input_types: types,
            output_types: vec![Ty::new(DType::F32, [4])],
        };
        let of = |max_storage_buffers| {
            let (matmul, attention) = (MatmulKernel::Registers, AttentionKernel::Workgroups);
            let limits = LaunchLimits { max_storage_buffers, matmul, attention };
            instruction(&op, &mut Frame::new(&operands, limits, 0))
        };
        assert!(of(9).is_ok());
        let e = of(8).expect_err("nine operands");
        assert!(e.to_string().contains("at most 8 operands") && e.to_string().contains('9'), "{e}");
    }
}
