//! Bytes on their way from the device: a copy into a staging buffer, which the host can map. Staging buffers are used
//! again, since a run reads the same few values after every step.

use crate::gpu::Gpu;
use mantissa_core::backend::Readback;
use mantissa_core::error::Result;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// Granularity of copies, bytes.
const COPY_ALIGN: usize = wgpu::COPY_BUFFER_ALIGNMENT as usize;

/// Most bytes that wait for their next use; a larger buffer is dropped.
const KEPT_BYTES: u64 = 64 << 20;

/// The staging buffers of a device. Sizes are powers of two, so that the buffer of one value serves the next of about
/// its size.
#[derive(Debug)]
pub(crate) struct Staging {
    gpu: Arc<Gpu>,
    free: Mutex<Vec<wgpu::Buffer>>,
}

impl Staging {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Staging {
        Staging { gpu: gpu.clone(), free: Mutex::default() }
    }

    /// The device it belongs to.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    fn take(&self, len: usize) -> wgpu::Buffer {
        let size = len.max(COPY_ALIGN).next_power_of_two() as u64;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        match free.iter().position(|b| b.size() == size) {
            Some(k) => free.swap_remove(k),
            None => self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("readback"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
        }
    }

    fn give_back(&self, buffer: &wgpu::Buffer) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.iter().map(wgpu::Buffer::size).sum::<u64>() + buffer.size() <= KEPT_BYTES {
            free.push(buffer.clone());
        }
    }

    /// Starts the copy of `len` bytes at `offset` of `source`, as they are after all work submitted so far.
    pub(crate) fn download(self: &Arc<Staging>, source: &wgpu::Buffer, offset: usize, len: usize) -> Download {
        let size = len.max(1).next_multiple_of(COPY_ALIGN) as u64;
        let (buffer, device) = (self.take(len), &self.gpu.device);
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("readback") });
        encoder.copy_buffer_to_buffer(source, offset as u64, &buffer, 0, Some(size));
        let copied = self.gpu.queue.submit([encoder.finish()]);
        let (send, mapped) = channel();
        let waker: Arc<Mutex<Option<Waker>>> = Arc::default();
        let awaited = waker.clone();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver is gone if nobody wants the bytes any more.
            let _ = send.send(result);
            let waiting = awaited.lock().unwrap_or_else(PoisonError::into_inner).take();
            waiting.into_iter().for_each(Waker::wake);
        });
        Download { staging: self.clone(), buffer, len, copied, mapped, waker, done: false }
    }
}

/// A copy in flight.
pub(crate) struct Download {
    staging: Arc<Staging>,
    buffer: wgpu::Buffer,
    len: usize,
    /// The submission of the copy.
    copied: wgpu::SubmissionIndex,
    mapped: Receiver<Result<(), wgpu::BufferAsyncError>>,
    /// Who awaits the bytes.
    waker: Arc<Mutex<Option<Waker>>>,
    done: bool,
}

impl Download {
    /// The bytes, awaited: natively the device is waited for, in a page its event loop runs meanwhile. Errs if the
    /// device failed.
    pub(crate) async fn bytes(mut self) -> Result<Vec<u8>> {
        let mut poll = self.this_copy();
        std::future::poll_fn(|cx| {
            *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
            let poll = std::mem::replace(&mut poll, wgpu::PollType::Poll);
            match self.take(poll) {
                Err(e) => Poll::Ready(Err(e)),
                Ok(Some(bytes)) => Poll::Ready(Ok(bytes)),
                Ok(None) => Poll::Pending,
            }
        })
        .await
    }

    /// Waits for this copy only, not for what was submitted since: steps finish one by one.
    fn this_copy(&self) -> wgpu::PollType {
        wgpu::PollType::Wait { submission_index: Some(self.copied.clone()), timeout: None }
    }

    fn take(&mut self, poll: wgpu::PollType) -> Result<Option<Vec<u8>>> {
        if self.done {
            return Ok(None);
        }
        let gpu = &self.staging.gpu;
        gpu.poll(poll)?;
        match self.mapped.try_recv() {
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(gpu.error("a readback was dropped by the driver")),
            Ok(Err(e)) => Err(gpu.error(e.to_string())),
            Ok(Ok(())) => {
                self.done = true;
                let view = self.buffer.get_mapped_range(..).map_err(|e| gpu.error(e.to_string()))?;
                let bytes = view[..self.len].to_vec();
                drop(view);
                self.buffer.unmap();
                self.staging.give_back(&self.buffer);
                Ok(Some(bytes))
            }
        }
    }
}

impl Readback for Download {
    fn poll(&mut self) -> Result<Option<Vec<u8>>> {
        self.take(wgpu::PollType::Poll)
    }

    /// In a page, where nothing can wait, the same as `poll`.
    fn wait(&mut self) -> Result<Option<Vec<u8>>> {
        self.take(self.this_copy())
    }
}
