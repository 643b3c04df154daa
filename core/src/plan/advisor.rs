//! Which precision for which part of a model on which GPU, with reasons taken from the numbers of the device table.
//!
//! The decisions: bf16 where tensor cores multiply it (Ampere and later), f16 with loss scaling before; fp8 for large
//! linear layers of transformers on Ada and Hopper, block-scaled on Blackwell; f32 for what sums or exponentiates, for
//! master weights, and for the parts of a GAN whose gradients are penalised. Sources: PyTorch AMP operation lists;
//! Transformer Engine documentation; NVIDIA mixed-precision guide.

use super::device::{Device, Rate};
use crate::error::{Error, Result};
use crate::near;
use crate::op::Family;
use crate::precision::recipe::RecipeName;
use serde::Serialize;

/// Kind of model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelType {
    /// Linear layers and attention.
    Transformer,
    /// Convolutions.
    Vision,
    /// Two networks, two optimizers.
    Gan,
}

impl ModelType {
    /// All kinds.
    pub const ALL: [ModelType; 3] = [ModelType::Transformer, ModelType::Vision, ModelType::Gan];

    /// The token a user types.
    pub const fn name(self) -> &'static str {
        match self {
            ModelType::Transformer => "transformer",
            ModelType::Vision => "vision",
            ModelType::Gan => "gan",
        }
    }
}

impl std::str::FromStr for ModelType {
    type Err = Error;
    fn from_str(s: &str) -> Result<ModelType> {
        let known = ModelType::ALL.map(ModelType::name);
        ModelType::ALL.into_iter().find(|m| m.name() == s).ok_or_else(|| near::unknown("model type", &known, s))
    }
}

/// The decision table of one GPU and kind of model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// GPU.
    pub gpu: &'static str,
    /// Its full name.
    pub gpu_title: &'static str,
    /// Kind of model.
    pub model_type: ModelType,
    /// Recipe to start with.
    pub recipe: RecipeName,
    /// Why that one.
    pub why: String,
    /// Part by part.
    pub parts: Vec<Part>,
    /// Other recipes, and when or why not.
    pub others: Vec<Other>,
}

/// The decision for one part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// Part of the model or of the step.
    pub part: &'static str,
    /// Format.
    pub format: String,
    /// Reason.
    pub why: String,
}

/// A recipe that is not the first choice.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Other {
    /// Recipe.
    pub recipe: RecipeName,
    /// Worth trying; otherwise best left alone.
    pub worthwhile: bool,
    /// When, or why not.
    pub why: String,
}

/// What to use for `model` on `device`.
pub fn recommend(device: &Device, model: ModelType) -> Advice {
    let low = low(device);
    let fp8 = fp8(device).filter(|_| model == ModelType::Transformer);
    let (recipe, why) = match (fp8, break_even(device)) {
        (Some(name), Some(n)) => (name, fp8_why(device, name, n)),
        (Some(_), None) | (None, _) => (low, low_why(device, low)),
    };
    Advice {
        gpu: device.name,
        gpu_title: device.title,
        model_type: model,
        recipe,
        why,
        parts: parts(device, model, low, fp8),
        others: RecipeName::ALL.into_iter().filter(|r| *r != recipe).map(|r| other(device, model, r)).collect(),
    }
}

/// The 16-bit recipe: bf16 where the hardware multiplies it.
fn low(device: &Device) -> RecipeName {
    if device.peak(Rate::Bf16).is_some() { RecipeName::Bf16 } else { RecipeName::F16 }
}

fn fp8(device: &Device) -> Option<RecipeName> {
    if device.peak(Rate::Mxfp8).is_some() {
        Some(RecipeName::Mxfp8)
    } else if device.peak(Rate::Fp8).is_some() {
        Some(RecipeName::Fp8Delayed)
    } else {
        None
    }
}

/// Peak TFLOP/s of a rate as it really runs.
fn tflops(device: &Device, rate: Rate) -> f64 {
    device.resolve(rate).peak * 1e-12
}

/// How many times faster than f32 matmuls.
fn over_f32(device: &Device, rate: Rate) -> f64 {
    tflops(device, rate) / tflops(device, Rate::F32)
}

