//! The files that a run was started with, wherever they are now. A run may be moved, with its data or without, and be
//! gone on with from anywhere: data are those of the run if their digest is, whatever their path. A tokenizer is the
//! copy that the run folder keeps.

use super::resume::Resume;
use crate::config::{BUILTIN, RunConfig, RunOptions};
use crate::data::{self, Loaded, Reading, digest};
use crate::digest::Digest;
use crate::vocabulary::TOKENIZER;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Loads the data of a run, and their digest; with `resume` those of the run that goes on.
pub fn load(config: &RunConfig, resume: Option<&Resume>, how: Reading) -> Result<(Loaded, Digest)> {
    let wanted = resume.and_then(|r| r.checkpoint.as_ref()).map(|(_, state)| state.data.digest);
    let with_digest = |config: &RunConfig| -> Result<(Loaded, Digest)> {
        let loaded = data::load(config, how)?;
        let digest = digest::of(&loaded.dataset, wanted).context("cannot read the data")?;
        Ok((loaded, digest))
    };
    let Some(resume) = resume else { return with_digest(config) };
    let run = resume.folder.path();
    let mut config = config.clone();
    if let Some(tokenizer) = &config.run.tokenizer {
        config.run.tokenizer = Some(own_tokenizer(run, tokenizer, &config.run, resume.tokenizer_given)?);
    }
    if let Some(before) = &resume.data_before {
        let (loaded, found) = with_digest(&config)?;
        return match wanted {
            Some(wanted) if wanted == found => Ok((loaded, found)),
            None if *before == config.run.data => Ok((loaded, found)),
            Some(wanted) => bail!(
                "--resume: run.data: expected {wanted}, as in the run ({before}), got {found}; a run with other data is a new run: {}",
                config.run.data
            ),
            None => bail!(
                "--resume: run.data: expected {before} as in the run, which has no checkpoint yet, got {}",
                config.run.data
            ),
        };
    }
    if config.run.data == BUILTIN {
        return with_digest(&config);
    }
    let places = places(&config.run.data, run, config.run.started_in.as_deref());
    let mut tried = Vec::new();
    for (n, place) in places.iter().enumerate() {
        if !place.exists() {
            tried.push(format!("{} (not there)", place.display()));
            continue;
        }
        config.run.data = place.display().to_string();
        match with_digest(&config) {
            Ok((loaded, found)) if n == 0 || wanted.is_none_or(|wanted| wanted == found) => return Ok((loaded, found)),
            Ok((_, found)) => tried.push(format!("{} (other data: {found})", place.display())),
            Err(e) if n == 0 => return Err(e),
            Err(e) => tried.push(format!("{} ({e:#})", place.display())),
        }
    }
    bail!(
        "--resume: the data of the run are not there; give --data PATH, where any path with the same data will do; tried {}",
        tried.join(", ")
    )
}

/// Points to where the files of a run are now, as far as they are found.
pub fn locate(options: &mut RunOptions, run: &Path) {
    if options.tokenizer.is_some() && run.join(TOKENIZER).is_file() {
        options.tokenizer = Some(run.join(TOKENIZER).display().to_string());
    }
    if options.data != BUILTIN
        && let Some(place) = places(&options.data, run, options.started_in.as_deref()).iter().find(|place| place.exists())
    {
        options.data = place.display().to_string();
    }
}

/// The tokenizer that the run folder keeps; if that is gone, the one that it was made from. Another one is refused.
fn own_tokenizer(run: &Path, asked: &str, options: &RunOptions, given: bool) -> Result<String> {
    let own = run.join(TOKENIZER);
    if own.is_file() {
        if given {
            let (kept, found) = (Digest::of_file(&own)?, Digest::of_file(Path::new(asked)).context("--tokenizer")?);
            if kept != found {
                bail!("--resume: run.tokenizer: expected {kept}, as kept in the run, got {found}: {asked}");
            }
        }
        return Ok(own.display().to_string());
    }
    let places = if given { vec![asked.into()] } else { places(asked, run, options.started_in.as_deref()) };
    match places.iter().find(|place| place.is_file()) {
        Some(place) => Ok(place.display().to_string()),
        None => {
            let tried: Vec<String> = std::iter::once(&own).chain(&places).map(|place| place.display().to_string()).collect();
            bail!("--resume: the tokenizer of the run is not there; give --tokenizer FILE; tried {}", tried.join(", "))
        }
    }
}

/// Where a file of a run may be, the likeliest place first. A relative path was about the folder in which the run was
/// started; that may have moved together with the run, or the file may lie beside whoever goes on.
fn places(name: &str, run: &Path, started_in: Option<&str>) -> Vec<PathBuf> {
    let path = Path::new(name);
    let relative = match (path.is_absolute(), started_in) {
        (false, _) => Some(path),
        (true, Some(start)) => path.strip_prefix(start).ok(),
        (true, None) => None,
    };
    let mut out: Vec<PathBuf> = path.is_absolute().then(|| path.to_path_buf()).into_iter().collect();
    if let Some(relative) = relative {
        let run = run.canonicalize().unwrap_or_else(|_| run.to_path_buf());
        // The usual folder of a run is `runs/NAME` below the one in which it was started.
        let around = run.ancestors().take(3).map(Path::to_path_buf);
        let bases = started_in.map(PathBuf::from).into_iter().chain([PathBuf::new()]).chain(around);
        out.extend(bases.map(|base| base.join(relative)));
    }
    let mut seen = Vec::new();
    out.retain(|place| {
        let full = std::path::absolute(place).unwrap_or_else(|_| place.clone());
        let new = !seen.contains(&full);
        seen.push(full);
        new
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_looked_for_where_the_run_was_started_first() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let run = root.join("runs/r");
        std::fs::create_dir_all(&run).unwrap();
        let found = places("d/notes.txt", &run, Some("/start"));
        let expected = ["/start/d/notes.txt".into(), PathBuf::from("d/notes.txt"), run.join("d/notes.txt")];
        assert_eq!(found[..3], expected);
        assert_eq!(found[3..], [root.join("runs/d/notes.txt"), root.join("d/notes.txt")]);
        // Started in the folder that is above the run: once.
        assert_eq!(places("n", &run, root.to_str()).len(), 4);
        // An absolute path below the place of the start may have moved with it.
        let found = places("/start/d/n", &run, Some("/start"));
        assert!(found[0] == Path::new("/start/d/n") && found.contains(&root.join("d/n")), "{found:?}");
        assert_eq!(places("/elsewhere/n", &run, Some("/start")), [PathBuf::from("/elsewhere/n")]);
    }
}
