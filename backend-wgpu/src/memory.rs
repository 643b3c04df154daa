//! Buffers of the memory plan.

use crate::gpu::Gpu;
use crate::launch::VEC8_BYTES;
use crate::readback::Staging;
use mantissa_core::backend::{Memory, Readback};
use mantissa_core::error::{Error, Result};
use mantissa_core::program::memory::{ALIGN, Buffer, Layout, Place, Purpose, align};
use std::any::Any;
use std::sync::Arc;

/// Persistent values of a session.
#[derive(Debug)]
pub(crate) struct WgpuMemory {
    staging: Arc<Staging>,
    layout: Arc<Layout>,
    pub(crate) buffers: Arc<Vec<wgpu::Buffer>>,
}

impl WgpuMemory {
    /// Zeroed memory. Errs if a buffer is larger than the device allows, or memory runs out.
    pub(crate) fn new(staging: &Arc<Staging>, layout: Arc<Layout>) -> Result<WgpuMemory> {
        let buffers = Arc::new(allocate(staging.gpu(), &layout.buffers)?);
        Ok(WgpuMemory { staging: staging.clone(), layout, buffers })
    }

    /// The device that holds it.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        self.staging.gpu()
    }

    fn find(&self, name: &str) -> Result<Place> {
        let entry = self.layout.find(name);
        entry.map(|e| e.place).ok_or_else(|| Error::operand("memory", "the name of a parameter or state", format!("`{name}`")))
    }
}

impl Memory for WgpuMemory {
    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let place = self.find(name)?;
        if place.size != bytes.len() {
            return Err(Error::operand(format!("write `{name}`"), format!("{} bytes", place.size), bytes.len().to_string()));
        }
        upload(self.gpu(), &self.buffers[place.buffer], place.offset, bytes);
        self.gpu().check()
    }

    fn read(&self, name: &str) -> Result<Box<dyn Readback>> {
        let place = self.find(name)?;
        Ok(Box::new(self.staging.download(&self.buffers[place.buffer], place.offset, place.size)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

// A binding that is rounded up ends in the padding of its place.
const _: () = assert!(ALIGN.is_multiple_of(VEC8_BYTES));

/// Bytes of a binding that shows a value of `bytes`: a multiple of [`VEC8_BYTES`], at least one. Never more than
/// [`align`] gives its place, so that every buffer of [`allocate`] holds it.
pub(crate) fn bound(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(VEC8_BYTES)
}

/// Buffers of a plan, zeroed, their sizes rounded up as those of its places are. Errs if one is larger than the device
/// allows, or memory runs out.
pub(crate) fn allocate(gpu: &Gpu, plan: &[Buffer]) -> Result<Vec<wgpu::Buffer>> {
    let made = plan.iter().map(|b| {
        let (size, largest) = (align(b.size) as u64, gpu.max_buffer_bytes());
        if size > largest {
            let device = gpu.facts.name.clone();
            return Err(Error::BufferTooLarge { device, holds: b.purpose.name(), requested: size, largest });
        }
        gpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some(b.purpose.name()),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    });
    made.collect()
}

/// Buffers of these sizes: those of `have` where one is large enough, one of the same number and size first, else new
/// ones. For work that never runs at the same time.
pub(crate) fn reuse(gpu: &Gpu, have: &[wgpu::Buffer], plan: &[Buffer]) -> Result<Vec<wgpu::Buffer>> {
    let size_of = |b: &Buffer| align(b.size) as u64;
    let mut free: Vec<Option<&wgpu::Buffer>> = have.iter().map(Some).collect();
    let mut taken: Vec<Option<&wgpu::Buffer>> = vec![None; plan.len()];
    for (k, b) in plan.iter().enumerate() {
        if free.get(k).copied().flatten().is_some_and(|f| f.size() == size_of(b)) {
            taken[k] = free[k].take();
        }
    }
    for (k, b) in plan.iter().enumerate().filter(|(_, b)| b.purpose == Purpose::Activations) {
        let fits = |i: &usize| free[*i].is_some_and(|f| f.size() >= size_of(b));
        if taken[k].is_none() {
            let best = (0..free.len()).filter(fits).min_by_key(|&i| free[i].map(wgpu::Buffer::size));
            taken[k] = best.and_then(|i| free[i].take());
        }
    }
    let pick = |(b, taken): (&Buffer, Option<&wgpu::Buffer>)| match taken {
        Some(found) => Ok(found.clone()),
        None => Ok(allocate(gpu, &[*b])?.remove(0)),
    };
    plan.iter().zip(taken).map(pick).collect()
}

/// A new buffer that holds `words`.
pub(crate) fn table(gpu: &Gpu, words: &[u32]) -> Result<wgpu::Buffer> {
    let bytes = bytemuck::cast_slice(words);
    let made = allocate(gpu, &[Buffer { size: bytes.len(), purpose: Purpose::Activations }])?;
    upload(gpu, &made[0], 0, bytes);
    Ok(made[0].clone())
}

/// Queues a write of `bytes` at `offset`. The copy is a whole number of words: places are aligned, so the bytes behind
/// are padding.
pub(crate) fn upload(gpu: &Gpu, buffer: &wgpu::Buffer, offset: usize, bytes: &[u8]) {
    const WORD: usize = wgpu::COPY_BUFFER_ALIGNMENT as usize;
    let whole = bytes.len() / WORD * WORD;
    gpu.queue.write_buffer(buffer, offset as u64, &bytes[..whole]);
    if whole < bytes.len() {
        let mut last = [0; WORD];
        last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
        gpu.queue.write_buffer(buffer, (offset + whole) as u64, &last);
    }
}