fn low_why(device: &Device, low: RecipeName) -> String {
    match low {
        RecipeName::Bf16 => format!(
            "bf16 matmuls run at {:.0} TFLOP/s, {:.1}x f32 ({:.0}); 8 exponent bits as in f32, so no loss scaling",
            tflops(device, Rate::Bf16),
            over_f32(device, Rate::Bf16),
            tflops(device, Rate::F32)
        ),
        RecipeName::F16
        | RecipeName::F32
        | RecipeName::Tf32
        | RecipeName::Fp8Delayed
        | RecipeName::Fp8Current
        | RecipeName::Mxfp8 => format!(
            "{} ({}) has no bf16 matmuls; f16 runs at {:.0} TFLOP/s, {:.1}x f32 ({:.1}), and needs a loss scaler for its 5 exponent bits",
            device.title,
            device.architecture.name(),
            tflops(device, Rate::F16),
            over_f32(device, Rate::F16),
            tflops(device, Rate::F32)
        ),
    }
}

fn fp8_why(device: &Device, name: RecipeName, n: usize) -> String {
    let rate = if name == RecipeName::Mxfp8 { Rate::Mxfp8 } else { Rate::Fp8 };
    let scales = if name == RecipeName::Mxfp8 { ", with one scale per 32 elements in hardware" } else { "" };
    format!(
        "{} matmuls run at {:.0} TFLOP/s, {:.1}x bf16 ({:.0}){scales}; modelled, casts pay from about {n} x {n} x {n}; below that take bf16",
        rate.name(),
        tflops(device, rate),
        tflops(device, rate) / tflops(device, Rate::Bf16),
        tflops(device, Rate::Bf16)
    )
}

/// Size of a cubic matmul from which fp8 saves more time than casting both operands costs, rounded up to a power of
/// two. Modelled with the efficiencies of `plan/price.rs`:
/// `2 n^3 (1/low - 1/fp8) = 2 n^2 (read 2 bytes, write 1 or 2)`.
fn break_even(device: &Device) -> Option<usize> {
    let rate = if device.peak(Rate::Mxfp8).is_some() { Rate::Mxfp8 } else { Rate::Fp8 };
    let fast = device.peak(rate)?.value * 1e12;
    let slow = device.peak(Rate::Bf16)?.value * 1e12;
    // A second copy of the codes: transposed for Ada and Hopper, along the other axis for blocks.
    let written = if device.architecture.fp8_needs_transposes() || rate == Rate::Mxfp8 { 2.0 } else { 1.0 };
    let saved_per_n3 = 2.0 * (1.0 / slow - 1.0 / fast) / Family::Product.efficiency().compute;
    let cast_per_n2 = 2.0 * (2.0 + written) / (device.bandwidth() * Family::Quantize.efficiency().bandwidth);
    (saved_per_n3 > 0.0).then(|| ((cast_per_n2 / saved_per_n3) as usize).next_power_of_two())
}

fn parts(device: &Device, model: ModelType, low: RecipeName, fp8: Option<RecipeName>) -> Vec<Part> {
    let part = |part, format: &str, why: String| Part { part, format: format.to_string(), why };
    let low = low.name();
    let mut list = match model {
        ModelType::Transformer => transformer(device, low, fp8),
        ModelType::Vision => vec![
            part("convolutions", low, "tensor cores accumulate in f32; keep channels a multiple of 8 and the last axis".into()),
            part("normalisation", "f32", "mean and variance are sums over many pixels; the input is read as it lies".into()),
            part("pooling, activations", low, "they round each value once, whatever the format".into()),
            part("classifier, loss", "f32 loss", "softmax and log need the range; the last layer itself is small".into()),
        ],
        ModelType::Gan => vec![
            part("generator", low, "matmuls as in any network".into()),
            part("discriminator", low, "matmuls as in any network; its last layer in f32".into()),
            part("last layer of the discriminator", "f32", "adversarial losses live on small differences of its scores".into()),
            part(
                "gradient penalty, spectral norm",
                "f32",
                "norms of gradients and of weights: squares overflow or vanish".into(),
            ),
            part("losses", "f32", "log and exp of scores".into()),
        ],
    };
    list.push(part("master weights, optimizer", "f32", "updates are smaller than the spacing of 16-bit weights".into()));
    list.push(match (low, model) {
        ("f16", ModelType::Gan) => part(
            "gradients",
            "f16, two scalers",
            "the networks overflow at different times: one GradScaler, found_inf and step for each optimizer".into(),
        ),
        ("f16", ModelType::Transformer | ModelType::Vision) => {
            part("gradients", "f16, loss scaler", "gradients below 6e-8 become 0 without loss scaling".into())
        }
        (_, ModelType::Gan) => part("gradients", low, "the range of f32: no scaler for either optimizer".into()),
        (_, ModelType::Transformer | ModelType::Vision) => part("gradients", low, "the range of f32: no loss scaling".into()),
    });
    list
}

