//! Names that are nearly right: the same thing under the name that others use (`fp16` for `f16`), in another spelling,
//! or with a slip of the finger.

use crate::error::Error;

/// What other frameworks say, in lower case, and what it is called here: the first group that a list of known names has
/// is meant.
const ELSEWHERE: [(&str, &[&str]); 20] = [
    ("fp32", &["f32"]),
    ("float32", &["f32"]),
    ("float", &["f32"]),
    ("single", &["f32"]),
    ("no", &["f32"]),
    ("tensorfloat32", &["tf32"]),
    ("fp16", &["f16"]),
    ("float16", &["f16"]),
    ("half", &["f16"]),
    ("amp", &["bf16", "f16"]),
    ("bfloat16", &["bf16"]),
    ("brainfloat", &["bf16"]),
    ("fp8", &["fp8-delayed", "fp8-current", "mxfp8", "e4m3", "e5m2"]),
    ("float8", &["fp8-delayed", "fp8-current", "mxfp8", "e4m3", "e5m2", "fp8"]),
    ("f8", &["fp8-delayed", "fp8-current", "mxfp8", "e4m3", "e5m2", "fp8"]),
    ("mx", &["mxfp8"]),
    ("e4m3fn", &["e4m3"]),
    ("float8-e4m3fn", &["e4m3"]),
    ("float8-e5m2", &["e5m2"]),
    ("gpt2", &["gpt2-124m"]),
];

/// How alike two names must be (Jaro-Winkler) to be taken for a slip.
const ALIKE: f64 = 0.85;

/// The names of `known` that `text` may mean; none if nothing is near.
pub fn names<'a>(text: &str, known: &[&'a str]) -> Vec<&'a str> {
    let lower = text.trim().to_ascii_lowercase().replace('_', "-");
    let plain = lower.strip_prefix("torch.").unwrap_or(&lower);
    let plain = plain.strip_suffix("-amp").unwrap_or(plain);
    let of = |list: &[&str]| -> Vec<&'a str> { known.iter().copied().filter(|k| list.contains(k)).collect() };
    let spelled = of(&[plain]);
    if !spelled.is_empty() {
        return spelled;
    }
    let elsewhere = ELSEWHERE.iter().find(|(other, _)| *other == plain).map(|(_, ours)| of(ours)).unwrap_or_default();
    if !elsewhere.is_empty() {
        return elsewhere;
    }
    let best = known.iter().map(|k| (strsim::jaro_winkler(plain, k), *k)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(alike, _)| *alike >= ALIKE).map(|(_, name)| name).into_iter().collect()
}

/// That `got` is none of the names that `setting` takes, and which it may mean.
pub fn unknown(setting: &str, known: &[&str], got: &str) -> Error {
    let tip = match names(got, known).as_slice() {
        [] => String::new(),
        near => format!(" (did you mean {}?)", near.join(" or ")),
    };
    Error::config(setting, format!("one of {}", known.join(", ")), format!("`{got}`{tip}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::precision::recipe::RecipeName;

    #[test]
    fn the_words_of_others_are_understood() {
        let recipes = RecipeName::ALL.map(RecipeName::name);
        let near = |text: &str| names(text, &recipes).join(" ");
        for (text, want) in [
            ("fp16", "f16"),
            ("float16", "f16"),
            ("torch.bfloat16", "bf16"),
            ("BF16", "bf16"),
            ("bf16-amp", "bf16"),
            ("fp32", "f32"),
            ("float32", "f32"),
            ("fp8", "fp8-delayed fp8-current mxfp8"),
            ("fp8_delayed", "fp8-delayed"),
            ("fp8-delyaed", "fp8-delayed"),
            ("int4", ""),
            ("", ""),
        ] {
            assert_eq!(near(text), want, "{text}");
        }
        assert_eq!(names("fp8", &DType::ALL.map(|d| d.name())), ["e4m3", "e5m2"]);
        assert_eq!(names("Adam", &["adamw", "adam", "sgd"]), ["adam"]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_all_known_ones() {
        let error = unknown("recipe", &["f32", "f16"], "fp16").to_string();
        assert_eq!(error, "recipe: expected one of f32, f16, got `fp16` (did you mean f16?)");
        assert_eq!(unknown("recipe", &["f32"], "x").to_string(), "recipe: expected one of f32, got `x`");
    }
}
