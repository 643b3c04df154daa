//! Bytes on their way from the device: a copy into a buffer that the host can map. Such buffers are used again: a run reads the same few values
//! after every step, some steps late.

use crate::adapter::Gpu;
use mantissa_core::backend::Readback;
use mantissa_core::error::Result;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Granularity of copies, bytes.
const COPY_ALIGN: usize = wgpu::COPY_BUFFER_ALIGNMENT as usize;

/// Staging buffers not in use. They come in powers of two, so that the buffer of one value serves the next of about its size.
#[derive(Debug, Default)]
pub(crate) struct Staging(Mutex<Vec<wgpu::Buffer>>);

/// Most bytes that wait for their next use; what is larger is dropped.
const KEPT_BYTES: u64 = 64 << 20;

impl Staging {
    fn take(&self, device: &wgpu::Device, len: usize) -> wgpu::Buffer {
        let size = len.max(COPY_ALIGN).next_power_of_two() as u64;
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match free.iter().position(|b| b.size() == size) {
            Some(k) => free.swap_remove(k),
            None => device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("readback"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
        }
    }

    fn give_back(&self, buffer: &wgpu::Buffer) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.iter().map(wgpu::Buffer::size).sum::<u64>() + buffer.size() <= KEPT_BYTES {
            free.push(buffer.clone());
        }
    }
}

pub(crate) struct Download {
    gpu: Arc<Gpu>,
    buffer: wgpu::Buffer,
    len: usize,
    /// The submission of the copy.
    copied: wgpu::SubmissionIndex,
    mapped: Receiver<Result<(), wgpu::BufferAsyncError>>,
    done: bool,
}

impl Download {
    /// Starts the copy of `len` bytes at `offset` of `source`, as they are after everything submitted so far.
    pub(crate) fn start(gpu: &Arc<Gpu>, source: &wgpu::Buffer, offset: usize, len: usize) -> Download {
        let size = len.max(1).next_multiple_of(COPY_ALIGN) as u64;
        let buffer = gpu.staging.take(&gpu.device, len);
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("readback") });
        encoder.copy_buffer_to_buffer(source, offset as u64, &buffer, 0, Some(size));
        let copied = gpu.queue.submit([encoder.finish()]);
        let (send, mapped) = channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver is gone if nobody wants the bytes any more.
            let _ = send.send(result);
        });
        Download { gpu: gpu.clone(), buffer, len, copied, mapped, done: false }
    }

    fn take(&mut self, wait: bool) -> Result<Option<Vec<u8>>> {
        if self.done {
            return Ok(None);
        }
        // For this copy only, not for what was submitted since: steps are to land one by one, as they are done.
        let own = || wgpu::PollType::Wait { submission_index: Some(self.copied.clone()), timeout: None };
        let poll = if wait { own() } else { wgpu::PollType::Poll };
        self.gpu.device.poll(poll).map_err(|e| self.gpu.error(e.to_string()))?;
        self.gpu.check(None)?;
        match self.mapped.try_recv() {
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.gpu.error("a readback was dropped by the driver")),
            Ok(Err(e)) => Err(self.gpu.error(e.to_string())),
            Ok(Ok(())) => {
                self.done = true;
                let view = self.buffer.get_mapped_range(..).map_err(|e| self.gpu.error(e.to_string()))?;
                let bytes = view[..self.len].to_vec();
                drop(view);
                self.buffer.unmap();
                self.gpu.staging.give_back(&self.buffer);
                Ok(Some(bytes))
            }
        }
    }
}

impl Readback for Download {
    fn poll(&mut self) -> Result<Option<Vec<u8>>> {
        self.take(false)
    }

    fn wait(&mut self) -> Result<Option<Vec<u8>>> {
        self.take(cfg!(not(target_arch = "wasm32")))
    }
}
