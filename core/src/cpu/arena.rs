//! Memory of the CPU backend: buffers of cache lines, and lending many disjoint pieces of them to a kernel at once, in
//! safe code.

use crate::error::{Error, Result};
use crate::program::memory::Place;
use arrayvec::ArrayVec;

/// 64 bytes aligned to 64: every dtype and vector load is aligned.
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Line([u32; 16]);

/// One zeroed buffer.
#[derive(Debug, Default)]
pub struct Buffer(Vec<Line>);

impl Buffer {
    /// At least `size` bytes of zeros. Fails if there is no memory for them.
    pub fn new(size: usize) -> Result<Buffer> {
        let mut lines = Vec::new();
        grow(&mut lines, size.div_ceil(size_of::<Line>()))?;
        Ok(Buffer(lines))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    /// The bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// Makes `items` at least `len` long, with zeros. Fails, instead of ending the process, if there is no memory for them.
pub fn grow<T: Copy + Default>(items: &mut Vec<T>, len: usize) -> Result<()> {
    let more = len.saturating_sub(items.len());
    items.try_reserve_exact(more).map_err(|e| Error::OutOfMemory {
        device: "cpu".into(),
        requested: Some((len * size_of::<T>()) as u64),
        problem: e.to_string(),
    })?;
    items.resize(items.len() + more, T::default());
    Ok(())
}

/// Most pieces of memory one instruction may touch; a list counts as one piece.
pub const MAX_PIECES: usize = 32;

/// Lends the bytes of `places`, which are sorted by buffer and offset and do not overlap. Buffers are `persistent`
/// followed by `own`.
pub fn disjoint_slices<'a>(
    persistent: &'a mut [Buffer],
    own: &'a mut [Buffer],
    places: &[Place],
) -> ArrayVec<&'a mut [u8], MAX_PIECES> {
    let split = persistent.len();
    let mut out = ArrayVec::new();
    let cut = places.partition_point(|p| p.buffer < split);
    lend_from(persistent, 0, &places[..cut], &mut out);
    lend_from(own, split, &places[cut..], &mut out);
    out
}

fn lend_from<'a>(buffers: &'a mut [Buffer], base: usize, places: &[Place], out: &mut ArrayVec<&'a mut [u8], MAX_PIECES>) {
    let mut rest = buffers;
    let mut next = base;
    let mut bytes: &'a mut [u8] = &mut [];
    let mut at = 0;
    let mut current = usize::MAX;
    for p in places {
        if p.buffer != current {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(p.buffer - next + 1);
            rest = tail;
            next = p.buffer + 1;
            current = p.buffer;
            bytes = head.last_mut().expect("split after the buffer").bytes_mut();
            at = 0;
        }
        let (_, after) = std::mem::take(&mut bytes).split_at_mut(p.offset - at);
        let (piece, after) = after.split_at_mut(p.size);
        bytes = after;
        at = p.offset + p.size;
        out.push(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_bytes_of_their_places() {
        let mut persistent = [512, 64, 512].map(|size| Buffer::new(size).unwrap());
        let mut own = [64, 256].map(|size| Buffer::new(size).unwrap());
        let place = |buffer, offset, size| Place { buffer, offset, size };
        let places = [place(0, 0, 4), place(0, 256, 8), place(2, 4, 4), place(4, 0, 256)];
        {
            let mut pieces = disjoint_slices(&mut persistent, &mut own, &places);
            assert_eq!(pieces.iter().map(|p| p.len()).collect::<Vec<_>>(), [4, 8, 4, 256]);
            for (i, p) in pieces.iter_mut().enumerate() {
                p.fill(i as u8 + 1);
            }
        }
        assert_eq!(persistent[0].bytes()[..4], [1; 4]);
        assert_eq!(persistent[0].bytes()[4], 0);
        assert_eq!(persistent[0].bytes()[256..264], [2; 8]);
        assert_eq!(persistent[2].bytes()[3..9], [0, 3, 3, 3, 3, 0]);
        assert!(own[1].bytes().iter().all(|&b| b == 4) && own[0].bytes().iter().all(|&b| b == 0));
        assert_eq!(own[1].bytes().as_ptr() as usize % 64, 0);
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        let Err(Error::OutOfMemory { requested, .. }) = Buffer::new(usize::MAX / 4) else { panic!("expected an error") };
        assert!(requested >= Some((usize::MAX / 4) as u64));
    }
}
