//! Config files and `--set` entries as one TOML table, laid over the defaults.

use crate::config::{read_text, toml_problem};
use anyhow::{Result, bail};
use std::path::Path;
use toml::{Table, Value};

/// The table of a config file, with `sets` (`a.b=c`) applied.
pub fn read(file: Option<&Path>, sets: &[String]) -> Result<Table> {
    let mut table = match file {
        None => Table::new(),
        Some(path) => {
            let text = read_text(path)?;
            let parsed = text.parse::<Table>();
            parsed.map_err(|e| anyhow::anyhow!("config is not TOML: {}: {}", toml_problem(&text, &e), path.display()))?
        }
    };
    for entry in sets {
        set(&mut table, entry)?;
    }
    Ok(table)
}

/// Applies one `a.b=c`. Numbers are spelled as in flags; what else does not parse as a TOML value is a string; nothing
/// after `=` removes the entry.
fn set(table: &mut Table, entry: &str) -> Result<()> {
    let Some((key, value)) = entry.split_once('=') else { bail!("--set: expected KEY=VALUE, got `{entry}`") };
    let keys: Vec<&str> = key.trim().split('.').collect();
    if keys.iter().any(|k| k.is_empty()) {
        bail!("--set: expected a key such as train.schedule.lr, got `{key}`");
    }
    let value = value.trim();
    let parsed = match value.parse::<Value>() {
        _ if value.is_empty() => Value::String(REMOVED.into()),
        Ok(parsed) => parsed,
        Err(_) => flag_number(value).unwrap_or_else(|| Value::String(value.into())),
    };
    let mut at = table;
    for k in &keys[..keys.len() - 1] {
        let next = at.entry(*k).or_insert_with(|| Value::Table(Table::new()));
        let found = next.type_str();
        let Some(inner) = next.as_table_mut() else { bail!("--set {key}: expected a table at `{k}`, found {found}") };
        at = inner;
    }
    at.insert(keys[keys.len() - 1].to_string(), parsed);
    Ok(())
}

/// A number without a digit on one side of its point, such as `.5`, `1.` or `1.e-3`: flags take it, TOML does not.
fn flag_number(text: &str) -> Option<Value> {
    let (before, after) = text.split_once('.')?;
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let (left, right) = (digit(before.chars().last()), digit(after.chars().next()));
    let sign_only = matches!(before, "" | "+" | "-");
    let exponent_only = after.is_empty() || after.starts_with(['e', 'E']);
    match (left, right) {
        (false, true) if sign_only => format!("{before}0.{after}").parse().ok(),
        (true, false) if exponent_only => format!("{before}.0{after}").parse().ok(),
        _ => None,
    }
}

/// Stands in the overlay for an entry that is to be removed. Not a value anyone writes.
const REMOVED: &str = "\u{0}removed";

/// Whether a value of the overlay stands for an entry that is to be removed.
pub fn is_removal(value: &Value) -> bool {
    value.as_str() == Some(REMOVED)
}

/// Lays `over` on `base`: tables are merged, anything else is replaced.
pub fn merge(base: &mut Table, over: &Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (_, value) if is_removal(value) => {
                base.remove(key);
            }
            (Some(Value::Table(inner)), Value::Table(over)) => merge(inner, over),
            (Some(_) | None, Value::Table(over)) => {
                // A new table may hold removals too.
                let mut inner = Table::new();
                merge(&mut inner, over);
                base.insert(key.clone(), Value::Table(inner));
            }
            (Some(_) | None, _) => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The entry at `path`, such as `train.recipe.name`.
pub fn get<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    let (parents, last) = path.rsplit_once('.').map_or((None, path), |(p, l)| (Some(p), l));
    let at = match parents {
        None => table,
        Some(parents) => get(table, parents)?.as_table()?,
    };
    at.get(last)
}

/// The string at `path`.
pub fn get_str<'a>(table: &'a Table, path: &str) -> Option<&'a str> {
    get(table, path)?.as_str()
}

/// Removes the entry at `path`, if it is there.
pub fn remove(table: &mut Table, path: &str) {
    match path.split_once('.') {
        None => {
            table.remove(path);
        }
        Some((first, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(first) {
                remove(inner, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_set_merged_and_removed() {
        let sets = ["a.b=3".to_string(), "a.c=text".into(), "a.d=".into(), "x=[1, 2]".into()];
        let over = read(None, &sets).unwrap();
        let mut base: Table = "[a]\nb = 1\nd = 4\ne = 5".parse().unwrap();
        merge(&mut base, &over);
        assert_eq!(base, "x = [1, 2]\n[a]\nb = 3\nc = \"text\"\ne = 5".parse::<Table>().unwrap());
        assert_eq!(get_str(&base, "a.c"), Some("text"));
        remove(&mut base, "a.c");
        assert!(get(&base, "a.c").is_none() && get(&base, "q.r").is_none());
    }

    #[test]
    fn numbers_are_spelled_as_in_flags() {
        let number = |text: &str| read(None, &[format!("a={text}")]).unwrap().remove("a").unwrap();
        let numbers =
            [(".001", 0.001), ("1.", 1.0), ("-.5", -0.5), ("+3.e2", 300.0), ("1.e-3", 0.001), (".25E1", 2.5), ("1e-3", 1e-3)];
        for (text, expected) in numbers {
            assert_eq!(number(text), Value::Float(expected), "{text}");
        }
        for text in [".", "..", "./notes.txt", "1.x", ".5.5", "notes.", "-.", "e.5", "1..2", "../x"] {
            assert_eq!(number(text), Value::String(text.into()), "{text}");
        }
    }

    #[test]
    fn malformed_entries_are_refused() {
        for bad in ["novalue", "=3", "a..b=3"] {
            assert!(read(None, &[bad.to_string()]).is_err(), "{bad}");
        }
        assert!(read(None, &["a=1".to_string(), "a.b=2".to_string()]).is_err());
    }
}
