//! Names of the tensors of a GPT-2, as many a tool writes them.
//!
//! A name is a prefix and a tail. Tails are known (`Tail`). Prefixes are stacks of what models are wrapped in:
//! `torch.compile` adds `_orig_mod.`, data-parallel training `module.`, FSDP and activation checkpointing names of
//! their own, a class around the model `model.`, and `GPT2LMHeadModel` itself `transformer.`. One prefix must serve all
//! tensors of a file; only the head, which lies outside of the transformer, may have a shorter one. A wrapper of a
//! single block stands behind the tail's number, and is left out there.

use super::{EMBEDDING, HEAD, PREFIX};
use crate::error::{Error, Result};
use crate::show::printable;
use std::collections::BTreeMap;

/// What a name may begin with, in any order.
const FRONTS: [&str; 2] = ["model", "transformer"];
/// Wrappers of a module, anywhere in a name.
const WRAPPERS: [&str; 5] = ["_orig_mod", "module", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"];
/// Layers of a block.
const BLOCK: [[&str; 2]; 6] =
    [["ln_1", ""], ["attn", "c_attn"], ["attn", "c_proj"], ["ln_2", ""], ["mlp", "c_fc"], ["mlp", "c_proj"]];
/// Ends of names that hold no weights: causal masks, tables of rotary embeddings, positions.
const BUFFERS: [&str; 5] = ["attn.bias", "attn.masked_bias", "rotary_emb.inv_freq", "rotary_emb.cos_sin_cache", "position_ids"];

/// The tensors of a file by what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names<'a> {
    /// Name in the file by full name: [`PREFIX`] and tail. Where only the head is stored it is the embedding too.
    pub tensors: BTreeMap<String, &'a str>,
    /// The head, where it is stored beside the embedding.
    pub head: Option<&'a str>,
    /// Tensors without weights, which are left out.
    pub buffers: Vec<&'a str>,
}

/// Recognises the names of a file. Each tensor must be there once, under one prefix; a name that is none of a GPT-2 is
/// refused, with what was expected in its place.
pub fn recognise<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Names<'a>> {
    let mut found = Names::default();
    let mut trunk: Option<(String, &str)> = None;
    let mut head: Option<(String, &str)> = None;
    let mut strangers = Vec::new();
    for name in names {
        let (prefix, tail) = split(name);
        if is_buffer(&tail) {
            found.buffers.push(name);
        } else if tail == HEAD {
            if let Some((_, other)) = head.replace((prefix, name)) {
                return Err(twice(other, name));
            }
        } else if is_tail(&tail) {
            match &trunk {
                Some((first, other)) if *first != prefix => return Err(two_prefixes((first, other), (&prefix, name))),
                Some(_) => {}
                None => trunk = Some((prefix, name)),
            }
            if let Some(other) = found.tensors.insert(format!("{PREFIX}{tail}"), name) {
                return Err(twice(other, name));
            }
        } else {
            strangers.push(name);
        }
    }
    if let Some(name) = strangers.first() {
        return Err(stranger(name, trunk.is_some()));
    }
    if let (Some((trunk, first)), Some((outer, head))) = (&trunk, &head)
        && !trunk.starts_with(outer.as_str())
    {
        return Err(two_prefixes((trunk, first), (outer, head)));
    }
    found.head = head.map(|(_, name)| name);
    if !found.tensors.contains_key(EMBEDDING)
        && let Some(head) = found.head.take()
    {
        found.tensors.insert(EMBEDDING.into(), head);
    }
    Ok(found)
}

/// Prefix, as it is written, and tail of a name, without the wrappers in it.
fn split(name: &str) -> (String, String) {
    let front = |part: &&str| FRONTS.contains(part) || WRAPPERS.contains(part);
    let prefix: String = name.split('.').take_while(front).flat_map(|part| [part, "."]).collect();
    let tail: Vec<&str> = name.split('.').skip_while(front).filter(|part| !WRAPPERS.contains(part)).collect();
    (prefix, tail.join("."))
}

fn is_buffer(tail: &str) -> bool {
    BUFFERS.iter().any(|end| tail.strip_suffix(end).is_some_and(|front| front.is_empty() || front.ends_with('.')))
}

/// Whether a GPT-2 has a tensor of this name below its prefix.
fn is_tail(tail: &str) -> bool {
    let parts: Vec<&str> = tail.split('.').collect();
    let number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) && (n == "0" || !n.starts_with('0'));
    let kind = |k: &str| matches!(k, "weight" | "bias");
    match parts[..] {
        ["wte" | "wpe", "weight"] => true,
        ["ln_f", k] => kind(k),
        ["h", n, layer, k] => number(n) && kind(k) && BLOCK.contains(&[layer, ""]),
        ["h", n, layer, part, k] => number(n) && kind(k) && !part.is_empty() && BLOCK.contains(&[layer, part]),
        _ => tail == HEAD,
    }
}

fn shown(name: &str) -> String {
    format!("`{}`", printable(name))
}

fn twice(one: &str, other: &str) -> Error {
    Error::data("tensors", "each once", format!("{} and {}", shown(one), shown(other)))
}

fn two_prefixes((one, name): (&str, &str), (other, found): (&str, &str)) -> Error {
    let prefix = |p: &str| if p.is_empty() { "none".to_string() } else { shown(p) };
    let expected = format!("one prefix, {} as in {}", prefix(one), shown(name));
    Error::data("tensors", expected, format!("{} in {}", prefix(other), shown(found)))
}