fn transformer(device: &Device, low: &str, fp8: Option<RecipeName>) -> Vec<Part> {
    let part = |part, format: &str, why: String| Part { part, format: format.to_string(), why };
    let linear = match fp8 {
        Some(RecipeName::Mxfp8) => {
            part("linear layers", "mxfp8", "e4m3 with a scale per 32 elements; sizes must be multiples of 32".to_string())
        }
        Some(_) => part(
            "linear layers",
            "fp8, hybrid",
            "e4m3 forward, e5m2 for gradients; rows a multiple of 8, widths of 16".to_string(),
        ),
        None => part("linear layers", low, format!("{:.1}x the rate of f32", over_f32(device, Rate::of_name(low)))),
    };
    let head = match fp8 {
        Some(_) => "its errors reach the loss directly: no fp8",
        None => "its errors reach the loss directly: f32 (an override) if the loss is unstable",
    };
    vec![
        linear,
        part("attention", low, "scores and their softmax are kept in f32 inside the fused kernel".into()),
        part("output head", low, head.into()),
        part("embedding", "f32 table", "a lookup multiplies nothing".into()),
        part("norms, softmax, loss", "f32", "sums, exponentials and logarithms; narrow inputs are read as they lie".into()),
        part("residual stream", low, "written and read by every layer: half the memory traffic of f32".into()),
    ]
}

impl Rate {
    /// The rate of a 16-bit recipe by its name.
    fn of_name(low: &str) -> Rate {
        if low == Rate::F16.name() { Rate::F16 } else { Rate::Bf16 }
    }
}

