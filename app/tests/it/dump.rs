//! `dump`, and folders as `transformers` saves them. Against PyTorch itself: `tests/golden/compare_torch.py`.

use super::{good, output, stderr, stdout, train};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

const ROWS: usize = 3;
const TOKENS: usize = 17;
const STEPS: usize = 4;

/// Name, dtype, shape and bytes of tensors.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

#[track_caller]
fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{e}: {}", path.display()));
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    file.tensors().into_iter().map(|(n, t)| (n, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views =
        tensors.iter().map(|(n, (dtype, shape, data))| (n, TensorView::new(*dtype, shape.clone(), data).expect("a tensor")));
    std::fs::write(path, safetensors::serialize(views, None).expect("laid out")).expect("written");
}

fn f32s(t: &(Dtype, Vec<usize>, Vec<u8>)) -> Vec<f32> {
    assert_eq!(t.0, Dtype::F32);
    t.2.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Token ids of all steps.
fn ids() -> Vec<i64> {
    (0..STEPS * ROWS * TOKENS).map(|i| (i * i * 31 + i * 7) as i64 % 251).collect()
}

fn write_tokens(path: &Path, dtype: Dtype, ids: &[i64]) {
    let size = dtype.bitsize() / 8;
    let data = ids.iter().flat_map(|id| id.to_le_bytes()[..size].to_vec()).collect();
    write(path, &BTreeMap::from([("tokens".to_string(), (dtype, vec![STEPS, ROWS, TOKENS], data))]));
}

/// A folder with a trained checkpoint (`hf/`) and a batch.
fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    good(train(dir.path(), &["--steps", "3", "--recipe", "f32", "--dropout", "0.2", "--out", "r"]));
    std::fs::rename(dir.path().join("r/checkpoints/step-00000003"), dir.path().join("hf")).expect("renamed");
    write_tokens(&dir.path().join("b.safetensors"), Dtype::I64, &ids());
    dir
}

#[track_caller]
fn dump(dir: &Path, flags: &[&str]) -> Tensors {
    good(output(
        dir,
        &[&["dump", "--model", "hf", "--batch", "b.safetensors", "--out", "o.safetensors", "--force"], flags].concat(),
    ));
    read(&dir.join("o.safetensors"))
}

#[test]
fn what_is_written_agrees_with_itself_in_every_recipe() {
    let dir = prepared();
    let before = read(&dir.path().join("hf/model.safetensors"));
    for recipe in ["f32", "tf32", "bf16", "f16", "fp8-delayed", "fp8-current", "mxfp8"] {
        let out = dump(dir.path(), &["--recipe", recipe, "--lr", "1e-3", "--grad-clip", "0.5"]);
        let wanted: usize = 4 + 2 * before.len();
        assert_eq!(out.len(), wanted, "{recipe}: {:?}", out.keys());
        for (name, tensor) in &before {
            for prefix in ["grad.", "after."] {
                assert_eq!(out[&format!("{prefix}{name}")].1, tensor.1, "{recipe}: {prefix}{name}");
            }
            assert_ne!(out[&format!("after.{name}")].2, tensor.2, "{recipe}: {name} was trained");
        }
        let (logits, losses, norms) = (f32s(&out["logits"]), f32s(&out["losses"]), f32s(&out["grad_norms"]));
        assert_eq!((out["logits"].1.clone(), losses.len(), norms.len()), (vec![ROWS, TOKENS - 1, 256], STEPS, STEPS));
        // The loss is the mean cross-entropy of the logits.
        let targets = ids()[..ROWS * TOKENS].chunks(TOKENS).flat_map(|r| r[1..].to_vec()).collect::<Vec<_>>();
        let entropy = |row: &[f32], target: i64| {
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|v| f64::from(v - max).exp()).sum();
            sum.ln() - f64::from(row[target as usize] - max)
        };
        let mean = logits.chunks(256).zip(targets).map(|(row, t)| entropy(row, t)).sum::<f64>() / (ROWS * (TOKENS - 1)) as f64;
        let tolerance = 1e-4 * mean;
        assert!((f64::from(losses[0]) - mean).abs() <= tolerance, "{recipe}: {} and {mean}", losses[0]);
        assert_eq!(f32s(&out["loss"]), losses[..1]);
        // The norm is that of the gradients, before clipping.
        let square: f64 =
            out.iter().filter(|(n, _)| n.starts_with("grad.")).flat_map(|(_, t)| f32s(t)).map(|g| f64::from(g).powi(2)).sum();
        let tolerance = 1e-4 * square.sqrt();
        assert!((f64::from(norms[0]) - square.sqrt()).abs() <= tolerance, "{recipe}: {} and {}", norms[0], square.sqrt());
        assert!(norms[0] > 0.5, "clipping at 0.5 would show");
    }
}

