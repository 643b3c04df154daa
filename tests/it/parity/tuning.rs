//! Matmul kernels measured on the device: any operands, what is kept, and kernels that fail.

use super::matmul::{FLOATS, LAYOUTS, Product};
use mantissa_backend_wgpu::{AdapterChoice, LowerLimits, MatmulChoice, MatmulKernel, Options, Tuning, WgpuBackend};
use mantissa_core::DType;
use mantissa_core::backend::Backend;
use mantissa_core::op::scale::OperandScale;
use mantissa_tests::devices;
use mantissa_tests::parity::Bound;
use std::path::PathBuf;

/// The usual adapter, measuring.
fn tuned(folder: Option<PathBuf>, limits: LowerLimits) -> WgpuBackend {
    let matmul = MatmulChoice::Tuned { when: Tuning::Always, folder };
    let options = Options { matmul, limits, ..Options::default() };
    WgpuBackend::open_with_blocking(&AdapterChoice::Best, options).expect("the adapter opens once more")
}

/// Operands whose bytes are no whole number of vectors, of any number of elements.
fn operands() -> Vec<Product> {
    const ODD: [usize; 3] = [5, 3, 7];
    let of = |layout, dtype, sizes| Product::new(layout, dtype, DType::F32, sizes);
    let every_dtype = FLOATS.into_iter().map(|dtype| of((false, true), dtype, ODD));
    let every_layout = LAYOUTS.into_iter().flat_map(|layout| [DType::F32, DType::E4m3].map(|dtype| of(layout, dtype, ODD)));
    let sizes = [[1, 1, 1], [1, 10, 1], [33, 17, 65], [0, 4, 4], [4, 0, 4], [4, 4, 0]];
    let every_size = sizes.into_iter().map(|sizes| of((false, true), DType::F32, sizes));
    let scaled = [DType::E4m3, DType::E5m2].into_iter().map(|dtype| {
        // As fp8 recipes have them: a scale of four bytes for each operand.
        let mut product = Product::new((false, true), dtype, DType::Bf16, [32, 16, 48]);
        product.op.scales = [OperandScale::Tensor; 2];
        product.op.bias = true;
        product
    });
    every_dtype.chain(every_layout).chain(every_size).chain(scaled).collect()
}

#[test]
fn matmuls_of_any_operands_can_be_measured() {
    if devices::wgpu().is_none() {
        return;
    }
    let device = tuned(None, LowerLimits::default());
    for product in operands() {
        product.check_on(&device);
    }
    assert_eq!(device.warnings(), Vec::<String>::new());
    assert!(device.tuned().len() > FLOATS.len() + LAYOUTS.len(), "{:?}", device.tuned());
}

#[test]
fn a_kernel_that_cannot_be_measured_is_reported_and_another_taken() {
    let Some(usual) = devices::wgpu_backend() else { return };
    if !usual.profile().matmul.contains(&MatmulKernel::Panels) {
        return;
    }
    // The operands fit; b laid out in panels, 64 lines of 512 f32, does not.
    let device = tuned(None, LowerLimits { buffer_bytes: Some(1 << 16), ..LowerLimits::default() });
    let product = Product::new((false, true), DType::F32, DType::F32, [16, 16, 512]);
    product.check_on(&device);
    product.check_on(&device);
    let warnings = device.warnings();
    assert!(
        matches!(&warnings[..], [one] if one.contains("matmul by panels") && one.contains("another kernel")),
        "{warnings:?}"
    );
    assert!(
        matches!(&device.tuned()[..], [(_, kernel)] if *kernel != MatmulKernel::Panels.to_string()),
        "{:?}",
        device.tuned()
    );
}

#[test]
fn what_was_measured_is_remembered() {
    if devices::wgpu().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder for the test");
    let open = || tuned(Some(folder.path().into()), LowerLimits::default());
    let case = Product::new((false, true), DType::F32, DType::F32, [128, 128, 128]).case();
    let first = open();
    case.check(&*devices::cpu(), &first, &[Bound::Absolute(vec![1e-3])]);
    let chosen = first.tuned();
    let kernels: Vec<String> = first.profile().matmul.iter().map(ToString::to_string).collect();
    assert!(chosen.len() == 1 && kernels.contains(&chosen[0].1), "{chosen:?}");
    let files = || std::fs::read_dir(folder.path()).expect("readable").map(|f| f.expect("a file").path()).collect::<Vec<_>>();
    assert_eq!(files().len(), 1, "one file, under its final name");
    // A choice that no measurement makes, to see that it is read and not measured again.
    let kept = std::fs::read_to_string(&files()[0]).expect("readable");
    let other = kernels.iter().find(|k| **k != chosen[0].1).expect("every adapter has two kernels");
    std::fs::write(&files()[0], kept.replace(&chosen[0].1, other)).expect("writable");
    let second = open();
    case.check(&*devices::cpu(), &second, &[Bound::Absolute(vec![1e-3])]);
    assert_eq!(second.tuned(), [(chosen[0].0.clone(), other.clone())]);
    std::fs::write(&files()[0], "{").expect("writable");
    let third = open();
    case.check(&*devices::cpu(), &third, &[Bound::Absolute(vec![1e-3])]);
    assert_eq!(third.tuned().len(), 1, "a damaged file is no file");
}
