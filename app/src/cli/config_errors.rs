//! What is wrong with a config file or `--set`, in the words of someone who writes configs: TOML and serde name
//! Rust types.

use super::{keys, overlay};
use anyhow::{Error, anyhow};
use mantissa_core::near;
use mantissa_core::optim::OptimConfig;
use mantissa_core::precision::recipe::{Recipe, RecipeName};
use mantissa_core::{Error as CoreError, Result as CoreResult};
use toml::{Table, Value};

/// Longest piece of a file that a message quotes, characters.
const QUOTED: usize = 60;

/// What serde calls the types of entries, and what a config calls them. Longer words first.
const TYPES: [(&str, &str); 18] = [
    ("a sequence", "a list"),
    ("a map", "a table"),
    ("a boolean", "true or false"),
    ("a string", "a text in quotes"),
    ("string or table", "a table or a word in quotes"),
    ("string only", "a word in quotes"),
    ("internally tagged enum", "a table:"),
    ("struct variant", "a table:"),
    ("tuple variant", "a value:"),
    ("struct", "a table:"),
    ("unit variant", "a word:"),
    ("usize", "a whole number of at least 0"),
    ("u64", "a whole number of at least 0"),
    ("u32", "a whole number of at least 0"),
    ("i32", "a whole number"),
    ("i64", "a whole number"),
    ("f64", "a number"),
    ("f32", "a number"),
];

/// Why a table is no config: `path` is the entry, `message` what serde says of it, `removed` says which entries
/// `--set KEY=` took away.
pub fn shape(path: &str, message: &str, removed: &[String], what: &str) -> Error {
    let entry = if path == "." { String::new() } else { path.to_string() };
    let below = |field: &str| if entry.is_empty() { field.to_string() } else { format!("{entry}.{field}") };
    let message = message.lines().next().unwrap_or(message).trim_end();
    if let Some(field) = message.strip_prefix("missing field ").map(unquoted) {
        // serde names the missing entry in the path where it can.
        let key = if entry.ends_with(&format!(".{field}")) { entry.clone() } else { below(field) };
        let why = if removed.contains(&key) { ", but --set removed it" } else { "" };
        return anyhow!("config: `{}`: the run needs this entry{why}: {what}", keys::named(&key));
    }
    if let Some((field, expected)) = list_of(message, "unknown field ") {
        let key = if entry == field || entry.ends_with(&format!(".{field}")) { entry.clone() } else { below(field) };
        let known = expected.iter().map(String::as_str).collect::<Vec<_>>();
        let meant = keys::elsewhere(field).map_or_else(|| meant(field, &known), |key| format!(" (did you mean {key}?)"));
        return anyhow!("config: `{key}`: there is no such entry; {}{meant}: {what}", one_of(&known));
    }
    if let Some((value, expected)) = list_of(message, "unknown variant ") {
        let known = expected.iter().map(String::as_str).collect::<Vec<_>>();
        return anyhow!("config: `{}`: {}, got `{value}`{}: {what}", keys::named(&entry), one_of(&known), meant(value, &known));
    }
    let said = match message {
        m if m.contains("exactly 1 element") => {
            "expected exactly one entry in this table, got another number of them".to_string()
        }
        m => match m.split_once(", expected ") {
            Some((found, expected)) => format!("expected {}, got {}", plain(expected), found_words(found)),
            None => m.to_string(),
        },
    };
    let entry = if entry.is_empty() { String::new() } else { format!("`{}`: ", keys::named(&entry)) };
    anyhow!("config: {entry}{said}: {what}")
}

