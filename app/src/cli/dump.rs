//! `mantissa dump`: the numbers of a few training steps of a Hugging Face GPT-2, for comparison with another framework.
//!
//! Nothing is drawn: weights and tokens come from files, dropout is off. Step 0's logits, loss and gradients (after
//! unscale, before clipping), then after all steps the weights, and loss and gradient norm of every step, under Hugging
//! Face names and layouts. AdamW as in `train`: epsilon 1e-8, decay on tensors of rank 2 and more, constant learning
//! rate.

use super::DeviceArgs;
use super::number::{not_negative, whole};
use crate::checkpoint::MODEL;
use crate::checkpoint::model::{self, Positions};
use crate::checkpoint::parts::Parts;
use crate::checkpoint::tensors::{self, Source};
use crate::files::write_through;
use crate::tensor_file::{TensorFile, swap_if_big_endian};
use crate::{Outcome, out, plain_file};
use anyhow::{Result, anyhow, bail};
use clap::Args;
use mantissa_core::DType;
use mantissa_core::data::Batch;
use mantissa_core::model::ModelConfig;
use mantissa_core::model::hf::{self, HfTensor};
use mantissa_core::optim::OptimConfig;
use mantissa_core::optim::schedule::{Decay, Schedule};
use mantissa_core::precision::OnNonFinite;
use mantissa_core::precision::clip::Clip;
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::shape::Ty;
use mantissa_core::train::record::{GRAD, LOGITS};
use mantissa_core::train::{Session, TrainConfig};
use safetensors::Dtype;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Tensor of the batch file.
const TOKENS: &str = "tokens";
/// Seed of what is overwritten at once and of a dropout that is off.
const SEED: u64 = 0;

/// Flags of `dump`.
#[derive(Clone, Debug, Args)]
pub struct DumpArgs {
    /// Folder with the config.json and model.safetensors of a GPT2LMHeadModel, such as a checkpoint or what
    /// save_pretrained wrote
    #[arg(long, value_name = "HF_DIR")]
    pub model: PathBuf,
    /// safetensors file with `tokens` [N, B, T+1], of any integer type; step s learns [:, 1:] from [:, :-1]
    #[arg(long, value_name = "FILE")]
    pub batch: PathBuf,
    /// Precision: f32, tf32, bf16, f16, fp8-delayed, fp8-current or mxfp8
    #[arg(long, value_name = "NAME", default_value = "f32")]
    pub recipe: RecipeName,
    /// Where it computes.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Steps [default: all N of the batch file]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=1_000_000))]
    pub steps: Option<u64>,
    /// Learning rate of every step
    #[arg(long, value_name = "X", default_value_t = 1e-3, value_parser = not_negative)]
    pub lr: f64,
    /// Decay of the first moment
    #[arg(long, value_name = "X", default_value_t = 0.9, value_parser = not_negative)]
    pub beta1: f64,
    /// Decay of the second moment
    #[arg(long, value_name = "X", default_value_t = 0.95, value_parser = not_negative)]
    pub beta2: f64,
    /// Weight decay, on tensors of rank 2 and more
    #[arg(long, value_name = "X", default_value_t = 0.1, value_parser = not_negative)]
    pub weight_decay: f64,
    /// Largest global norm of the gradients; 0 turns clipping off
    #[arg(long, value_name = "NORM", default_value_t = 1.0, value_parser = not_negative)]
    pub grad_clip: f64,
    /// File to write: logits, loss, grad.NAME, after.NAME, losses, grad_norms
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace the file to write, if it is there. Never a file that is read
    #[arg(long)]
    pub force: bool,
}

/// Tokens of all steps.
struct Tokens {
    steps: usize,
    batch: usize,
    /// Tokens of a row, one more than the model sees.
    row: usize,
    ids: Vec<u32>,
}

impl Tokens {
    fn read(path: &Path) -> Result<Tokens> {
        let file = TensorFile::open(path)?;
        let bad = |expected: &str, found: String| anyhow!("{TOKENS}: expected {expected}, found {found}: {}", path.display());
        let shape = file.entry(TOKENS).ok_or_else(|| bad("a tensor of that name", "none".into()))?.shape.clone();
        let &[steps, batch, row] = shape.as_slice() else { return Err(bad("shape [N, B, T+1]", format!("{shape:?}"))) };
        if steps == 0 || batch == 0 || row < 2 {
            return Err(bad("at least one step, row and target", format!("{shape:?}")));
        }
        let (dtype, bytes) = file.read(TOKENS, &shape)?;
        let ids = integers(dtype, &bytes).ok_or_else(|| bad("an integer type", dtype.to_string()))?;
        let narrow = |id: i128| u32::try_from(id).map_err(|_| bad("token ids", id.to_string()));
        Ok(Tokens { steps, batch, row, ids: ids.into_iter().map(narrow).collect::<Result<_>>()? })
    }

