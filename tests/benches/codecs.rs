//! Slice codecs: bytes read and written per second, on all threads and on one.
//!
//! To beat, PyTorch 2.15 CPU on two cores: f32 to bf16/f16 25 GB/s, to E4M3 11, to E5M2 18; E4M3 to f32 2.0, E5M2 to
//! f32 6.9. `cargo bench -p mantissa-tests --bench codecs`

use divan::Bencher;
use divan::counter::BytesCount;
use mantissa_core::DType;
use mantissa_core::float::slices;

const DTYPES: [DType; 4] = [DType::Bf16, DType::F16, DType::E4m3, DType::E5m2];

/// 1 MiB, 4 MiB and 64 MiB of f32.
const LENGTHS: [usize; 3] = [1 << 18, 1 << 20, 1 << 24];

fn main() {
    divan::main();
}

fn cases() -> impl Iterator<Item = Case> {
    DTYPES.into_iter().flat_map(|dtype| LENGTHS.into_iter().map(move |len| Case { dtype, len }))
}

#[derive(Clone, Copy)]
struct Case {
    dtype: DType,
    len: usize,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} MiB", self.dtype, self.len >> 18)
    }
}

impl Case {
    /// Values from the subnormals of each format to its largest, and room for their codes.
    fn operands(self) -> (Vec<f32>, Vec<u32>) {
        let x = (0..self.len).map(|i| (i as f32 * 0.37).sin() * ((i % 23) as f32 - 14.0).exp2()).collect();
        (x, vec![0; self.len])
    }

    fn bytes<'a>(&self, room: &'a mut [u32]) -> &'a mut [u8] {
        &mut bytemuck::cast_slice_mut(room)[..self.len * self.dtype.size_bytes()]
    }

    fn moved(&self) -> BytesCount {
        BytesCount::new(self.len * (size_of::<f32>() + self.dtype.size_bytes()))
    }
}

#[divan::bench(args = cases())]
fn encode_par(bencher: Bencher<'_, '_>, case: &Case) {
    let (x, mut room) = case.operands();
    let bytes = case.bytes(&mut room);
    bencher.counter(case.moved()).bench_local(|| slices::encode_par(case.dtype, case.dtype.overflow(), &x, bytes));
}

#[divan::bench(args = cases())]
fn decode_par(bencher: Bencher<'_, '_>, case: &Case) {
    let (x, mut room) = case.operands();
    let bytes = case.bytes(&mut room);
    slices::encode_par(case.dtype, case.dtype.overflow(), &x, bytes);
    let mut y = x;
    bencher.counter(case.moved()).bench_local(|| slices::decode_par(case.dtype, bytes, &mut y));
}

#[divan::bench(args = cases())]
fn encode_one_thread(bencher: Bencher<'_, '_>, case: &Case) {
    let (x, mut room) = case.operands();
    let bytes = case.bytes(&mut room);
    bencher.counter(case.moved()).bench_local(|| slices::encode(case.dtype, case.dtype.overflow(), &x, bytes));
}

#[divan::bench(args = cases())]
fn encode_scaled_one_thread(bencher: Bencher<'_, '_>, case: &Case) {
    let (x, mut room) = case.operands();
    let bytes = case.bytes(&mut room);
    let scale = std::hint::black_box(1.5);
    bencher.counter(case.moved()).bench_local(|| slices::encode_scaled(case.dtype, case.dtype.overflow(), &x, scale, bytes));
}

#[divan::bench(args = cases())]
fn decode_one_thread(bencher: Bencher<'_, '_>, case: &Case) {
    let (x, mut room) = case.operands();
    let bytes = case.bytes(&mut room);
    slices::encode(case.dtype, case.dtype.overflow(), &x, bytes);
    let mut y = x;
    bencher.counter(case.moved()).bench_local(|| slices::decode(case.dtype, bytes, &mut y));
}

#[divan::bench(args = cases())]
fn round_one_thread(bencher: Bencher<'_, '_>, case: &Case) {
    let (mut x, _) = case.operands();
    bencher.counter(BytesCount::new(case.len * 2 * size_of::<f32>())).bench_local(|| slices::round(case.dtype, &mut x));
}
