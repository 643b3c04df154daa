//! Weights from elsewhere: what `--init-from` starts a run with, and `sample` writes with. In a run the optimizer, the
//! precision states and the data start afresh, unlike with `--resume`.
//!
//! A source is a folder of Hugging Face `transformers` (in one file or in parts), a run (its newest checkpoint), or a
//! checkpoint. A context shorter than that of the weights takes the first rows of the position table, as nanoGPT does;
//! any other size that differs is refused by its tensor.

use crate::checkpoint::model::Positions;
use crate::checkpoint::parts::{self, Parts};
use crate::checkpoint::run_source::checkpoint_of;
use crate::checkpoint::{CHECKPOINTS, DONE, model, step_of};
use crate::config::{BUILTIN, PRETRAINED, RunConfig};
use crate::data::token_files;
use crate::plain_file;
use crate::run_folder::CONFIG;
use crate::vocabulary::{META, TOKENIZER, Vocabulary};
use anyhow::{Context, Result, bail};
use mantissa_core::data::tokens::BYTE_VOCAB;
use mantissa_core::model::ModelConfig;
use mantissa_core::train::{Session, TrainConfig};
use std::path::{Path, PathBuf};

/// Weights to start from.
#[derive(Debug)]
pub struct Source {
    /// Sizes of their model. Dropout is that of a run of ours, 0 for others.
    pub model: ModelConfig,
    /// How a run of ours trained them.
    pub train: Option<TrainConfig>,
    dir: PathBuf,
}

/// The flag that names the weights a run starts from.
pub const FLAG: &str = "--init-from";

/// Files of tokenizers in other forms than `tokenizer.json`.
const OTHER_TOKENIZERS: [&str; 6] =
    ["vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "tiktoken.model"];
/// Longest name of a run that is taken from its source, characters.
const MAX_NAME_CHARS: usize = 40;

/// Finds out what `path` holds. `flag` names it: where the newest checkpoint of a run is damaged, the message says how
/// to take an older one.
pub fn open(path: &Path, flag: &str) -> Result<Source> {
    if path.is_file() {
        let found = parts::foreign(path).unwrap_or("a file; name the folder it lies in");
        bail!("expected the folder of a model, found {found}: {}", path.display());
    }
    if !path.is_dir() {
        bail!("expected the folder of a model, found {}: {}", plain_file::found(path), path.display());
    }
    if path.join(CONFIG).is_file() || path.join(CHECKPOINTS).is_dir() || path.join(DONE).is_file() {
        let (dir, state) = checkpoint_of(path, flag)?;
        return Ok(Source { model: state.config.model.clone(), train: Some(state.config), dir });
    }
    if !path.join(model::CONFIG).is_file() {
        let config = model::CONFIG;
        bail!(
            "expected a run, a checkpoint or a GPT-2 of `transformers` with its {config}, found none of them: {}",
            path.display()
        );
    }
    Ok(Source { model: ModelConfig::Gpt(model::read_hf_config(path)?), train: None, dir: path.to_path_buf() })
}

impl Source {
    /// The `tokenizer.json` that came with the weights.
    pub fn tokenizer(&self) -> Option<PathBuf> {
        Some(self.home().join(TOKENIZER)).filter(|file| file.is_file())
    }

    /// Refuses weights that came with a tokenizer in a form that is not read: their tokens are no bytes, and a text
    /// would be noise to them.
    pub fn refuse_other_tokenizers(&self) -> Result<()> {
        let home = self.home();
        let found = OTHER_TOKENIZERS.iter().find(|name| home.join(name).is_file());
        match found.filter(|_| self.train.is_none() && self.tokenizer().is_none()) {
            Some(name) => bail!(
                "expected {TOKENIZER}, found {name} only; make it with AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), or give \
                --tokenizer FILE: {}",
                home.display()
            ),
            None => Ok(()),
        }
    }

    /// What the tokens of the weights mean.
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        let home = self.home();
        let ours = self.train.is_some();
        let kept = self.tokenizer().is_some() || ours && home.join(META).is_file();
        match &self.model {
            // A run says what it reads, by keeping nothing too.
            ModelConfig::Gpt(gpt) if !kept && !home.join(CONFIG).is_file() => {
                self.refuse_other_tokenizers()?;
                // So many tokens are bytes; of others nothing is known.
                Ok(if gpt.vocab == BYTE_VOCAB { Vocabulary::Bytes } else { Vocabulary::Unnamed(gpt.vocab) })
            }
            ModelConfig::Gpt(_) | ModelConfig::Mlp(_) => Vocabulary::of_run(&home),
        }
    }

    /// Puts the weights into a new session; what there is to say about them. Nothing is written before all is checked.
    pub fn load(&self, session: &Session) -> Result<Vec<String>> {
        let parts = Parts::open(&self.dir)?;
        let loaded = model::load(session, &parts, Positions::Crop);
        loaded.with_context(|| format!("the weights do not fit the model: {}", self.dir.display()))
    }

    /// The folder that files about the weights lie in: the run that a checkpoint belongs to, or theirs.
    fn home(&self) -> PathBuf {
        let run = self.train.as_ref().and_then(|_| run_of(&self.dir)).filter(|run| run.join(CONFIG).is_file());
        run.unwrap_or_else(|| self.dir.clone())
    }
}