    /// Inputs and targets of a step.
    fn step(&self, step: usize) -> (Vec<u32>, Vec<u32>) {
        let rows = self.ids[step * self.batch * self.row..][..self.batch * self.row].chunks_exact(self.row);
        rows.fold((Vec::new(), Vec::new()), |(mut x, mut targets), row| {
            x.extend_from_slice(&row[..self.row - 1]);
            targets.extend_from_slice(&row[1..]);
            (x, targets)
        })
    }
}

/// Little-endian integers of any width; `None` for another type.
fn integers(dtype: Dtype, bytes: &[u8]) -> Option<Vec<i128>> {
    let signed = [(Dtype::I8, 1), (Dtype::I16, 2), (Dtype::I32, 4), (Dtype::I64, 8)];
    let unsigned = [(Dtype::U8, 1), (Dtype::U16, 2), (Dtype::U32, 4), (Dtype::U64, 8)];
    let find = |list: &[(Dtype, usize)]| list.iter().find(|(d, _)| *d == dtype).map(|(_, size)| *size);
    let (size, is_signed) = match (find(&signed), find(&unsigned)) {
        (Some(size), _) => (size, true),
        (None, Some(size)) => (size, false),
        (None, None) => return None,
    };
    let value = |b: &[u8]| {
        let negative = is_signed && b[size - 1] & 0x80 != 0;
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        wide[..size].copy_from_slice(b);
        i128::from_le_bytes(wide)
    };
    Some(bytes.chunks_exact(size).map(value).collect())
}

/// An output: name, shape, f32 values.
type Tensor = (String, Vec<usize>, Vec<f32>);

/// `mantissa dump`.
pub fn command(args: &DumpArgs) -> Result<Outcome> {
    let gpt = model::read_hf_config(&args.model)?;
    let weights = Parts::open(&args.model)?;
    for input in weights.files().chain([args.batch.as_path(), &args.model.join(model::CONFIG)]) {
        plain_file::refuse_same("dump", input, &args.out)?;
    }
    plain_file::refuse_taken("dump", &args.out, args.force)?;
    let tokens = Tokens::read(&args.batch)?;
    let steps = args.steps.unwrap_or(tokens.steps as u64) as usize;
    let batch = args.batch.display();
    if steps > tokens.steps {
        bail!("--steps: expected at most {}, the steps in the batch file, got {steps}: {batch}", tokens.steps);
    }
    if tokens.row - 1 > gpt.context {
        bail!(
            "{TOKENS}: expected rows of at most {} + 1, the context of the model, found {}: {batch}",
            gpt.context,
            tokens.row
        );
    }
    if let Some(id) = tokens.ids.iter().find(|id| **id as usize >= gpt.vocab) {
        bail!("{TOKENS}: expected ids below {}, the vocabulary of the model, found {id}: {batch}", gpt.vocab);
    }
    let stored = hf::tensors(&gpt);
    let config = TrainConfig {
        model: ModelConfig::Gpt(gpt),
        recipe: Recipe::new(args.recipe),
        optim: OptimConfig::AdamW { beta1: args.beta1, beta2: args.beta2, eps: 1e-8, weight_decay: args.weight_decay },
        schedule: Schedule { lr: args.lr, min_lr: args.lr, warmup: 0, steps: steps as u64, decay: Decay::Constant },
        clip: (args.grad_clip > 0.0).then_some(Clip::Norm(args.grad_clip as f32)),
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Ignore,
        batch: tokens.batch,
        grad_accum: 1,
        seed: SEED,
    };
    config.validate()?;
    let backend = args.device.open()?.backend;
    let types = [Ty::new(DType::U32, [tokens.batch, tokens.row - 1]), Ty::new(DType::U32, [tokens.batch, tokens.row - 1])];
    let mut session = Session::capturing(backend, config, types)?;
    for note in model::load(&session, &weights, Positions::Exact)? {
        out::note(&note);
    }
    let out = run(&mut session, &tokens, steps, &stored)?;
    write(&args.out, &out)?;
    let [losses, grad_norms] =
        ["losses", "grad_norms"].map(|n| out.iter().find(|(name, ..)| name == n).map(|(_, _, v)| v.clone()));
    let mut stdout = out::stdout();
    for (step, (loss, norm)) in losses.iter().flatten().zip(grad_norms.iter().flatten()).enumerate() {
        writeln!(stdout, "step {step} | loss {loss:.6} | grad_norm {norm:.6}")?;
    }
    writeln!(stdout, "{} tensors of {} ({MODEL}): {}", out.len(), args.recipe, args.out.display())?;
    Ok(Outcome::Done)
}

