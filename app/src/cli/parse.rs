//! From the command line of the process to flags, and what is said where that fails: clap's message, in this program's
//! words where it would repeat itself or know too little.

use crate::{EXIT_REFUSED, out};
use clap::Parser;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use mantissa_core::near;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// Words for a device that others have and this program does not, and what to say instead.
const DEVICES: [(&[&str], &str); 2] = [
    (
        &["cuda", "nvidia", "rocm", "hip", "amd", "xpu", "intel"],
        "cards of every vendor are `wgpu` here, through Vulkan, Metal or DX12",
    ),
    (&["gpu", "vulkan", "metal", "mps", "dx12", "opengl", "gl"], "that is `wgpu` here"),
];

/// The flags that this process was started with. Otherwise the message, or the help that was asked for, has been
/// printed, and this is the exit code.
pub fn parse<C: Parser>() -> Result<C, ExitCode> {
    C::try_parse_from(joined(std::env::args_os())).map_err(|error| {
        let error = in_our_words(error, &C::command());
        if error.use_stderr() {
            // Arguments stand in it, and a shell writes file names into them. Nowhere is left to report that stderr is
            // closed.
            let _ = write!(out::stderr(), "{}", error.render());
        } else if let Err(e) = error.print().and_then(|()| std::io::stdout().flush())
            && e.kind() != std::io::ErrorKind::BrokenPipe
        {
            // The help was what was asked for. A reader that has seen enough is no error.
            let _ = writeln!(out::stderr(), "error: cannot write to stdout: {e}");
            return ExitCode::from(EXIT_REFUSED);
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_REFUSED))
    })
}

/// Arguments in which a negative number that follows a flag is written as its value, `--lr=-1`: clap takes it for a
/// flag of its own, and the message would not say what the flag expects.
fn joined(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let number = |a: &OsString| a.to_str().is_some_and(|a| a.starts_with('-') && a.parse::<f64>().is_ok());
    let flag = |a: &OsString| a.to_str().is_some_and(|a| a.len() > 2 && a.starts_with("--") && !a.contains('='));
    let mut out: Vec<OsString> = Vec::new();
    let mut verbatim = false;
    for arg in args {
        match out.last_mut() {
            Some(last) if !verbatim && number(&arg) && flag(last) => {
                last.push("=");
                last.push(arg);
            }
            Some(_) | None => {
                // What follows a bare `--` is no flag.
                verbatim |= arg == "--";
                out.push(arg);
            }
        }
    }
    out
}