/// A name that is none of a GPT-2: what it lacks.
fn stranger(name: &str, among_known: bool) -> Error {
    let cuts = name.match_indices('.').map(|(at, _)| at + 1);
    let unknown = cuts.map(|at| name.split_at(at)).find(|(_, rest)| is_tail(&split(rest).1));
    let stacks =
        [FRONTS.as_slice(), WRAPPERS.as_slice()].concat().iter().map(|f| format!("{f}.")).collect::<Vec<_>>().join(" ");
    match unknown {
        Some((prefix, _)) => {
            let expected = format!("names with no prefix or some of {stacks}");
            Error::data("tensors", expected, format!("the prefix {} in {}", shown(prefix), shown(name)))
        }
        None if among_known => Error::data("tensors", "those of a GPT-2 only", format!("{} too", shown(name))),
        None => Error::data("tensors", "those of a GPT-2, such as `transformer.h.0.attn.c_attn.weight`", shown(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few tensors of a model under a prefix.
    fn file(prefix: &str) -> Vec<String> {
        ["wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.11.attn.c_attn.bias", "h.0.mlp.c_proj.weight", "ln_f.bias"]
            .map(|tail| format!("{prefix}{tail}"))
            .to_vec()
    }

    fn names(list: &[String]) -> Result<Names<'_>> {
        recognise(list.iter().map(String::as_str))
    }

    fn refused(list: &[String]) -> String {
        names(list).unwrap_err().to_string()
    }

    #[test]
    fn prefixes_are_taken_off_in_any_stacking() {
        let plain: Vec<String> = names(&file("")).unwrap().tensors.into_keys().collect();
        assert!(plain.contains(&"transformer.h.11.attn.c_attn.bias".to_string()) && plain.len() == 6);
        for prefix in [
            "transformer.",
            "_orig_mod.",
            "module.",
            "model.",
            "_orig_mod.module.transformer.",
            "module._orig_mod.transformer.",
            "module.model.transformer.",
            "model._orig_mod.",
            "transformer._orig_mod.",
        ] {
            assert_eq!(names(&file(prefix)).unwrap().tensors.into_keys().collect::<Vec<_>>(), plain, "{prefix}");
        }
        let inner = ["transformer.h.0._orig_mod.attn._fsdp_wrapped_module.c_attn.weight".to_string()];
        assert!(names(&inner).unwrap().tensors.contains_key("transformer.h.0.attn.c_attn.weight"));
    }

    #[test]
    fn a_head_alone_is_the_embedding() {
        for (trunk, outer) in [("transformer.", ""), ("", ""), ("module.transformer.", "module."), ("model.", "")] {
            let mut list = file(trunk);
            list.push(format!("{outer}lm_head.weight"));
            let both = names(&list).unwrap();
            assert_eq!(both.head, Some(&*list[6]));
            assert_eq!(both.tensors[EMBEDDING], list[0]);
            list.remove(0);
            let alone = names(&list).unwrap();
            assert_eq!((alone.head, alone.tensors[EMBEDDING]), (None, &*list[5]));
        }
    }

    #[test]
    fn buffers_are_left_out() {
        let mut list = file("module.");
        let buffers = ["h.0.attn.bias", "h.3.attn.masked_bias", "h.3.attn.rotary_emb.inv_freq", "position_ids"];
        list.extend(buffers.map(|b| format!("module.{b}")));
        let found = names(&list).unwrap();
        assert_eq!((found.tensors.len(), found.buffers.len()), (6, 4));
    }

    #[test]
    fn a_message_says_what_was_seen_and_what_was_expected() {
        let mixed = [file("transformer."), vec!["model.ln_f.weight".into()]].concat();
        assert!(
            refused(&mixed).contains("expected one prefix, `transformer.` as in `transformer.wte.weight`, found `model.` in")
        );
        let outside = [file("transformer."), vec!["module.lm_head.weight".into()]].concat();
        assert!(refused(&outside).contains("found `module.` in `module.lm_head.weight`"));
        let twice = [file("transformer."), vec!["transformer.h.0._orig_mod.ln_1.weight".into()]].concat();
        assert!(refused(&twice).contains("expected each once, found `transformer.h.0.ln_1.weight` and"));
        let heads = ["lm_head.weight".into(), "model.lm_head.weight".into()];
        assert!(refused(&heads).contains("each once"));
        let unknown = refused(&file("backbone.transformer."));
        assert!(
            unknown.contains("transformer. _orig_mod. module.") && unknown.contains("found the prefix `backbone.` in"),
            "{unknown}"
        );
        let llama = ["model.layers.0.self_attn.q_proj.weight".to_string()];
        assert!(refused(&llama).contains("such as `transformer.h.0.attn.c_attn.weight`, found `model.layers.0"));
        let extra = [file(""), vec!["score.weight".into()]].concat();
        assert!(refused(&extra).contains("those of a GPT-2 only, found `score.weight` too"));
        for near in
            ["h.0.ln_1", "h.00.ln_1.weight", "h..ln_1.weight", "h.0.attn.weight", "h.0.ln_1..weight", "", ".", "wte.bias"]
        {
            assert!(names(&[near.to_string()]).is_err(), "{near}");
        }
        let hostile = refused(&["w\u{1b}]0;x\u{7}".into()]);
        assert!(hostile.contains("`w\\u{1b}]0;x\\u{7}`"), "{hostile}");
    }
}