#[test]
fn folders_that_transformers_saves_are_the_same_model() {
    let dir = prepared();
    let dir = dir.path();
    let expected = dump(dir, &["--steps", "2"]);
    let model = dir.join("hf/model.safetensors");
    let whole = read(&model);
    let check = |changed: &Tensors, what: &str| {
        write(&model, changed);
        assert!(dump(dir, &["--steps", "2"]) == expected, "{what}");
    };
    let bare: Tensors = whole.iter().map(|(n, t)| (n.trim_start_matches("transformer.").to_string(), t.clone())).collect();
    check(&bare, "without prefix");
    let mut more = whole.clone();
    more.insert("lm_head.weight".into(), whole["transformer.wte.weight"].clone());
    more.insert("transformer.h.0.attn.bias".into(), (Dtype::BOOL, vec![1, 1, 2, 2], vec![1, 0, 1, 1]));
    more.insert("transformer.h.0.attn.masked_bias".into(), (Dtype::F32, vec![], (-1e4f32).to_le_bytes().to_vec()));
    check(&more, "with a tied head and masks");
    more.remove("transformer.wte.weight");
    check(&more, "with the head's name only");
    let wrapped: Tensors = more.iter().map(|(n, t)| (format!("_orig_mod.{n}"), t.clone())).collect();
    check(&wrapped, "compiled");
    let double = |t: &(Dtype, Vec<usize>, Vec<u8>)| {
        let bytes = f32s(t).into_iter().flat_map(|x| f64::from(x).to_le_bytes()).collect();
        (Dtype::F64, t.1.clone(), bytes)
    };
    check(&whole.iter().map(|(n, t)| (n.clone(), double(t))).collect(), "in f64");
    // Values that fit bf16 are the same model in bf16, f16 widening likewise.
    let rounded: Tensors = whole.iter().map(|(n, (d, s, b))| (n.clone(), (*d, s.clone(), mask(b)))).collect();
    write(&model, &rounded);
    let expected = dump(dir, &[]);
    let halves = |b: &[u8]| b.chunks_exact(4).flat_map(|b| [b[2], b[3]]).collect::<Vec<u8>>();
    let narrow: Tensors = rounded.iter().map(|(n, (_, s, b))| (n.clone(), (Dtype::BF16, s.clone(), halves(b)))).collect();
    write(&model, &narrow);
    assert!(dump(dir, &[]) == expected, "bf16");
    // Token ids of any width.
    for dtype in [Dtype::U8, Dtype::I16, Dtype::U16, Dtype::I32, Dtype::U32, Dtype::U64] {
        write_tokens(&dir.join("b.safetensors"), dtype, &ids());
        assert!(dump(dir, &[]) == expected, "{dtype}");
    }
}