fn other(device: &Device, model: ModelType, recipe: RecipeName) -> Other {
    let missing = |rate: Rate| device.peak(rate).is_none();
    let absent = |rate: Rate| {
        let r = device.resolve(rate);
        format!("{} has no {} matmuls; emulated at its {} rate", device.title, rate.name(), r.rate.name())
    };
    let no_fp8_kernels = "convolutions have no fp8 kernels; linear layers are too small a part";
    let (worthwhile, why) = match recipe {
        RecipeName::F32 => {
            (false, format!("the reference for a comparison; matmuls at {:.1} TFLOP/s", tflops(device, Rate::F32)))
        }
        RecipeName::Tf32 if missing(Rate::Tf32) => (false, absent(Rate::Tf32)),
        RecipeName::Tf32 => (
            over_f32(device, Rate::Tf32) > 1.0,
            format!("f32 storage and range at {:.1}x its rate: where 16 bits lose accuracy", over_f32(device, Rate::Tf32)),
        ),
        RecipeName::Bf16 if missing(Rate::Bf16) => (false, absent(Rate::Bf16)),
        RecipeName::Bf16 => (true, "the safe choice: where layers are small or fp8 loses accuracy".to_string()),
        RecipeName::F16 if missing(Rate::Bf16) => (true, "where it is not the first choice already".to_string()),
        RecipeName::F16 => {
            (false, "as fast as bf16 with 3 more mantissa bits, but it needs a loss scaler and skips steps".to_string())
        }
        RecipeName::Fp8Delayed | RecipeName::Fp8Current if missing(Rate::Fp8) => (false, absent(Rate::Fp8)),
        RecipeName::Mxfp8 if missing(Rate::Mxfp8) => (false, absent(Rate::Mxfp8)),
        RecipeName::Fp8Delayed | RecipeName::Fp8Current | RecipeName::Mxfp8 if model == ModelType::Vision => {
            (false, no_fp8_kernels.to_string())
        }
        RecipeName::Fp8Delayed | RecipeName::Fp8Current | RecipeName::Mxfp8 if model == ModelType::Gan => {
            (false, "adversarial training has no margin for 2 or 3 mantissa bits".to_string())
        }
        RecipeName::Fp8Current => (true, "a second pass for the amax, no stale scales: where amaxes jump".to_string()),
        RecipeName::Fp8Delayed => (true, "one scale per tensor from past amaxes: the fewest casts".to_string()),
        RecipeName::Mxfp8 => (true, "a scale per 32 elements: the widest range of the fp8 recipes".to_string()),
    };
    Other { recipe, worthwhile, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::device::DEVICES;

    fn advice(gpu: &str, model: ModelType) -> Advice {
        recommend(Device::find(gpu).unwrap(), model)
    }

    #[test]
    fn the_decision_table() {
        use ModelType::{Gan, Transformer, Vision};
        for (gpu, model, recipe) in [
            ("v100", Transformer, RecipeName::F16),
            ("v100", Vision, RecipeName::F16),
            ("v100", Gan, RecipeName::F16),
            ("a100", Transformer, RecipeName::Bf16),
            ("a100", Vision, RecipeName::Bf16),
            ("4090", Transformer, RecipeName::Fp8Delayed),
            ("l4", Transformer, RecipeName::Fp8Delayed),
            ("h100", Transformer, RecipeName::Fp8Delayed),
            ("h200", Vision, RecipeName::Bf16),
            ("h100", Gan, RecipeName::Bf16),
            ("b200", Transformer, RecipeName::Mxfp8),
            ("b200", Gan, RecipeName::Bf16),
        ] {
            assert_eq!(advice(gpu, model).recipe, recipe, "{gpu} {}", model.name());
        }
    }

    #[test]
    fn nothing_worthwhile_lacks_hardware_and_every_recipe_is_judged_once() {
        for device in &DEVICES {
            for model in ModelType::ALL {
                let a = recommend(device, model);
                assert_eq!(a.others.len() + 1, RecipeName::ALL.len());
                for other in a.others.iter().filter(|o| o.worthwhile) {
                    let rate = crate::plan::step::recipe_rate(&other.recipe.into());
                    assert!(device.peak(rate).is_some(), "{} {}", device.name, other.recipe);
                }
                let f32_parts: Vec<&str> = a.parts.iter().filter(|p| p.format.starts_with("f32")).map(|p| p.part).collect();
                assert!(f32_parts.contains(&"master weights, optimizer"), "{f32_parts:?}");
                assert!(a.parts.iter().all(|p| !p.why.is_empty()));
            }
        }
    }

    #[test]
    fn reasons_quote_the_table() {
        let why = advice("h100", ModelType::Transformer).why;
        assert!(why.contains("1979 TFLOP/s") && why.contains("2.0x bf16"), "{why}");
        let why = advice("v100", ModelType::Transformer).why;
        assert!(why.contains("no bf16 matmuls") && why.contains("125 TFLOP/s") && why.contains("loss scaler"), "{why}");
        let gan = advice("v100", ModelType::Gan);
        assert!(gan.parts.iter().any(|p| p.format == "f16, two scalers"));
        let a100 = advice("a100", ModelType::Transformer);
        let fp8 = a100.others.iter().find(|o| o.recipe == RecipeName::Fp8Delayed).unwrap();
        assert!(!fp8.worthwhile && fp8.why.contains("no fp8 matmuls"), "{}", fp8.why);
    }

    #[test]
    fn fp8_pays_from_the_sizes_that_libraries_name() {
        // torchao and Transformer Engine: matmuls of a few thousand a side.
        for gpu in ["h100", "h200", "b200", "4090"] {
            let n = break_even(Device::find(gpu).unwrap()).unwrap();
            assert!((256..=8192).contains(&n), "{gpu}: {n}");
        }
        assert_eq!(break_even(Device::find("a100").unwrap()), None);
        assert!("cnn".parse::<ModelType>().unwrap_err().to_string().contains("vision"));
    }
}
