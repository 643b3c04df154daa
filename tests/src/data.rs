//! Generated data: values away from kinks and ties, and a text with structure to learn.

use mantissa_core::rng::Rng;

/// `n` values spread over `[lo, hi)`, no two equal.
pub fn spread(n: usize, lo: f32, hi: f32, stream: u32) -> Vec<f32> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut rng = Rng::new(42, stream);
    for i in (1..n).rev() {
        order.swap(i, rng.below(i as u64 + 1) as usize);
    }
    // One value per cell of a grid, away from the cell's borders: neighbours differ by at least half a cell.
    order.into_iter().map(|i| lo + (hi - lo) * (i as f32 + 0.25 + 0.5 * rng.uniform()) / n as f32).collect()
}

/// Normal values with mean 0 and deviation `std`.
pub fn normal(n: usize, std: f32, stream: u32) -> Vec<f32> {
    let mut rng = Rng::new(7, stream);
    (0..n).map(|_| rng.normal() * std).collect()
}

/// Bytes of a chain over 27 letters in which each letter has [`SUCCESSORS`] likely ones: quick to learn, and as it can
/// be known only to `ln SUCCESSORS` nats a byte, a relative tolerance on the loss means something.
pub fn text(bytes: usize) -> Vec<u8> {
    const LETTERS: &[u8; 27] = b"abcdefghijklmnopqrstuvwxyz ";
    let mut rng = Rng::new(11, 3);
    let table: Vec<Vec<u8>> =
        LETTERS.iter().map(|_| (0..SUCCESSORS).map(|_| LETTERS[rng.below(27) as usize]).collect()).collect();
    let mut at = b'a';
    (0..bytes)
        .map(|_| {
            let row = LETTERS.iter().position(|&l| l == at).unwrap_or(0);
            at = table[row][rng.below(SUCCESSORS) as usize];
            at
        })
        .collect()
}

/// Letters that may follow a letter of [`text`].
pub const SUCCESSORS: u64 = 6;

/// `batch` windows of `text` as tokens and the tokens that follow them.
pub fn windows(text: &[u8], batch: usize, context: usize, rng: &mut Rng) -> (Vec<u32>, Vec<u32>) {
    let (mut x, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..batch {
        let at = rng.below((text.len() - context) as u64) as usize;
        x.extend(text[at..at + context].iter().map(|&b| u32::from(b)));
        targets.extend(text[at + 1..at + context + 1].iter().map(|&b| u32::from(b)));
    }
    (x, targets)
}
