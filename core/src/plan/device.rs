//! The one table of GPUs: dense peak rates, memory bandwidth, memory, and where each number is published.
//!
//! Datasheets since Ampere quote rates with 2:4 sparsity; those are halved here and say so. A rate a GPU does not have
//! is absent, and [`Device::resolve`] says what its work falls back to. Bandwidth and memory are decimal, as printed.
//!
//! How the figures were checked: each against one to three independent transcriptions of the document named beside it,
//! and the rates of H100 against units times clock (528 tensor cores of 1024 FLOP a cycle at 1.83 GHz are 989 TFLOP/s).
//! GeForce cards run f16 and fp8 with f32 accumulation at half of the rate that is advertised, which the second edition
//! of the Ada whitepaper states. B200 is sold in more than one power and memory configuration: the table has the HGX
//! board of 180 GB and 7.7 TB/s, other documents list 80 TFLOP/s f32 and 8 TB/s for boards of 192 GB. One entry is an
//! assumption, since no document gives it a rate of its own: mxfp8 on B200.

use crate::dtype::DType;
use crate::error::Result;
use crate::near;
use serde::Serialize;

/// How fast matmuls run: the formats that tensor cores tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rate {
    /// f32 outside tensor cores.
    F32,
    /// tf32 tensor cores.
    Tf32,
    /// f16 operands, f32 accumulation.
    F16,
    /// bf16 operands, f32 accumulation.
    Bf16,
    /// e4m3 or e5m2 operands, one scale per tensor.
    Fp8,
    /// e4m3 or e5m2 operands, one E8M0 scale per 32 elements.
    Mxfp8,
}

impl Rate {
    /// All rates.
    pub const ALL: [Rate; 6] = [Rate::F32, Rate::Tf32, Rate::F16, Rate::Bf16, Rate::Fp8, Rate::Mxfp8];

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Rate::F32 => "f32",
            Rate::Tf32 => "tf32",
            Rate::F16 => "f16",
            Rate::Bf16 => "bf16",
            Rate::Fp8 => "fp8",
            Rate::Mxfp8 => "mxfp8",
        }
    }

    /// The rate of matmuls of this dtype, without block scales.
    pub const fn of(dtype: DType) -> Rate {
        match dtype {
            DType::F32 | DType::E8m0 | DType::U32 | DType::I32 => Rate::F32,
            DType::Tf32 => Rate::Tf32,
            DType::F16 => Rate::F16,
            DType::Bf16 => Rate::Bf16,
            DType::E4m3 | DType::E5m2 => Rate::Fp8,
        }
    }

    /// Rates that give the same products where this one is missing, best first. fp8 values are exact in bf16 and f16;
    /// E8M0 scales are not in the range of f16.
    const fn fallbacks(self) -> &'static [Rate] {
        match self {
            Rate::F32 => &[],
            Rate::Tf32 | Rate::F16 | Rate::Bf16 => &[Rate::F32],
            Rate::Fp8 => &[Rate::Bf16, Rate::F16, Rate::F32],
            Rate::Mxfp8 => &[Rate::Bf16, Rate::F32],
        }
    }
}

/// A published number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The number.
    pub value: f64,
    /// Where it is published.
    pub source: &'static str,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Device {
    /// What a user types.
    pub name: &'static str,
    /// Full name.
    pub title: &'static str,
    /// Generation.
    pub architecture: Architecture,
    /// Dense peak of each rate in TFLOP/s, in the order of [`Rate::ALL`]; absent where the hardware has none.
    pub peak_tflops: [Option<Figure>; 6],
    /// Memory bandwidth, GB/s.
    pub bandwidth_gb_s: Figure,
    /// Memory, GB.
    pub memory_gb: Figure,
}

/// Generation of a GPU: what its tensor cores can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// f16.
    Volta,
    /// bf16 and tf32.
    Ampere,
    /// fp8, on consumer and inference cards.
    Ada,
    /// fp8.
    Hopper,
    /// Block-scaled fp8.
    Blackwell,
}

impl Architecture {
    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::Volta => "Volta",
            Architecture::Ampere => "Ampere",
            Architecture::Ada => "Ada",
            Architecture::Hopper => "Hopper",
            Architecture::Blackwell => "Blackwell",
        }
    }

    /// fp8 matmuls take both operands with the contraction axis last only, so that other layouts need transposed
    /// copies. Source: cuBLAS documentation, `cublasLtMatmul`, fp8 kernels of compute capability 8.9 and 9.0;
    /// Transformer Engine `cublaslt_gemm.cu` for Blackwell.
    pub const fn fp8_needs_transposes(self) -> bool {
        match self {
            Architecture::Ada | Architecture::Hopper => true,
            Architecture::Volta | Architecture::Ampere | Architecture::Blackwell => false,
        }
    }
}

