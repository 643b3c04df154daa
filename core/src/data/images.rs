//! Labelled grey images, and the IDX format of MNIST (<http://yann.lecun.com/exdb/mnist/>) read from memory.
//!
//! Pixels are kept as bytes and become f32 in a batch: `p / 255` in [0, 1], then shifted and scaled by mean and
//! deviation of the training part. Every size in an IDX header is checked against the bytes that are there before
//! anything is allocated.

use super::batch::BatchBytes;
use super::tokens::VAL_PARTS;
use crate::error::{Error, Result};

/// First word of an IDX file of unsigned bytes with three axes: images.
pub const IDX_IMAGES: u32 = 0x0000_0803;
/// First word of an IDX file of unsigned bytes with one axis: labels.
pub const IDX_LABELS: u32 = 0x0000_0801;

/// Largest pixel count of one image file: a header that claims more is not believed.
const MAX_PIXELS: u64 = 1 << 32;

/// Grey images with labels; the last tenth is held out.
#[derive(Clone, Debug)]
pub struct Images {
    pixels: Vec<u8>,
    labels: Vec<u8>,
    size: [usize; 2],
    train_len: usize,
    mean: f32,
    inv_std: f32,
}

impl Images {
    /// `pixels` holds one image of `size` (rows, columns) after the other. Fails for fewer than ten labels, and if
    /// pixels and labels do not match.
    pub fn new(pixels: Vec<u8>, labels: Vec<u8>, size: [usize; 2]) -> Result<Images> {
        let n = labels.len();
        if n < VAL_PARTS {
            return Err(Error::data("images", format!("at least {VAL_PARTS}, so that a part can be held out"), n.to_string()));
        }
        let pixel_count = size[0].checked_mul(size[1]).and_then(|p| p.checked_mul(n));
        if size.contains(&0) || pixel_count != Some(pixels.len()) {
            let expected = format!("{n} images of {} x {} for {n} labels", size[0], size[1]);
            return Err(Error::data("images", expected, format!("{} pixels", pixels.len())));
        }
        let train_len = n - n / VAL_PARTS;
        let (mean, std) = moments(&pixels[..train_len * size[0] * size[1]]);
        // Blank images have no spread: leave them alone.
        let inv_std = if std > 0.0 { 1.0 / std } else { 1.0 };
        Ok(Images { pixels, labels, size, train_len, mean, inv_std })
    }

    /// Reads an IDX image file and its IDX label file. Fails if a header, a size or the number of labels is wrong.
    pub fn from_idx(images: &[u8], labels: &[u8]) -> Result<Images> {
        let ([n, rows, cols], pixels) = idx::<3>("IDX images", IDX_IMAGES, images)?;
        let ([label_count], labels) = idx::<1>("IDX labels", IDX_LABELS, labels)?;
        if n != label_count {
            return Err(Error::data("IDX labels", format!("{n} labels, one for each image"), label_count.to_string()));
        }
        Images::new(pixels.to_vec(), labels.to_vec(), [rows, cols])
    }

    /// Number of images to learn from.
    pub fn train_len(&self) -> usize {
        self.train_len
    }

    /// Number of images held out.
    pub fn val_len(&self) -> usize {
        self.labels.len() - self.train_len
    }

    /// Rows and columns of an image.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Label of image `i`; those held out come last.
    pub fn label(&self, i: usize) -> u8 {
        self.labels[i]
    }

    /// Pixels of image `i`, row by row.
    pub fn image(&self, i: usize) -> &[u8] {
        let n = self.size[0] * self.size[1];
        &self.pixels[i * n..(i + 1) * n]
    }