/// f32 bytes cut to their upper half.
fn mask(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks_exact(4).flat_map(|b| [0, 0, b[2], b[3]]).collect()
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = prepared();
    let dir = dir.path();
    let refused = |flags: &[&str], parts: &[&str]| {
        let o =
            output(dir, &[&["dump", "--model", "hf", "--batch", "b.safetensors", "--out", "o.safetensors"], flags].concat());
        let message = stderr(&o);
        assert_eq!(o.status.code(), Some(2), "{parts:?}: {message}{}", stdout(&o));
        assert!(parts.iter().all(|p| message.contains(p)) && !message.contains("panicked"), "{parts:?} in {message}");
        assert!(!dir.join("o.safetensors").exists() && !dir.join("o.safetensors.tmp").exists());
    };
    refused(&["--steps", "5"], &["--steps", "at most 4", "got 5"]);
    refused(&["--lr", "nan"], &["--lr"]);
    refused(&["--beta1", "1"], &["beta1"]);
    refused(&["--recipe", "fp16"], &["fp8-delayed"]);
    let model = dir.join("hf/model.safetensors");
    let whole = read(&model);
    let with = |change: fn(&mut Tensors), parts: &[&str]| {
        let mut changed = whole.clone();
        change(&mut changed);
        write(&model, &changed);
        refused(&[], parts);
        write(&model, &whole);
    };
    with(|t| drop(t.remove("transformer.ln_f.weight")), &["transformer.ln_f.weight", "found none"]);
    with(|t| drop(t.insert("extra".into(), t["transformer.ln_f.bias"].clone())), &["found `extra` too"]);
    with(|t| drop(t.insert("ln_f.bias".into(), t["transformer.ln_f.bias"].clone())), &["one prefix", "`ln_f.bias`"]);
    with(
        |t| {
            let mut head = t["transformer.wte.weight"].clone();
            head.2[0] ^= 1;
            t.insert("lm_head.weight".into(), head);
        },
        &["lm_head.weight", "tied"],
    );
    with(
        |t| {
            let wte = &t["transformer.wte.weight"];
            let whole = (Dtype::I32, wte.1.clone(), wte.2.clone());
            t.insert("transformer.wte.weight".into(), whole);
        },
        &["transformer.wte.weight", "f32, f16, bf16, f64", "I32"],
    );
    let config = dir.join("hf/config.json");
    let text = std::fs::read_to_string(&config).expect("config");
    let edited = |from: &str, to: &str, parts: &[&str]| {
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&config, text.replace(from, to)).expect("config");
        refused(&[], parts);
        std::fs::write(&config, &text).expect("config");
    };
    edited("\"gelu_new\"", "\"quick_gelu\"", &["activation_function", "gelu_new, gelu", "quick_gelu", "config.json"]);
    edited("\"n_layer\": 1", "\"n_layer\": 2", &["transformer.h.1", "found none"]);
    edited("\"n_positions\": 32", "\"n_positions\": 8", &["rows of at most 8 + 1", "found 17"]);
    edited("\"n_head\": 4", "\"n_head\": \"four\"", &["n_head: expected a whole number", "got \"four\"", "config.json"]);
    edited("\"vocab_size\": 256", "\"vocab_size\": 100", &["ids below 100"]);
    let batch = |dtype: Dtype, ids: &[i64], parts: &[&str]| {
        write_tokens(&dir.join("b.safetensors"), dtype, ids);
        refused(&[], parts);
    };
    let mut wrong = ids();
    wrong[5] = -1;
    batch(Dtype::I16, &wrong, &["token ids", "found -1"]);
    wrong[5] = 256;
    batch(Dtype::I32, &wrong, &["ids below 256", "found 256"]);
    batch(Dtype::F32, &ids(), &["an integer type", "F32"]);
    let over = |out: &str| {
        let o = output(dir, &["dump", "--model", "hf", "--batch", "b.safetensors", "--out", out]);
        assert!(o.status.code() == Some(2) && stderr(&o).contains("found the same"), "{out}: {}", stderr(&o));
    };
    over("b.safetensors");
    over("hf/../hf/model.safetensors");
    let none = BTreeMap::from([("ids".to_string(), (Dtype::U8, vec![1], vec![1]))]);
    write(&dir.join("b.safetensors"), &none);
    refused(&[], &["tokens", "found none"]);
    write(&dir.join("b.safetensors"), &BTreeMap::from([("tokens".to_string(), (Dtype::U8, vec![4], vec![1; 4]))]));
    refused(&[], &["[N, B, T+1]", "[4]"]);
    std::fs::remove_file(&config).expect("config");
    refused(&[], &["config.json"]);
    std::fs::remove_dir_all(dir.join("hf")).expect("removed");
    refused(&[], &["expected a folder with config.json", "hf"]);
}
