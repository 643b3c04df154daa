//! `stats`: over a run folder and over a model, as JSON, as a table and as pictures.

use super::{fixed_text, good, json_lines, output, stderr, stdout, train};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

/// Sizes of a run that takes a fraction of a second, on a text that does not change with the sources.
const SMALL: [&str; 8] = ["--batch-size", "2", "--seq-len", "32", "--set", "train.model.layers=1", "--data", "text.txt"];

fn json(o: Output) -> Value {
    json_lines(&stdout(&good(o))).remove(0)
}

fn of_model(dir: &Path, args: &[&str]) -> Output {
    fixed_text(dir);
    output(dir, &[&["stats"], &SMALL[..], args].concat())
}

#[test]
fn a_run_shows_its_tensors_worst_first() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--recipe", "fp8-current", "--steps", "5", "--stats-every", "2", "--out", "r"];
    good(train(dir.path(), &flags));
    let v = json(output(dir.path(), &["stats", "r", "--json"]));
    let tensors = v["tensors"].as_array().unwrap();
    assert_eq!((v["step"].as_u64(), tensors.len()), (Some(4), 4 * 4 + 4));
    let db: Vec<f64> = tensors.iter().filter_map(|t| t["sqnr_db"].as_f64()).collect();
    assert!(db.len() >= 12 && db.windows(2).all(|w| w[0] <= w[1]), "{db:?}");
    for t in tensors {
        let answers = t["what_if"].as_array().unwrap();
        assert_eq!(answers.iter().map(|a| a["dtype"].as_str().unwrap()).collect::<Vec<_>>(), ["e4m3", "e5m2", "f16", "bf16"]);
        assert!(answers.iter().all(|a| (0.0..=1.0).contains(&a["underflow"].as_f64().unwrap())), "{t}");
        // bf16 has the range of f32.
        assert_eq!((answers[3]["saturated"].as_f64(), answers[3]["subnormal"].as_f64()), (Some(0.0), Some(0.0)));
    }
    let text = stdout(&good(output(dir.path(), &["stats", "r", "--step", "2", "--tensor", "gpt.h0.mlp.up.dy", "--histogram"])));
    let row = text.lines().find(|l| l.starts_with("gpt.h0.mlp.up.dy  e5m2")).unwrap_or_else(|| panic!("{text}"));
    assert!(
        row.split_whitespace().count() == 12 && text.contains("2^-") && text.contains("becomes zero, ^ saturates"),
        "{text}"
    );
    assert!(!text.contains("gpt.h0.mlp.down"), "{text}");

    for (args, message) in [
        (&["stats", "r", "--step", "3"][..], "--step: expected one of the 2 steps measured, 2 to 4, got 3"),
        (&["stats", "r", "--tensor", "gpt.h7"], "--tensor: expected a pattern that matches a tensor of the model"),
        (&["stats", "nowhere"], "expected a run folder"),
        (&["stats", "r", "--recipe", "f16"], "cannot be used with"),
    ] {
        let o = output(dir.path(), args);
        assert!(o.status.code() == Some(2) && stderr(&o).contains(message), "{args:?}: {}", stderr(&o));
    }
    good(train(dir.path(), &["--steps", "2", "--out", "plain"]));
    let o = output(dir.path(), &["stats", "plain"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("--stats-every"), "{}", stderr(&o));
}

#[test]
fn a_model_is_measured_in_every_recipe() {
    let dir = tempfile::tempdir().unwrap();
    for (recipe, x) in
        [("f32", "f32"), ("tf32", "tf32"), ("bf16", "bf16"), ("f16", "f16"), ("fp8-delayed", "e4m3"), ("mxfp8", "e4m3")]
    {
        let v = json(of_model(dir.path(), &["--recipe", recipe, "--steps", "3", "--tensor", "gpt.h0.mlp", "--json"]));
        let tensors = v["tensors"].as_array().unwrap();
        // Of two layers input, weight, bias, output, and the gradients of the last three; and the activation between
        // them.
        assert_eq!(tensors.iter().filter(|t| t.get("histogram").is_some()).count(), 2 * 7 + 1, "{recipe}");
        let found = tensors.iter().find(|t| t["name"] == "gpt.h0.mlp.up.x").unwrap();
        assert_eq!(found["dtype"], x, "{recipe}");
        // One scale for the whole tensor would judge mx blocks wrongly.
        assert_eq!(found["subnormal"].is_null(), recipe == "mxfp8", "{found}");
    }
    let o = of_model(dir.path(), &["--tensor", "gpt.h3"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("`gpt.h3`"), "{}", stderr(&o));
    let o = of_model(dir.path(), &["--step", "3"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("--step: expected a RUN_DIR"), "{}", stderr(&o));
}
