//! Tests of the model of time and memory: against published anchors (orders of magnitude), bounds that hold by
//! construction, and fixes.

use super::*;
use crate::model::gpt::GptConfig;
use crate::plan::explain::tests::config;
use crate::precision::recipe::RecipeName;

fn gpu(name: &str) -> &'static Device {
    Device::find(name).unwrap()
}

/// Sizes of Llama3-8B in our architecture: width 4096, 32 layers, context 8192.
fn eight_billion(recipe: RecipeName) -> TrainConfig {
    let gpt = GptConfig { vocab: 128_256, context: 8192, width: 4096, heads: 32, layers: 32, ..GptConfig::tiny() };
    TrainConfig { model: ModelConfig::Gpt(gpt), batch: 1, ..config("gpt-tiny", recipe) }
}

/// Modelled milliseconds of linear layers alone: matmuls and the fp8 casts they need.
fn linear_ms(plan: &Plan) -> f64 {
    plan.families.iter().filter(|f| matches!(f.family, "product" | "quantize")).map(|f| f.ms).sum()
}

#[test]
fn eight_billion_parameters_on_h100_match_published_throughput() {
    let bf16 = plan(&eight_billion(RecipeName::Bf16), gpu("h100")).unwrap();
    // torchtitan and torchao, Llama3-8B on H100 with recomputation and sharding: 6,150 to 6,667 tok/s per GPU, MFU 33
    // to 41 %; without either, a modelled step is faster. NeMo in fp8 reaches 12,273.
    assert!((6_000.0..14_000.0).contains(&bf16.time.items_per_s), "{}", bf16.time.items_per_s);
    assert!((0.30..0.70).contains(&bf16.time.mfu), "{}", bf16.time.mfu);
    // End to end fp8 over bf16 at 8B: 1.10 to 1.35 published; casts and wider layers decide.
    let fp8 = plan(&eight_billion(RecipeName::Fp8Delayed), gpu("h100")).unwrap();
    let speedup = bf16.time.step_ms / fp8.time.step_ms;
    assert!((1.1..1.6).contains(&speedup), "{speedup}");
}

#[test]
fn fp8_speeds_up_linear_layers_as_published() {
    // Transformer Engine, 5B model, time of matmuls: H200 delayed 1.69x, current 1.57x; B300 MXFP8 1.44x.
    let speedup = |gpu_name: &str, recipe| {
        let of = |r| linear_ms(&plan(&eight_billion(r), gpu(gpu_name)).unwrap());
        of(RecipeName::Bf16) / of(recipe)
    };
    let delayed = speedup("h200", RecipeName::Fp8Delayed);
    let current = speedup("h200", RecipeName::Fp8Current);
    let mx = speedup("b200", RecipeName::Mxfp8);
    assert!((1.4..1.95).contains(&delayed), "{delayed}");
    assert!((1.35..1.9).contains(&current) && current < delayed, "{current}");
    assert!((1.2..1.9).contains(&mx), "{mx}");
}

#[test]
fn small_models_gain_little_from_fp8() {
    let of = |r| plan(&config("gpt2-124m", r), gpu("h100")).unwrap().time.step_ms;
    let speedup = of(RecipeName::Bf16) / of(RecipeName::Fp8Delayed);
    // 1.07x on a model of GPT-2 size on 8 H100.
    assert!((0.7..1.3).contains(&speedup), "{speedup}");
}

#[test]
fn a_step_is_never_faster_than_its_peak_and_parts_add_up() {
    for device in &super::super::device::DEVICES {
        for name in RecipeName::ALL {
            let p = plan(&config("gpt-mini", name), device).unwrap();
            assert!(p.time.mfu > 0.0 && p.time.mfu < 0.8, "{} {name}: {}", device.name, p.time.mfu);
            let families: f64 = p.families.iter().map(|f| f.ms).sum();
            let bounds = p.time.compute_ms + p.time.memory_ms + p.time.launch_ms;
            assert!((families - p.time.step_ms).abs() <= 1e-9 * p.time.step_ms);
            assert!((bounds - p.time.step_ms).abs() <= 1e-9 * p.time.step_ms);
            assert!(p.memory.fits && p.fixes.is_empty());
        }
    }
}

#[test]
fn missing_formats_are_warned_about_and_not_faster() {
    let p = |gpu_name: &str, r| plan(&config("gpt2-124m", r), gpu(gpu_name)).unwrap();
    let fp8 = p("a100", RecipeName::Fp8Current);
    assert!(fp8.warnings.iter().any(|w| w.contains("no fp8 matmuls") && w.contains("bf16 rate")), "{:?}", fp8.warnings);
    assert!(fp8.time.step_ms >= p("a100", RecipeName::Bf16).time.step_ms);
    let bf16 = p("v100", RecipeName::Bf16);
    assert!(bf16.warnings.iter().any(|w| w.contains("no bf16 matmuls") && w.contains("f32 rate")), "{:?}", bf16.warnings);
    assert!(p("h100", RecipeName::Mxfp8).warnings.iter().any(|w| w.contains("no mxfp8 matmuls")));
    for (gpu_name, r) in [("v100", RecipeName::F16), ("h100", RecipeName::Fp8Delayed), ("b200", RecipeName::Mxfp8)] {
        assert_eq!(p(gpu_name, r).warnings, Vec::<String>::new(), "{gpu_name} {r}");
    }
}

#[test]
fn what_does_not_fit_is_planned_again_until_it_does() {
    let big = TrainConfig { batch: 64, ..config("gpt2-124m", RecipeName::F32) };
    let p = plan(&big, gpu("l4")).unwrap();
    assert!(!p.memory.fits && p.memory.needed_bytes > p.memory.available_bytes);
    let fitting: Vec<&Variant> = p.fixes.iter().filter(|v| v.fits).collect();
    assert!(!fitting.is_empty(), "{:?}", p.fixes);
    for v in &p.fixes {
        assert_eq!(v.fits, v.needed_bytes <= p.memory.available_bytes, "{v:?}");
    }
    let smaller = p.fixes.iter().find(|v| v.flags.starts_with("--batch-size")).unwrap();
    let (batch, accum) = {
        let words: Vec<&str> = smaller.flags.split(' ').collect();
        (words[1].parse::<usize>().unwrap(), words[3].parse::<usize>().unwrap())
    };
    assert_eq!(batch * accum, 64, "the step keeps its size");
    // The plan of the changed config is the plan that was promised.
    let again = plan(&TrainConfig { batch, grad_accum: accum, ..big }, gpu("l4")).unwrap();
    assert_eq!((again.memory.needed_bytes, again.memory.fits), (smaller.needed_bytes, smaller.fits));
}

#[test]
fn weights_beyond_the_memory_have_no_fix() {
    let p = plan(&eight_billion(RecipeName::Bf16), gpu("h100")).unwrap();
    assert!(!p.memory.fits, "8B parameters in f32 with moments need more than 80 GB");
    assert!(!p.fixes.is_empty() && p.fixes.iter().all(|v| !v.fits), "{:?}", p.fixes);
    assert!(p.warnings.iter().any(|w| w.contains("at least 2 such GPUs")), "{:?}", p.warnings);
}
