//! Overrides: the user's word on the precision of a part of the model, by scope.
//!
//! A pattern is a glob over scope names whose separator is the dot: `*` stands for anything inside one segment, `**`
//! for any number of segments, `?`, `[0-3]` and `{a,b}` as in a shell. A pattern covers the scopes inside the one it
//! names. Where several match, the last wins. Overrides act at record time, inside autocast regions only: the gradient
//! instructions of a scope follow its forward ones.

use super::settings::{Override, OverrideDtype, Region};
use crate::error::{Error, Result};
use crate::trace::{Policy, ScopePolicies};
use globset::{GlobBuilder, GlobMatcher};
use std::rc::Rc;
use std::sync::Arc;

impl std::str::FromStr for Override {
    type Err = Error;

    /// `SCOPE=DTYPE`, such as `gpt.head=f32`.
    fn from_str(s: &str) -> Result<Override> {
        let bad = || Error::config("override", "SCOPE=DTYPE, such as gpt.head=f32", format!("`{s}`"));
        let (scope, dtype) = s.rsplit_once('=').ok_or_else(bad)?;
        let parsed = Override { scope: scope.trim().to_string(), dtype: dtype.trim().parse()? };
        Pattern::new(&parsed.scope)?;
        Ok(parsed)
    }
}

/// What reports call the scope around all others. It has no name, and nothing in it depends on the recipe.
pub const ROOT: &str = "(root)";

/// A compiled glob over scope names.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    glob: GlobMatcher,
}

impl Pattern {
    /// Compiles `text`. Fails if it is empty, no glob, names the root, or has a character that no scope has.
    pub fn new(text: &str) -> Result<Pattern> {
        let bad = |why: String| {
            Error::config("scope pattern", "a glob over scope names, such as gpt.h*.mlp.*", format!("`{text}` ({why})"))
        };
        if text.is_empty() {
            return Err(bad("it is empty".into()));
        }
        if text == ROOT {
            return Err(bad("the root holds the loss and the update, which are f32 under every recipe".into()));
        }
        if let Some(c) = text.chars().find(|c| c.is_whitespace() || matches!(c, '/' | '\\')) {
            return Err(bad(format!("no scope name has {c:?}")));
        }
        let glob = GlobBuilder::new(&text.replace('.', "/"))
            .literal_separator(true)
            .backslash_escape(false)
            .build()
            .map_err(|e| bad(e.kind().to_string()))?;
        Ok(Pattern { text: text.to_string(), glob: glob.compile_matcher() })
    }

    /// Whether it names `scope` or a scope around it.
    pub fn covers(&self, scope: &str) -> bool {
        let path = scope.replace('.', "/");
        let around = path.match_indices('/').map(|(end, _)| &path[..end]);
        !path.is_empty() && (self.glob.is_match(&path) || around.into_iter().any(|p| self.glob.is_match(p)))
    }

    /// Refuses a pattern, given as `setting`, that covers none of `scopes`, naming close ones. `what` says what they
    /// are scopes or names of.
    pub fn check<'a>(&self, setting: &str, what: &str, scopes: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
        if scopes.clone().any(|s| self.covers(s)) {
            return Ok(());
        }
        let mut close: Vec<(f64, &str)> =
            scopes.filter(|s| !s.is_empty()).map(|s| (strsim::jaro_winkler(&self.text, s), s)).collect();
        close.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        close.dedup();
        let names: Vec<&str> = close.iter().take(4).map(|(_, s)| *s).collect();
        let expected = match names.is_empty() {
            true => format!("a {what} of the model; it has none"),
            false => format!("a pattern that matches a {what} of the model, such as {}", names.join(", ")),
        };
        Err(Error::config(setting, expected, format!("`{}`", self.text)))
    }
}

/// The overrides of a recipe, ready for recording.
#[derive(Clone, Debug)]
pub struct Overrides {
    rules: Vec<Rule>,
    /// What an override to fp8 gives back.
    recipe: Region,
}

#[derive(Clone, Debug)]
struct Rule {
    pattern: Pattern,
    dtype: OverrideDtype,
    reason: Arc<str>,
}

impl Overrides {
    /// Compiles `overrides` of a recipe whose region is `recipe`.
    ///
    /// # Errors
    /// When a pattern is none, or fp8 is asked for where the recipe has no fp8 scaling.
    pub fn new(overrides: &[Override], recipe: Region) -> Result<Overrides> {
        let rule = |o: &Override| {
            if o.dtype == OverrideDtype::Fp8 && recipe.fp8.is_none() {
                let expected = "f32, tf32, bf16 or f16, since the recipe has no fp8 scaling";
                return Err(Error::config(format!("override {}", o.scope), expected, "fp8"));
            }
            let reason = Arc::from(format!("override {}: {}", o.scope, o.dtype.name()));
            Ok(Rule { pattern: Pattern::new(&o.scope)?, dtype: o.dtype, reason })
        };
        let rules = overrides.iter().map(rule).collect::<Result<_>>()?;
        Ok(Overrides { rules, recipe })
    }
}

impl ScopePolicies for Overrides {
    /// The last rule that covers the scope.
    fn rule(&self, scope: &str) -> Option<usize> {
        self.rules.iter().rposition(|r| r.pattern.covers(scope))
    }

    /// The region of the model code as the rule changes it.
    fn policy(&self, rule: usize) -> Rc<dyn Policy> {
        Rc::new(match self.rules[rule].dtype.low() {
            Some(low) => Region { low: Some(low), fp8: None },
            None => self.recipe.clone(),
        })
    }

    /// `override gpt.head: f32`.
    fn reason(&self, rule: usize) -> Arc<str> {
        self.rules[rule].reason.clone()
    }

    /// Fails if a pattern covers no scope of the recording.
    fn check(&self, scopes: &[String]) -> Result<()> {
        self.rules.iter().try_for_each(|r| r.pattern.check("override", "scope", scopes.iter().map(String::as_str)))
    }
}

#[cfg(test)]
#[path = "overrides_tests.rs"]
mod tests;
