//! `mantissa cast`: what number formats do to numbers. [`table`] shows single numbers, [`tensors`] converts files,
//! [`encoder`] holds the rounding that both share; the codecs themselves are those of `mantissa_core::float`.

pub mod encoder;
pub mod table;
pub mod tensors;

use crate::cli::cast::CastArgs;
use crate::show::printable;
use crate::{Outcome, out, plain_file};
use anyhow::{Result, bail};
use encoder::Encoder;
use std::io::Write;
use std::path::Path;

/// `mantissa cast`.
pub fn command(args: &CastArgs) -> Result<Outcome> {
    let mut out = out::stdout();
    let written = match (args.to, args.from) {
        (Some(dtype), _) => {
            let encoder = Encoder::new(dtype, args.mode, args.seed, args.scale_rule)?;
            let [input, output] = files(args)?;
            let done = tensors::encode(input, output, &encoder)?;
            writeln!(out, "{}", said(output, &done, &format!("as {dtype}")))
        }
        (None, Some(dtype)) => {
            let [input, output] = files(args)?;
            let done = tensors::decode(input, output, dtype)?;
            writeln!(out, "{}", said(output, &done, &format!("from {dtype} as f32")))
        }
        (None, None) if args.force => bail!("cast: --force: expected --to or --from beside it, which write a file"),
        (None, None) => {
            let numbers = args.what.iter().map(|text| number(text)).collect::<Result<Vec<f64>>>()?;
            write!(out, "{}", table::render(&args.what, &numbers, args.mode, args.seed, args.scale_rule)?)
        }
    };
    match written {
        // A reader that has seen enough is no error.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        Err(_) | Ok(()) => Ok(Outcome::Done),
    }
}

/// The file to read and the one to write, which is another one, and none that is there unless it may be replaced.
fn files(args: &CastArgs) -> Result<[&Path; 2]> {
    let [input, output] = &args.what[..] else {
        bail!("cast: expected two files, IN.safetensors and OUT.safetensors, got {} names", args.what.len());
    };
    let [input, output] = [Path::new(input), Path::new(output)];
    plain_file::refuse_same("cast", input, output)?;
    plain_file::refuse_taken("cast", output, args.force)?;
    Ok([input, output])
}

/// What was done, in a line.
fn said(output: &Path, done: &tensors::Done, how: &str) -> String {
    let count = |n: usize| format!("{n} {}", if n == 1 { "tensor" } else { "tensors" });
    let copied = match done.copied {
        0 => String::new(),
        n => {
            let types: Vec<&str> = done.copied_types.iter().map(String::as_str).collect();
            format!(", {} copied ({})", count(n), types.join(", "))
        }
    };
    format!("{}: {} {how}{copied}", printable(&output.display().to_string()), count(done.converted))
}

fn number(text: &str) -> Result<f64> {
    let beyond = |x: f64| x.is_infinite() && !text.to_ascii_lowercase().contains("inf");
    match text.parse::<f64>() {
        Ok(x) if beyond(x) => bail!("cast: expected a number that f64 can hold, got `{text}`"),
        Ok(x) => Ok(x),
        Err(_) => bail!("cast: expected numbers, or --to or --from with two safetensors files, got `{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers() {
        assert_eq!(number("-1e-9").unwrap(), -1e-9);
        assert_eq!(number("inf").unwrap(), f64::INFINITY);
        assert!(number("nan").unwrap().is_nan());
        assert!(number("1e400").unwrap_err().to_string().contains("f64 can hold"));
        assert!(number("model.safetensors").unwrap_err().to_string().contains("--to"));
    }

    #[test]
    fn what_was_copied_is_said_once() {
        let mut done = tensors::Done { converted: 1, ..Default::default() };
        assert_eq!(said(Path::new("o"), &done, "as e4m3"), "o: 1 tensor as e4m3");
        (done.converted, done.copied, done.copied_types) = (12, 2, ["I64", "BOOL"].map(String::from).into());
        assert_eq!(said(Path::new("o"), &done, "as e4m3"), "o: 12 tensors as e4m3, 2 tensors copied (BOOL, I64)");
    }
}