/// Runs all steps and collects what the file will hold.
fn run(session: &mut Session, tokens: &Tokens, steps: usize, stored: &[HfTensor]) -> Result<Vec<Tensor>> {
    let (mut out, mut losses, mut grad_norms) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..steps {
        let (x, targets) = tokens.step(step);
        let report = session.step(Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) })?;
        losses.push(report.loss);
        grad_norms.push(report.grad_norm);
        if step == 0 {
            let logits = session.captured(LOGITS)?;
            let classes = logits.len() / x.len();
            out.push(("logits".to_string(), vec![tokens.batch, tokens.row - 1, classes], logits));
            out.push(("loss".to_string(), vec![], vec![report.loss]));
            for (tensor, own) in owned(stored) {
                let grad = session.captured(&format!("{GRAD}{own}"))?;
                out.push((format!("grad.{}", tensor.name), tensor.shape.clone(), layout(tensor, bytemuck::cast_slice(&grad))));
            }
        }
    }
    for (tensor, own) in owned(stored) {
        out.push((format!("after.{}", tensor.name), tensor.shape.clone(), layout(tensor, &session.read(own)?)));
    }
    out.push(("losses".to_string(), vec![steps], losses));
    out.push(("grad_norms".to_string(), vec![steps], grad_norms));
    Ok(out)
}

fn owned(stored: &[HfTensor]) -> impl Iterator<Item = (&HfTensor, &str)> {
    stored.iter().filter_map(|t| t.own.as_deref().map(|own| (t, own)))
}

/// Values of a parameter (native bytes) as the file lays them out.
fn layout(tensor: &HfTensor, own: &[u8]) -> Vec<f32> {
    let bytes = if tensor.transposed { hf::transpose(own, tensor.shape[1], tensor.shape[0]) } else { own.to_vec() };
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn write(path: &Path, out: &[Tensor]) -> Result<()> {
    let source = |(name, shape, values): &Tensor| {
        let mut bytes = bytemuck::cast_slice(values).to_vec();
        swap_if_big_endian(DType::F32.size_bytes(), &mut bytes);
        Source { name: name.clone(), dtype: Dtype::F32, shape: shape.clone(), bytes: Box::new(move || Ok(bytes.clone())) }
    };
    let sources: Vec<Source<'_>> = out.iter().map(source).collect();
    write_through(path, |file| tensors::write(file, &sources, Some(model::FORMAT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_width_are_read() {
        assert_eq!(integers(Dtype::U8, &[0, 255]), Some(vec![0, 255]));
        assert_eq!(integers(Dtype::I8, &[1, 255]), Some(vec![1, -1]));
        assert_eq!(integers(Dtype::U16, &[1, 2]), Some(vec![513]));
        assert_eq!(integers(Dtype::I16, &(-300i16).to_le_bytes()), Some(vec![-300]));
        assert_eq!(integers(Dtype::I32, &i32::MIN.to_le_bytes()), Some(vec![i128::from(i32::MIN)]));
        assert_eq!(integers(Dtype::U32, &u32::MAX.to_le_bytes()), Some(vec![i128::from(u32::MAX)]));
        assert_eq!(integers(Dtype::I64, &(-7i64).to_le_bytes()), Some(vec![-7]));
        assert_eq!(integers(Dtype::U64, &u64::MAX.to_le_bytes()), Some(vec![i128::from(u64::MAX)]));
        assert_eq!(integers(Dtype::F32, &[0; 4]), None);
    }

    #[test]
    fn a_step_is_cut_into_inputs_and_targets() {
        let tokens = Tokens { steps: 2, batch: 2, row: 3, ids: (0..12).collect() };
        assert_eq!(tokens.step(1), (vec![6, 7, 9, 10], vec![7, 8, 10, 11]));
    }
}