    /// The images fit a classifier with `inputs` inputs and `classes` classes. Fails if they have other sizes, or a
    /// label that is not below `classes`.
    pub fn check(&self, inputs: usize, classes: usize) -> Result<()> {
        let [rows, cols] = self.size;
        if rows * cols != inputs {
            let found = format!("{} ({rows} x {cols})", rows * cols);
            return Err(Error::data("images", format!("{inputs} pixels, as the model has inputs"), found));
        }
        match self.labels.iter().max() {
            Some(&label) if usize::from(label) >= classes => Err(Error::data(
                "labels",
                format!("0 to {}, as the model has {classes} classes", classes - 1),
                label.to_string(),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Appends image `i` and its label to a batch.
    pub fn push(&self, i: usize, out: &mut BatchBytes) {
        let normal = |&p: &u8| (f32::from(p) / 255.0 - self.mean) * self.inv_std;
        out.x.extend(self.image(i).iter().flat_map(|p| normal(p).to_ne_bytes()));
        out.targets.extend(u32::from(self.labels[i]).to_ne_bytes());
    }
}

/// Mean and deviation of `p / 255`. Sums are integers, so the result does not depend on order.
fn moments(pixels: &[u8]) -> (f32, f32) {
    let (sum, squares) = pixels.iter().fold((0u64, 0u64), |(s, q), &p| (s + u64::from(p), q + u64::from(p) * u64::from(p)));
    let n = pixels.len().max(1) as f64;
    let mean = sum as f64 / n / 255.0;
    let variance = (squares as f64 / n / (255.0 * 255.0) - mean * mean).max(0.0);
    (mean as f32, variance.sqrt() as f32)
}

/// Bytes that an IDX file of `magic` must have, judged by its first bytes; for readers that want to bound what they
/// decompress. Fails if the header is cut, has another magic number, or sizes beyond all reason.
pub fn idx_len(what: &str, magic: u32, header: &[u8]) -> Result<u64> {
    let axes = match magic {
        IDX_IMAGES => 3,
        _labels => 1,
    };
    let need = 4 * (axes + 1);
    if header.len() < need {
        return Err(Error::data(what, format!("a header of {need} bytes"), format!("{} bytes", header.len())));
    }
    let word = |i: usize| u32::from_be_bytes([header[4 * i], header[4 * i + 1], header[4 * i + 2], header[4 * i + 3]]);
    if word(0) != magic {
        return Err(Error::data(what, format!("magic number {magic:#010x}"), format!("{:#010x}", word(0))));
    }
    let count = (1..=axes).try_fold(1u64, |n, i| n.checked_mul(u64::from(word(i)))).filter(|&n| n <= MAX_PIXELS);
    match count {
        Some(n) => Ok(need as u64 + n),
        None => {
            let claimed: Vec<String> = (1..=axes).map(|i| word(i).to_string()).collect();
            Err(Error::data(
                what,
                format!("at most {MAX_PIXELS} bytes"),
                format!("a header that claims {}", claimed.join(" x ")),
            ))
        }
    }
}

/// Axes and contents of an IDX file.
fn idx<'a, const AXES: usize>(what: &str, magic: u32, bytes: &'a [u8]) -> Result<([usize; AXES], &'a [u8])> {
    let expected = idx_len(what, magic, bytes)?;
    let start = 4 * (AXES + 1);
    if expected != bytes.len() as u64 {
        let which = if expected > bytes.len() as u64 { "truncated" } else { "too long" };
        return Err(Error::data(what, format!("{expected} bytes, as its header says"), format!("{} ({which})", bytes.len())));
    }
    let axis = |i: usize| u32::from_be_bytes([bytes[4 * i + 4], bytes[4 * i + 5], bytes[4 * i + 6], bytes[4 * i + 7]]) as usize;
    Ok((std::array::from_fn(axis), &bytes[start..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(magic: u32, axes: &[u32], body: usize) -> Vec<u8> {
        let header = std::iter::once(magic).chain(axes.iter().copied()).flat_map(u32::to_be_bytes);
        header.chain((0..body).map(|i| (i % 7) as u8)).collect()
    }

    #[test]
    fn reads_what_the_format_says() {
        let images = Images::from_idx(&file(IDX_IMAGES, &[20, 2, 3], 120), &file(IDX_LABELS, &[20], 20)).unwrap();
        assert_eq!((images.train_len(), images.val_len(), images.size()), (18, 2, [2, 3]));
        assert_eq!(images.image(1), [6, 0, 1, 2, 3, 4]);
        assert_eq!(images.label(8), 1);
    }

    #[test]
    fn pixels_of_the_training_part_have_mean_0_and_deviation_1() {
        let images = Images::from_idx(&file(IDX_IMAGES, &[20, 2, 3], 120), &file(IDX_LABELS, &[20], 20)).unwrap();
        let mut out = BatchBytes::default();
        (0..18).for_each(|i| images.push(i, &mut out));
        let x: &[f32] = bytemuck::cast_slice(&out.x);
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let variance = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
        assert!(mean.abs() <= 1e-4 && (variance - 1.0).abs() <= 1e-3, "{mean} {variance}");
    }

    #[test]
    fn wrong_files_are_refused_by_name() {
        let (images, labels) = (file(IDX_IMAGES, &[20, 2, 3], 120), file(IDX_LABELS, &[20], 20));
        let error = |i: &[u8], l: &[u8]| Images::from_idx(i, l).unwrap_err().to_string();
        assert!(
            error(&labels, &images).contains("magic number 0x00000803, found 0x00000801")
                || error(&labels, &images).contains("header")
        );
        assert!(error(&images[..100], &labels).contains("truncated"));
        assert!(error(&[&images[..], &[0]].concat(), &labels).contains("too long"));
        assert!(error(&images[..9], &labels).contains("header of 16 bytes"));
        assert!(error(&[], &labels).contains("0 bytes"));
        assert!(error(&file(IDX_IMAGES, &[u32::MAX; 3], 10), &labels).contains("claims 4294967295 x 4294967295"));
        assert!(error(&file(IDX_IMAGES, &[u32::MAX, 1, 1], 10), &labels).contains("truncated"), "not believed, not allocated");
        assert!(error(&images, &file(IDX_LABELS, &[19], 19)).contains("20 labels"));
        assert!(error(&file(IDX_IMAGES, &[20, 0, 3], 0), &labels).contains("20 images of 0 x 3"));
        assert!(error(&file(IDX_IMAGES, &[2, 1, 1], 2), &file(IDX_LABELS, &[2], 2)).contains("at least 10"));
    }

    #[test]
    fn images_must_fit_the_model() {
        let images = Images::from_idx(&file(IDX_IMAGES, &[20, 2, 3], 120), &file(IDX_LABELS, &[20], 20)).unwrap();
        assert!(images.check(6, 7).is_ok());
        assert!(images.check(6, 6).unwrap_err().to_string().contains("found 6"));
        assert!(images.check(784, 10).unwrap_err().to_string().contains("6 (2 x 3)"));
    }
}
