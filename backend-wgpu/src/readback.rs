//! Bytes on their way from the device: a copy into a buffer that the host can map.

use crate::adapter::Gpu;
use mantissa_core::backend::Readback;
use mantissa_core::error::Result;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

/// Granularity of copies, bytes.
const COPY_ALIGN: usize = wgpu::COPY_BUFFER_ALIGNMENT as usize;

pub(crate) struct Download {
    gpu: Arc<Gpu>,
    buffer: wgpu::Buffer,
    len: usize,
    mapped: Receiver<Result<(), wgpu::BufferAsyncError>>,
    done: bool,
}

impl Download {
    /// Starts the copy of `len` bytes at `offset` of `source`, as they are after everything submitted so far.
    pub(crate) fn start(gpu: &Arc<Gpu>, source: &wgpu::Buffer, offset: usize, len: usize) -> Download {
        let size = len.max(1).next_multiple_of(COPY_ALIGN) as u64;
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("readback") });
        encoder.copy_buffer_to_buffer(source, offset as u64, &buffer, 0, Some(size));
        gpu.queue.submit([encoder.finish()]);
        let (send, mapped) = channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver is gone if nobody wants the bytes any more.
            let _ = send.send(result);
        });
        Download { gpu: gpu.clone(), buffer, len, mapped, done: false }
    }

    fn take(&mut self, wait: bool) -> Result<Option<Vec<u8>>> {
        if self.done {
            return Ok(None);
        }
        let poll = if wait { wgpu::PollType::wait_indefinitely() } else { wgpu::PollType::Poll };
        self.gpu.device.poll(poll).map_err(|e| self.gpu.error(e.to_string()))?;
        self.gpu.check(None)?;
        match self.mapped.try_recv() {
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.gpu.error("a readback was dropped by the driver")),
            Ok(Err(e)) => Err(self.gpu.error(e.to_string())),
            Ok(Ok(())) => {
                self.done = true;
                let view = self.buffer.get_mapped_range(..).map_err(|e| self.gpu.error(e.to_string()))?;
                Ok(Some(view[..self.len].to_vec()))
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
