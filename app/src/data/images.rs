//! IDX images and their labels, gzipped or not, or the drawn digits.

use super::Loaded;
use super::folder::{self, LeftOut};
use crate::config::BUILTIN;
use crate::plain_file;
use crate::show::thousands;
use crate::vocabulary::Vocabulary;
use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use mantissa_core::data::formats::GZIP;
use mantissa_core::data::images::{IDX_IMAGES, IDX_LABELS, idx_len};
use mantissa_core::data::{Dataset, Images, synthetic_digits};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes of an IDX header.
const IDX_HEADER_BYTES: u64 = 16;
/// Seed of the drawn digits: the data set is one and the same for every run.
const GLYPH_SEED: u64 = 1;

/// Loads the images that `--data` names.
pub(super) fn load(name: &str) -> Result<Loaded> {
    let (images, what) = if name == BUILTIN {
        (synthetic_digits::digits(synthetic_digits::DEFAULT_COUNT, GLYPH_SEED), "drawn digits")
    } else {
        let path = images_file(Path::new(name))?;
        let labels = labels_beside(&path)?;
        let pixels = read_idx("IDX images", IDX_IMAGES, &path)?;
        let label_bytes = read_idx("IDX labels", IDX_LABELS, &labels)?;
        let images =
            Images::from_idx(&pixels, &label_bytes).with_context(|| format!("cannot use the images: {}", path.display()))?;
        (images, "IDX images")
    };
    let [rows, cols] = images.size();
    let count = thousands(images.train_len() + images.val_len());
    let about = format!("{name} ({what}): {count} of {rows} x {cols}, last tenth held out");
    Ok(Loaded { dataset: Dataset::Images(images), vocabulary: Vocabulary::Bytes, about, notes: Vec::new() })
}

/// The image file itself, or the one in a folder (that of the training part, if there are several).
fn images_file(path: &Path) -> Result<PathBuf> {
    let meta = std::fs::metadata(path).with_context(|| format!("cannot read the data: {}", path.display()))?;
    if !meta.is_dir() {
        return Ok(path.to_path_buf());
    }
    // Whatever else is there is none of its business.
    let mut files = folder::files(path, &mut LeftOut::default())?;
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    files.retain(|p| name(p).contains("images") && name(p).contains("idx3"));
    files.sort_by_key(|p| (!name(p).starts_with("train"), p.clone()));
    files
        .into_iter()
        .next()
        .with_context(|| format!("data: expected an IDX image file (*images*idx3*), found none in: {}", path.display()))
}

/// The label file that belongs to an image file: `images` and `idx3` replaced in its name, gzipped or not.
fn labels_beside(images: &Path) -> Result<PathBuf> {
    let name = images.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let wanted = name.replace("images", "labels").replace("idx3", "idx1");
    if wanted == name {
        bail!(
            "data: expected an IDX image file named like train-images-idx3-ubyte, so that its labels can be found: {}",
            images.display()
        );
    }
    let plain = wanted.strip_suffix(".gz").unwrap_or(&wanted).to_string();
    let candidates = [wanted.clone(), plain.clone(), format!("{plain}.gz")];
    let found = candidates.iter().map(|c| images.with_file_name(c)).find(|p| p.is_file());
    found.with_context(|| format!("data: expected the labels `{wanted}` beside the images: {}", images.display()))
}

/// Contents of an IDX file, gzipped or not; never more than one byte beyond what its header claims.
fn read_idx(what: &str, magic: u32, path: &Path) -> Result<Vec<u8>> {
    let context = || format!("cannot read {what}: {}", path.display());
    let (file, _) = plain_file::open(path).with_context(context)?;
    let mut reader = BufReader::new(file);
    let packed = reader.fill_buf().with_context(context)?.starts_with(GZIP);
    let mut reader: Box<dyn Read> = if packed { Box::new(GzDecoder::new(reader)) } else { Box::new(reader) };
    let mut bytes = Vec::new();
    reader.by_ref().take(IDX_HEADER_BYTES).read_to_end(&mut bytes).with_context(context)?;
    let claimed = idx_len(what, magic, &bytes).with_context(context)?;
    let rest = (claimed + 1).saturating_sub(bytes.len() as u64);
    reader.take(rest).read_to_end(&mut bytes).with_context(context)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t10k-labels-idx1-ubyte.gz"), b"x").unwrap();
        let found = labels_beside(&dir.path().join("t10k-images-idx3-ubyte")).unwrap();
        assert!(found.ends_with("t10k-labels-idx1-ubyte.gz"));
        assert!(labels_beside(&dir.path().join("train-images-idx3-ubyte")).is_err());
        assert!(labels_beside(&dir.path().join("pictures")).is_err());
    }
}