/// The error, said once and with what may be meant.
fn in_our_words(mut error: Error, command: &clap::Command) -> Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _other => None,
    };
    let (Some(arg), Some(value)) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue)) else { return error };
    let flag = arg.split_whitespace().next().unwrap_or(&arg).to_string();
    let refusal = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<mantissa_core::Error>());
    if let Some(mantissa_core::Error::Config { expected, got, .. }) = refusal {
        let message = format!("{flag}: expected {expected}, got {got}\n");
        return Error::raw(ErrorKind::ValueValidation, message).with_cmd(command);
    }
    if error.kind() == ErrorKind::InvalidValue
        && let Some(tip) = tip(&flag, &value, error.get(ContextKind::ValidValue))
    {
        error.remove(ContextKind::SuggestedValue);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// What `value` may mean, among the values that the flag takes.
fn tip(flag: &str, value: &str, valid: Option<&ContextValue>) -> Option<String> {
    let lower = value.to_ascii_lowercase();
    if flag.starts_with("--device")
        && let Some((_, tip)) = DEVICES.iter().find(|(words, _)| words.contains(&lower.split(':').next().unwrap_or(&lower)))
    {
        return Some(tip.to_string());
    }
    let Some(ContextValue::Strings(valid)) = valid else { return None };
    let valid: Vec<&str> = valid.iter().map(String::as_str).collect();
    let near = near::names(value, &valid);
    (!near.is_empty()).then(|| format!("did you mean {}?", near.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::{Arg, CommandFactory};

    fn message(args: &[&str]) -> String {
        let args = joined(std::iter::once("mantissa").chain(args.iter().copied()).map(OsString::from));
        let error = Cli::try_parse_from(args).map(|_| ()).expect_err("is refused");
        in_our_words(error, &Cli::command()).render().to_string()
    }

    #[test]
    fn negative_numbers_belong_to_the_flag_before_them() {
        let all = |args: &[&str]| {
            let joined = joined(args.iter().map(OsString::from));
            joined.into_iter().map(|a| a.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(all(&["train", "--lr", "-1e-3", "--steps", "-5"]), "train --lr=-1e-3 --steps=-5");
        assert_eq!(all(&["train", "--lr", "-0", "--min-lr", "-.5", "--json"]), "train --lr=-0 --min-lr=-.5 --json");
        assert_eq!(all(&["cast", "-1", "--seed=3", "-2"]), "cast -1 --seed=3 -2");
        assert_eq!(all(&["cast", "--", "-inf", "-1"]), "cast -- -inf -1");
        assert_eq!(all(&["cast", "--mode", "ieee", "-1", "-2"]), "cast --mode ieee -1 -2");
    }

    /// Flags of every command that take a number.
    fn numeric() -> Vec<(String, Arg)> {
        let number = |a: &Arg| {
            let names = a.get_value_names().unwrap_or_default();
            a.get_long().is_some()
                && names.iter().any(|n| ["N", "X", "K", "P", "V", "NORM", "PCT", "MIB"].contains(&n.as_str()))
        };
        let of = |c: &clap::Command| c.get_arguments().filter(|a| number(a)).cloned().collect::<Vec<_>>();
        let commands: Vec<clap::Command> = Cli::command().get_subcommands().cloned().collect();
        commands.iter().flat_map(|c| of(c).into_iter().map(|a| (c.get_name().to_string(), a))).collect()
    }

    #[test]
    fn every_number_that_is_refused_says_what_is_expected() {
        let flags = numeric();
        assert!(flags.len() > 60, "found only {} numeric flags", flags.len());
        for (command, arg) in flags {
            let flag = format!("--{}", arg.get_long().unwrap());
            for bad in ["-1", "-0.5", "-1e-3", "many", "99999999999999999999999"] {
                let args = [command.as_str(), &flag, bad];
                let parsed = Cli::try_parse_from(joined(["mantissa"].into_iter().chain(args).map(OsString::from)));
                // A number that only the rest of the config can refuse is refused there.
                let Err(error) = parsed else { continue };
                if error.kind() == ErrorKind::MissingRequiredArgument {
                    continue;
                }
                let text = in_our_words(error, &Cli::command()).render().to_string();
                assert!(text.contains("expected ") && text.contains(&flag), "{args:?}: {text}");
                assert!(!text.contains("digit") && !text.contains("unexpected argument"), "{args:?}: {text}");
            }
        }
    }

    #[test]
    fn a_wrong_name_is_refused_in_one_sentence_with_the_near_one() {
        let text = message(&["train", "--recipe", "fp16"]);
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            "error: --recipe: expected one of f32, tf32, bf16, f16, fp8-delayed, fp8-current, mxfp8, got `fp16` (did you mean f16?)"
        );
        assert!(message(&["train", "--override", "gpt.head=fp32"]).contains("did you mean f32?"));
        assert!(message(&["plan", "--gpu", "h1000"]).contains("did you mean h100?"));
        assert!(message(&["cast", "--to", "fp16", "1"]).contains("did you mean f16?"));
        assert!(message(&["cast", "--to", "fp8", "1"]).contains("did you mean e4m3 or e5m2?"));
        assert!(message(&["train", "--optim", "AdamW"]).contains("tip: did you mean adamw?"));
        let text = message(&["train", "--device", "cuda:0"]);
        assert!(text.contains("tip: cards of every vendor are `wgpu`") && !text.contains("similar"), "{text}");
        assert!(message(&["train", "--device", "gpu"]).contains("tip: that is `wgpu` here"));
    }
}