/// The folder of the run that a checkpoint lies in, by its place alone.
fn run_of(checkpoint: &Path) -> Option<PathBuf> {
    // A path such as `.` has neither name nor parents of its own.
    let full = checkpoint.canonicalize().ok()?;
    let parent = full.parent().filter(|p| step_of(&full).is_some() && p.file_name().is_some_and(|n| n == CHECKPOINTS));
    parent.and_then(Path::parent).map(Path::to_path_buf)
}

/// What a run is called that starts from `path`: the name of that folder, or of the run that it is a checkpoint of, in
/// characters that every file system takes.
fn name(path: &Path) -> Option<String> {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let folder = run_of(&full).unwrap_or(full);
    let name = folder.file_name()?.to_string_lossy().into_owned();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.chars().take(MAX_NAME_CHARS).map(plain).collect();
    let name = name.trim_matches(['.', '-']);
    (!name.is_empty()).then(|| name.to_string())
}

/// What the model of a run is called: its preset, or what its weights come from.
pub fn model_name(config: &RunConfig) -> String {
    let source = config.run.init_from.as_ref().filter(|_| config.run.model == PRETRAINED);
    source.and_then(|path| name(Path::new(path))).unwrap_or_else(|| config.run.model.clone())
}

/// Puts the weights that a run starts from, if its config names some, into its new session; what there is to say about
/// them.
pub fn fill(session: &Session, config: &RunConfig) -> Result<Vec<String>> {
    let Some(path) = &config.run.init_from else { return Ok(Vec::new()) };
    let fill = || -> Result<Vec<String>> {
        let source = open(Path::new(path), FLAG)?;
        let mut notes = source.load(session)?;
        let data = &config.run.data;
        let text = data == BUILTIN || token_files::find(Path::new(data)).is_none();
        if let ModelConfig::Gpt(gpt) = &source.model
            && (source.train.is_none() && config.run.tokenizer.is_none() && text && gpt.vocab != BYTE_VOCAB)
        {
            notes.push(format!(
                "bytes are taken for the tokens of the weights, of which there are {}; if they mean something else, give their --tokenizer",
                gpt.vocab
            ));
        }
        Ok(notes)
    };
    fill().context(FLAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_called_after_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = dir.path().join("my run/checkpoints/step-00000010");
        std::fs::create_dir_all(&checkpoint).unwrap();
        assert_eq!(name(&checkpoint).unwrap(), "my-run");
        assert_eq!(name(&checkpoint.join("../..")).unwrap(), "my-run");
        assert_eq!(name(Path::new("/models/openai-community/gpt2/")).unwrap(), "gpt2");
        assert_eq!(name(Path::new("/m/.gewicht\u{e4}\u{1b}[x")).unwrap(), "gewicht---x");
        assert_eq!(name(Path::new(&format!("/m/{}", "x".repeat(300)))).unwrap().len(), MAX_NAME_CHARS);
        assert_eq!(name(Path::new("/")), None);
    }
}