/// Refuses what was written for another recipe or optimizer than the one chosen, naming those that have it. `over` is
/// what was written, `base` the defaults of the choice.
pub fn foreign(over: &Table, base: &Table, recipe: RecipeName, optim: &str) -> CoreResult<()> {
    let table = |part: &str, value: Result<Table, toml::ser::Error>| {
        let inner = Table::from_iter([(part.to_string(), Value::Table(value.unwrap_or_default()))]);
        Table::from_iter([("train".to_string(), Value::Table(inner))])
    };
    let recipes = RecipeName::ALL.map(|name| (name.name(), table("recipe", Table::try_from(Recipe::new(name)))));
    let optims = [("adamw", OptimConfig::adamw()), ("adam", OptimConfig::adam()), ("sgd", OptimConfig::sgd(0.9))];
    let optims = optims.map(|(name, config)| (name, table("optim", Table::try_from(config))));
    for (root, choice, kind, all) in
        [("train.recipe", recipe.name(), "a recipe", &recipes[..]), ("train.optim", optim, "an optimizer", &optims[..])]
    {
        let mut written = Vec::new();
        if let Some(Value::Table(inner)) = overlay::get(over, root) {
            leaves(root, inner, &mut written);
        }
        for path in written.iter().filter(|path| overlay::get(base, path).is_none()) {
            let owners: Vec<&str> =
                all.iter().filter(|(_, table)| overlay::get(table, path).is_some()).map(|(name, _)| *name).collect();
            if !owners.is_empty() {
                return Err(CoreError::config(path.as_str(), format!("{kind} that has it ({})", owners.join(", ")), choice));
            }
        }
    }
    let scaling = "train.recipe.fp8.scaling";
    match (overlay::get_str(over, scaling), overlay::get_str(base, scaling)) {
        (Some(written), Some(own)) if written != own => {
            Err(CoreError::config(scaling, format!("\"{own}\", as the recipe is {}", recipe.name()), format!("\"{written}\"")))
        }
        (Some(_) | None, _) => Ok(()),
    }
}

/// Paths of the entries below `prefix` that are set, not removed.
fn leaves(prefix: &str, table: &Table, out: &mut Vec<String>) {
    for (key, value) in table {
        let path = format!("{prefix}.{key}");
        if let Value::Table(inner) = value {
            leaves(&path, inner, out);
        } else if !overlay::is_removal(value) {
            out.push(path);
        }
    }
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches('`')
}

/// `<start>` + "`name`, expected one of `a`, `b`" or "expected `a` or `b`" or "there are no fields".
fn list_of<'a>(message: &'a str, start: &str) -> Option<(&'a str, Vec<String>)> {
    let rest = message.strip_prefix(start)?;
    let (name, expected) = rest.split_once(", ").unwrap_or((rest, ""));
    let known = expected.split('`').skip(1).step_by(2).map(str::to_string).collect();
    Some((unquoted(name), known))
}

fn one_of(known: &[&str]) -> String {
    match known {
        [] => "expected none here".into(),
        [one] => format!("expected {one}"),
        many => format!("expected one of {}", many.join(", ")),
    }
}

fn meant(name: &str, known: &[&str]) -> String {
    match near::names(name, known).as_slice() {
        [] => String::new(),
        near => format!(" (did you mean {}?)", near.join(" or ")),
    }
}

/// The types of serde as those of a config.
fn plain(expected: &str) -> String {
    match TYPES.iter().find(|(serde, _)| expected.starts_with(serde)) {
        // What follows is the name of a Rust type.
        Some((_, ours)) => ours.trim_end_matches(':').to_string(),
        None => expected.to_string(),
    }
}