const fn figure(value: f64, source: &'static str) -> Figure {
    Figure { value, source }
}

/// A dense rate as printed.
const fn dense(tflops: f64, source: &'static str) -> Option<Figure> {
    Some(figure(tflops, source))
}

/// Half of a rate printed with sparsity.
const fn half_of(sparse_tflops: f64, source: &'static str) -> Option<Figure> {
    Some(figure(sparse_tflops / 2.0, source))
}

const V100: &str = "NVIDIA V100 Tensor Core GPU datasheet, SXM2";
const A100: &str = "NVIDIA A100 80GB Tensor Core GPU datasheet, SXM, dense";
const ADA: &str = "NVIDIA Ada GPU architecture whitepaper, appendix A, f32 accumulation, dense";
const L4: &str = "NVIDIA L4 Tensor Core GPU datasheet";
const L4_SPARSE: &str = "NVIDIA L4 Tensor Core GPU datasheet, half of the rate with sparsity";
const H100: &str = "NVIDIA H100 Tensor Core GPU datasheet, SXM";
const H100_SPARSE: &str = "NVIDIA H100 Tensor Core GPU datasheet, SXM, half of the rate with sparsity";
const H200: &str = "NVIDIA H200 Tensor Core GPU datasheet, SXM";
const H200_SPARSE: &str = "NVIDIA H200 Tensor Core GPU datasheet, SXM, half of the rate with sparsity";
const B200: &str = "NVIDIA Blackwell HGX B200 datasheet, per GPU";
const B200_SPARSE: &str = "NVIDIA Blackwell HGX B200 datasheet, per GPU, half of the rate with sparsity";
const B200_MX: &str = "assumed: the fp8 rate of the NVIDIA Blackwell HGX B200 datasheet, half of the rate with sparsity";

/// All GPUs, oldest first.
#[rustfmt::skip]
pub const DEVICES: [Device; 7] = [
    //                                                                       f32                 tf32                         f16                          bf16                         fp8                          mxfp8
    Device { name: "v100", title: "V100 SXM2 32GB",  architecture: Architecture::Volta,
        peak_tflops: [dense(15.7, V100), None,                        dense(125.0, V100),          None,                        None,                        None],
        bandwidth_gb_s: figure(900.0, V100),   memory_gb: figure(32.0, V100) },
    Device { name: "a100", title: "A100 SXM 80GB",   architecture: Architecture::Ampere,
        peak_tflops: [dense(19.5, A100), dense(156.0, A100),          dense(312.0, A100),          dense(312.0, A100),          None,                        None],
        bandwidth_gb_s: figure(2039.0, A100),  memory_gb: figure(80.0, A100) },
    Device { name: "4090", title: "GeForce RTX 4090", architecture: Architecture::Ada,
        peak_tflops: [dense(82.6, ADA),  dense(82.6, ADA),            dense(165.2, ADA),           dense(165.2, ADA),           dense(330.3, ADA),           None],
        bandwidth_gb_s: figure(1008.0, ADA),   memory_gb: figure(24.0, ADA) },
    Device { name: "l4",   title: "L4",              architecture: Architecture::Ada,
        peak_tflops: [dense(30.3, L4),   half_of(120.0, L4_SPARSE),   half_of(242.0, L4_SPARSE),   half_of(242.0, L4_SPARSE),   half_of(485.0, L4_SPARSE),   None],
        bandwidth_gb_s: figure(300.0, L4),     memory_gb: figure(24.0, L4) },
    Device { name: "h100", title: "H100 SXM 80GB",   architecture: Architecture::Hopper,
        peak_tflops: [dense(67.0, H100), half_of(989.0, H100_SPARSE), half_of(1979.0, H100_SPARSE), half_of(1979.0, H100_SPARSE), half_of(3958.0, H100_SPARSE), None],
        bandwidth_gb_s: figure(3350.0, H100),  memory_gb: figure(80.0, H100) },
    Device { name: "h200", title: "H200 SXM 141GB",  architecture: Architecture::Hopper,
        peak_tflops: [dense(67.0, H200), half_of(989.0, H200_SPARSE), half_of(1979.0, H200_SPARSE), half_of(1979.0, H200_SPARSE), half_of(3958.0, H200_SPARSE), None],
        bandwidth_gb_s: figure(4800.0, H200),  memory_gb: figure(141.0, H200) },
    Device { name: "b200", title: "B200 180GB (HGX)", architecture: Architecture::Blackwell,
        peak_tflops: [dense(75.0, B200), half_of(2200.0, B200_SPARSE), half_of(4500.0, B200_SPARSE), half_of(4500.0, B200_SPARSE), half_of(9000.0, B200_SPARSE), half_of(9000.0, B200_MX)],
        bandwidth_gb_s: figure(7700.0, B200),  memory_gb: figure(180.0, B200) },
];

