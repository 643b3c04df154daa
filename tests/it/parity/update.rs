//! What happens after the backward pass: the same bits.

use mantissa_core::DType;
use mantissa_core::op::Op;
use mantissa_core::op::update::{Record, RecordMode};
use mantissa_core::shape::Ty;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::parity::{Bound, Case};

const EXACT: &[Bound] = &[Bound::Exact];

#[test]
fn zero() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for n in [1, 63, 64, 257, 100_000] {
        let list = vec![(Ty::new(DType::F32, [n]), normal(n, 1.0, 1)), (Ty::new(DType::F32, [3]), normal(3, 1.0, 2))];
        Case::of(format!("zero {n}"), Op::Zero, list).check(&*cpu, &*gpu, EXACT);
    }
}

#[test]
fn record() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for mode in [RecordMode::Set, RecordMode::Add] {
        let op = Op::Record(Record { slot: 2, mode });
        let inputs = vec![(Ty::scalar(DType::F32), vec![1.25]), (Ty::new(DType::F32, [5]), normal(5, 1.0, 3))];
        Case::of(format!("record {mode:?}"), op, inputs).check(&*cpu, &*gpu, EXACT);
    }
}
