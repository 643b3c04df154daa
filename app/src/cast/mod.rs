//! `mantissa cast`: what number formats do to numbers. [`table`] shows single numbers, [`tensors`] converts files, [`encoder`] holds the
//! rounding that both share; the codecs themselves are those of `mantissa_core::float`.

pub mod encoder;
pub mod table;
pub mod tensors;

use crate::Outcome;
use crate::cli::cast::CastArgs;
use anyhow::{Result, bail};
use encoder::Encoder;
use std::io::Write;
use std::path::Path;

/// `mantissa cast`.
pub fn command(args: &CastArgs) -> Result<Outcome> {
    let mut out = std::io::stdout().lock();
    let written = match (args.to, args.from) {
        (Some(dtype), _) => {
            let [input, output] = files(&args.what)?;
            let encoder = Encoder::new(dtype, args.mode, args.seed, args.scale_rule)?;
            let done = tensors::encode(input, output, &encoder)?;
            writeln!(out, "{}: {done} tensors as {dtype}", output.display())
        }
        (None, Some(dtype)) => {
            let [input, output] = files(&args.what)?;
            let done = tensors::decode(input, output, dtype)?;
            writeln!(out, "{}: {done} tensors from {dtype} as f32", output.display())
        }
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

fn files(what: &[String]) -> Result<[&Path; 2]> {
    match what {
        [input, output] => Ok([Path::new(input), Path::new(output)]),
        other => bail!("cast: expected two files, IN.safetensors and OUT.safetensors, got {} names", other.len()),
    }
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
        assert!(files(&["a".into()]).is_err());
    }
}
