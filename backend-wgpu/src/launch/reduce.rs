//! Launches of reductions over any axes.

use super::builder::{Arg, Builder, Frame, kernel};
use mantissa_core::DType;
use mantissa_core::error::{Error, Result};
use mantissa_core::op::reduce::{Reduce, ReduceKind};

/// Axes of one fate that a kernel takes.
const MAX_AXES: usize = 4;

/// Elements of a vec8, which `reduce_vec8` reads at a time.
const VEC8: usize = 8;

/// Points that one invocation adds up before a reduction with few outputs is split.
const LONG: usize = 128;

/// Invocations of a workgroup.
const WG_SIZE: usize = 256;

/// Workgroups that keep a device busy.
const BUSY: usize = 64;

/// One launch, or two where few outputs have many points each.
pub(super) fn reduce(o: &Reduce, f: &mut Frame<'_>) -> Result<()> {
    let x = &f.tx()[0];
    let count = o.axes.iter().map(|&a| x.shape[a]).product();
    let divisor = if o.kind == ReduceKind::Mean { count } else { 1 };
    let round = o.round.unwrap_or(DType::F32);
    let plan = Plan::new(&x.shape, &o.axes)?;
    let outputs_at_once = plan.outputs_at_once();
    let groups = plan.outputs.div_ceil(outputs_at_once);
    let most = plan.points.div_ceil(LONG * WG_SIZE / outputs_at_once);
    let parts = most.min(BUSY.div_ceil(groups.max(1))).max(1);
    if parts == 1 {
        let launch = plan.launch(o.kind, x.dtype, o.out, 1, divisor).dtype("ROUND", round);
        f.push(launch.bind("x", f.x(0)).bind("y", f.y(0)).done()?);
        return Ok(());
    }
    let partial: Arg = f.scratch(plan.outputs * parts * size_of::<f32>());
    f.push(plan.launch(o.kind, x.dtype, DType::F32, parts, 1).bind("x", f.x(0)).bind("y", partial).done()?);
    let joined = if o.kind == ReduceKind::Max { ReduceKind::Max } else { ReduceKind::Sum };
    let last = Plan::new(&[plan.outputs, parts], &[1])?;
    let launch = last.launch(joined, DType::F32, o.out, 1, divisor).dtype("ROUND", round);
    f.push(launch.bind("x", partial).bind("y", f.y(0)).done()?);
    Ok(())
}

/// Length and stride in `x` of merged axes, innermost first.
type Axes = Vec<(usize, usize)>;

/// A reduction after merging axes.
struct Plan {
    kept: Axes,
    reduced: Axes,
    outputs: usize,
    points: usize,
}

impl Plan {
    fn new(shape: &[usize], axes: &[usize]) -> Result<Plan> {
        let (mut kept, mut reduced) = (Axes::new(), Axes::new());
        let (mut stride, mut last) = (1, None);
        for (i, &len) in shape.iter().enumerate().rev().filter(|(_, len)| **len != 1) {
            let fate = axes.contains(&i);
            let list = if fate { &mut reduced } else { &mut kept };
            match list.last_mut() {
                Some((merged, _)) if last == Some(fate) => *merged *= len,
                Some(_) | None => list.push((len, stride)),
            }
            last = Some(fate);
            stride *= len;
        }
        if kept.len().max(reduced.len()) > MAX_AXES {
            return Err(Error::operand("reduce", format!("at most {MAX_AXES} runs of reduced axes"), format!("{shape:?}")));
        }
        let count = |list: &Axes| list.iter().map(|(len, _)| len).product();
        Ok(Plan { outputs: count(&kept), points: count(&reduced), kept, reduced })
    }

    /// Sums over the rows of a matrix whose rows are whole vec8s.
    fn by_vec8(&self) -> bool {
        let whole = |list: &Axes, stride_one: bool| match list[..] {
            [(len, stride)] if stride_one => stride == 1 && len.is_multiple_of(VEC8),
            [(_, stride)] => stride.is_multiple_of(VEC8),
            _ => false,
        };
        whole(&self.kept, true) && whole(&self.reduced, false)
    }

    /// Outputs of a workgroup: the shorter the reduction, the more.
    fn outputs_at_once(&self) -> usize {
        if self.by_vec8() {
            return 2 * VEC8;
        }
        match (self.outputs, self.points) {
            (1, _) => 1,
            (_, points) if points < WG_SIZE => 32,
            _ => 8,
        }
    }

    fn launch(&self, kind: ReduceKind, x: DType, y: DType, parts: usize, divisor: usize) -> Builder {
        let code = match kind {
            ReduceKind::Sum | ReduceKind::Mean => 0,
            ReduceKind::Max => 1,
            ReduceKind::SumSq => 2,
        };
        let stride = |list: &Axes| list.first().map_or(usize::MAX, |(_, stride)| *stride);
        let (outputs, columns) = (self.outputs_at_once(), stride(&self.kept) < stride(&self.reduced));
        let mut launch = kernel("reduce", if self.by_vec8() { "reduce_vec8" } else { "reduce" })
            .dtype("X", x)
            .dtype("Y", y)
            .set("KIND", code);
        launch = launch.set("OUTPUTS", outputs as u32).set("COLUMNS", u32::from(columns));
        launch = launch.set("FLAT", u32::from(self.reduced.len() <= 1));
        for (name, list) in [("kept", &self.kept), ("reduced", &self.reduced)] {
            for k in 0..MAX_AXES {
                let (len, stride) = list.get(k).copied().unwrap_or((1, 0));
                // The innermost axis is the last component.
                let i = MAX_AXES - 1 - k;
                launch = launch.uniform(format!("{name}[{i}]"), len).uniform(format!("{name}_stride[{i}]"), stride);
            }
        }
        launch = launch.uniform("outputs", self.outputs).uniform("points", self.points).uniform("count", divisor);
        launch = launch.uniform("part", self.points.div_ceil(parts).max(1)).uniform("parts", parts);
        launch.groups(self.outputs.div_ceil(outputs) * parts)
    }
}