/// "invalid type: string \".001\"" as "the text \".001\"".
fn found_words(found: &str) -> String {
    let found = found.strip_prefix("invalid type: ").or(found.strip_prefix("invalid value: ")).unwrap_or(found);
    let words = [
        ("string ", "the text "),
        ("integer ", ""),
        ("floating point ", ""),
        ("boolean ", ""),
        ("sequence", "a list"),
        ("map", "a table"),
        ("unit variant", "something else"),
    ];
    let words = words.iter().find_map(|(serde, ours)| Some(format!("{ours}{}", found.strip_prefix(serde)?)));
    let text = words.unwrap_or_else(|| found.to_string()).replace('`', "");
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{} ..", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::{resolve, train_args::TrainArgs};
    use crate::in_words;

    /// What is said of a config.
    fn refused(config: &str, sets: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, config).unwrap();
        let mut args = TrainArgs::default();
        args.step.config = (!config.is_empty()).then(|| path.clone());
        args.step.set = sets.iter().map(|s| s.to_string()).collect();
        let text = in_words(&resolve::resolve(&args).map(|r| r.config).expect_err("is refused"));
        for word in ["usize", "f64", "u64", "invalid type", "field", "variant", "struct", "element", "enum"] {
            assert!(!text.contains(word), "serde's word `{word}`: {text}");
        }
        text.replace(&path.display().to_string(), "FILE")
    }

    #[test]
    fn entries_of_the_wrong_kind_are_refused_in_plain_words() {
        let entry = |key: &str, value: &str| refused("", &[&format!("{key}={value}")]);
        assert_eq!(
            entry("train.batch", "-3"),
            "config: `train.batch (--batch-size)`: expected a whole number of at least 0, got -3: --set"
        );
        assert_eq!(
            entry("train.schedule.lr", "fast"),
            "config: `train.schedule.lr (--lr)`: expected a number, got the text \"fast\": --set"
        );
        assert!(entry("train.batch", "[1]").contains("expected a whole number of at least 0, got a list"));
        assert!(entry("train.model.hidden", "3").contains("there is no such entry"));
        assert!(entry("run.log", "3").contains("expected a list, got 3"), "{}", entry("run.log", "3"));
        assert!(
            entry("run.device", "gpu").contains("expected one of auto, cpu, wgpu, got `gpu`"),
            "{}",
            entry("run.device", "gpu")
        );
        assert!(entry("run.device", "3").contains("expected a word in quotes"), "{}", entry("run.device", "3"));
        assert!(entry("train.clip", "{norm = 1, value = 2}").contains("exactly one entry"));
        assert!(entry("train.bacth", "3").contains("`train.bacth`: there is no such entry"));
        assert!(entry("train.bacth", "3").contains("(did you mean batch?)"), "{}", entry("train.bacth", "3"));
        assert!(entry("train.lr", "1").contains("(did you mean train.schedule.lr (--lr)?)"), "{}", entry("train.lr", "1"));
        assert!(entry("train.batch_size", "1").contains("(did you mean train.batch (--batch-size)?)"));
        assert_eq!(
            entry("train.recipe.name", "fp16"),
            "train.recipe.name (--recipe): expected one of f32, tf32, bf16, f16, fp8-delayed, fp8-current, mxfp8, got `fp16` (did you mean f16?)"
        );
        assert!(entry("run.model", "gpt2").contains("run.model (--model): expected one of"));
        assert!(entry("train.optim.kind", "adamm").contains("train.optim.kind (--optim): expected one of adamw, adam, sgd"));
    }

    #[test]
    fn a_removed_entry_that_is_needed_is_named() {
        assert_eq!(
            refused("", &["train.batch="]),
            "config: `train.batch (--batch-size)`: the run needs this entry, but --set removed it: --set"
        );
    }

    #[test]
    fn what_was_written_for_another_recipe_or_optimizer_is_refused() {
        assert_eq!(
            refused("[train.recipe.fp8]\nmargin = 2\n", &[]),
            "train.recipe.fp8.margin (--margin): expected a recipe that has it (fp8-delayed), got bf16"
        );
        let scaler = refused("[train.recipe]\nname = \"f32\"\n[train.recipe.scaler]\ninit_scale = 8.0\n", &[]);
        assert!(scaler.contains("expected a recipe that has it (f16), got f32"), "{scaler}");
        let sgd = refused("[train.optim]\nkind = \"sgd\"\nbeta2 = 0.9\n", &[]);
        assert_eq!(sgd, "train.optim.beta2 (--beta2): expected an optimizer that has it (adamw, adam), got sgd");
        let scaling = refused("[train.recipe]\nname = \"fp8-current\"\nfp8.scaling = \"delayed\"\n", &[]);
        assert!(scaling.contains("expected \"current\", as the recipe is fp8-current, got \"delayed\""), "{scaling}");
    }

    #[test]
    fn what_is_not_toml_is_refused_with_its_line_and_no_more_of_it() {
        let text = refused(&format!("[train]\nbatch = = 3{}\n", " ".repeat(5000)), &[]);
        assert!(text.starts_with("config is not TOML: line 2, column ") && text.len() < 250, "{text}");
    }

    #[test]
    fn numbers_may_be_written_as_for_a_flag() {
        let args = |set: &str| {
            let mut args = TrainArgs::default();
            args.step.set = vec![set.to_string()];
            resolve::resolve(&args).unwrap().config.train.schedule.lr
        };
        assert_eq!((args("train.schedule.lr=.001"), args("train.schedule.lr=1.")), (0.001, 1.0));
    }
}