/// What the work of a rate really runs at on one GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resolved {
    /// The rate used.
    pub rate: Rate,
    /// Its dense peak, FLOP/s.
    pub peak: f64,
    /// It is the rate asked for.
    pub native: bool,
}

impl Device {
    /// The GPU `name`. Fails for another name, with the names that are closest.
    pub fn find(name: &str) -> Result<&'static Device> {
        static TABLE: [Device; 7] = DEVICES;
        let wanted = name.to_ascii_lowercase();
        TABLE.iter().find(|d| d.name == wanted).ok_or_else(|| near::unknown("gpu", &TABLE.each_ref().map(|d| d.name), name))
    }

    /// Dense peak of `rate`, if the hardware has it.
    pub fn peak(&self, rate: Rate) -> Option<Figure> {
        self.peak_tflops[rate as usize]
    }

    /// The rate that work of `rate` runs at: its own, or the best one that gives the same results.
    pub fn resolve(&self, rate: Rate) -> Resolved {
        let at = |r: Rate| self.peak(r).map(|f| (r, f.value * 1e12));
        let found = std::iter::once(rate).chain(rate.fallbacks().iter().copied()).find_map(at);
        let (used, peak) = found.expect("every GPU multiplies f32, the last fallback of every rate");
        Resolved { rate: used, peak, native: used == rate }
    }

    /// Bytes per second.
    pub fn bandwidth(&self) -> f64 {
        self.bandwidth_gb_s.value * 1e9
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> u64 {
        (self.memory_gb.value * 1e9) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_consistent() {
        for d in &DEVICES {
            assert_eq!(Device::find(d.name).expect("own name"), d);
            assert!(d.peak(Rate::F32).is_some() && d.peak(Rate::F16).is_some(), "{}", d.name);
            let peaks: Vec<f64> = d.peak_tflops.iter().flatten().map(|f| f.value).collect();
            assert!(peaks.windows(2).all(|w| w[0] <= w[1]), "{}: narrower is never slower", d.name);
            assert!(d.peak_tflops.iter().flatten().all(|f| !f.source.is_empty()));
            // Capabilities by generation: CUDA programming guide, tensor core formats by compute capability.
            assert_eq!(d.peak(Rate::Bf16).is_some(), d.architecture >= Architecture::Ampere, "{}", d.name);
            assert_eq!(d.peak(Rate::Tf32).is_some(), d.architecture >= Architecture::Ampere, "{}", d.name);
            assert_eq!(d.peak(Rate::Fp8).is_some(), d.architecture >= Architecture::Ada, "{}", d.name);
            assert_eq!(d.peak(Rate::Mxfp8).is_some(), d.architecture == Architecture::Blackwell, "{}", d.name);
        }
        assert!(Device::find("H100").is_ok());
        assert!(Device::find("h300").expect_err("unknown").to_string().contains("b200"));
    }

    #[test]
    fn missing_rates_fall_back_to_what_gives_the_same_products() {
        let used = |gpu: &str, rate| {
            let r = Device::find(gpu).expect(gpu).resolve(rate);
            (r.rate, r.native)
        };
        assert_eq!(used("v100", Rate::Bf16), (Rate::F32, false));
        assert_eq!(used("v100", Rate::Fp8), (Rate::F16, false));
        assert_eq!(used("v100", Rate::Mxfp8), (Rate::F32, false));
        assert_eq!(used("a100", Rate::Fp8), (Rate::Bf16, false));
        assert_eq!(used("h100", Rate::Mxfp8), (Rate::Bf16, false));
        assert_eq!(used("h100", Rate::Fp8), (Rate::Fp8, true));
        assert_eq!(used("b200", Rate::Mxfp8), (Rate::Mxfp8, true));
    }
}
