//! Counter-based random numbers: Threefry-2x32 with 20 rounds (Salmon et al., SC'11; Random123).
//!
//! A random word is a pure function of (key, counter), so any element of any tensor can be drawn on any backend, in any
//! order, with the same bits. Only 32-bit add, rotate and xor are used: WGSL has them all.
//!
//! Device draws: key = `[seed, stream]`, counter = `[index / 2, step]`, word `index % 2`, where `stream` numbers the
//! place in the model, `step` counts micro-steps and `index` is the linear index of the element.

/// The Threefry-2x32-20 block function.
#[inline(always)]
pub fn threefry2x32(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];
    let ks = [key[0], key[1], 0x1BD1_1BDA ^ key[0] ^ key[1]];
    let (mut x0, mut x1) = (counter[0].wrapping_add(ks[0]), counter[1].wrapping_add(ks[1]));
    let mut group = 0;
    while group < 5 {
        let mut r = 0;
        while r < 4 {
            x0 = x0.wrapping_add(x1);
            x1 = x1.rotate_left(ROTATIONS[(group % 2) * 4 + r]) ^ x0;
            r += 1;
        }
        group += 1;
        x0 = x0.wrapping_add(ks[group % 3]);
        x1 = x1.wrapping_add(ks[(group + 1) % 3]).wrapping_add(group as u32);
    }
    [x0, x1]
}

/// The random word of element `index` (see the module text).
#[inline(always)]
pub fn bits(seed: u32, stream: u32, step: u32, index: u32) -> u32 {
    let pair = threefry2x32([seed, stream], [index >> 1, step]);
    pair[(index & 1) as usize]
}

/// A sequential generator for host use: initial weights, window positions, sampling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    key: [u32; 2],
    next: u64,
}

impl Rng {
    /// A generator for `seed`; different `stream`s of one seed are independent.
    pub fn new(seed: u64, stream: u32) -> Rng {
        let key = threefry2x32([seed as u32, (seed >> 32) as u32], [stream, 0x4D41_4E54]);
        Rng { key, next: 0 }
    }

    /// The stream that belongs to a name (its FNV-1a hash).
    pub fn named(seed: u64, name: &str) -> Rng {
        let hash = name.bytes().fold(0x811C_9DC5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        Rng::new(seed, hash)
    }

    /// Jumps to draw number `n`, counted from 0.
    pub fn seek(&mut self, n: u64) {
        self.next = n;
    }

    /// Number of the next draw.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The next random word.
    pub fn next_u32(&mut self) -> u32 {
        let block = self.next >> 1;
        let pair = threefry2x32(self.key, [block as u32, (block >> 32) as u32]);
        let word = pair[(self.next & 1) as usize];
        self.next += 1;
        word
    }

    /// Uniform in `[0, 1)` with 24 random bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in `0..n`. The bias of the 64-bit multiply-shift is below `n / 2^64`.
    pub fn below(&mut self, n: u64) -> u64 {
        let word = (u64::from(self.next_u32()) << 32) | u64::from(self.next_u32());
        ((u128::from(word) * u128::from(n)) >> 64) as u64
    }

    /// Normal with mean 0 and deviation 1 (Box-Muller in f64, two words a draw).
    pub fn normal(&mut self) -> f32 {
        let u = (f64::from(self.next_u32()) + 1.0) / 4_294_967_297.0;
        let v = f64::from(self.next_u32()) / 4_294_967_296.0;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123() {
        // kat_vectors of the Random123 distribution, threefry2x32, 20 rounds.
        assert_eq!(threefry2x32([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry2x32([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        assert_eq!(threefry2x32([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]), [0xc492_3a9c, 0x483d_f7a0]);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut rng = Rng::new(7, 0);
        let n = 200_000;
        let x: Vec<f64> = (0..n).map(|_| f64::from(rng.normal())).collect();
        let mean = x.iter().sum::<f64>() / n as f64;
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() <= 5.0 / (n as f64).sqrt(), "mean {mean}");
        assert!((var - 1.0).abs() <= 5.0 * (2.0 / n as f64).sqrt(), "variance {var}");
        let u: f64 = (0..n).map(|_| f64::from(rng.uniform())).sum::<f64>() / n as f64;
        assert!((u - 0.5).abs() <= 5.0 / (12.0 * n as f64).sqrt(), "uniform mean {u}");
    }

    #[test]
    fn seek_reproduces_the_sequence() {
        let mut a = Rng::new(1, 2);
        let words: Vec<u32> = (0..9).map(|_| a.next_u32()).collect();
        let mut b = Rng::new(1, 2);
        b.seek(5);
        assert_eq!(b.next_u32(), words[5]);
        assert_eq!(b.position(), 6);
        assert!((0..1000).all(|_| b.below(7) < 7));
    }
}
