//! An open device: queue, limits and its first fault. The ground floor: it owns no pipelines and no buffers.
//!
//! wgpu reports errors aside. Natively they are there when a call returns. In a page they arrive later, so an error
//! scope that is still open there is kept and asked again by the next [`Gpu::check`].

use crate::adapter::{AdapterFacts, LowerLimits};
use crate::fault::{Fault, Faults};
use mantissa_core::error::{Error, Result};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// An open device.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) facts: AdapterFacts,
    pub(crate) limits: wgpu::Limits,
    faults: Arc<Faults>,
    pending: Mutex<Vec<Pending>>,
}

impl Gpu {
    /// Opens `adapter` with all its limits, or with `lower` ones. Errs if the driver refuses.
    pub(crate) async fn open(adapter: &wgpu::Adapter, lower: LowerLimits) -> Result<Gpu> {
        let facts = AdapterFacts::of(adapter);
        let limits = lower.apply(adapter.limits());
        let mut wanted = wgpu::Features::TIMESTAMP_QUERY;
        if facts.subgroup.is_some() {
            wanted |= wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("mantissa"),
            required_features: adapter.features() & wanted,
            required_limits: limits.clone(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let opened = adapter.request_device(&descriptor).await;
        let (device, queue) = opened.map_err(|e| Fault::of_text(e.to_string(), None).error(&facts.name))?;
        let faults = Arc::new(Faults::default());
        let sink = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| sink.note(Fault::of(error, None))));
        let sink = faults.clone();
        device.set_device_lost_callback(move |reason, text| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                sink.note(Fault::Lost(text));
            }
        });
        Ok(Gpu { device, queue, facts, limits, faults, pending: Mutex::default() })
    }

    /// Errs if anything has gone wrong so far.
    pub(crate) fn check(&self) -> Result<()> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.retain_mut(|scope| match scope.ask() {
            Poll::Pending => true,
            Poll::Ready(fault) => {
                fault.into_iter().for_each(|fault| self.faults.note(fault));
                false
            }
        });
        self.faults.first().map_or(Ok(()), |fault| Err(fault.error(&self.facts.name)))
    }

    /// A buffer. Errs if the device refuses it; where only later calls can know, the next [`Gpu::check`] errs.
    pub(crate) fn create_buffer(&self, descriptor: &wgpu::BufferDescriptor<'_>) -> Result<wgpu::Buffer> {
        let scopes = Scopes::open(&self.device);
        let buffer = self.device.create_buffer(descriptor);
        let mut pending = Pending { error: Box::pin(scopes.close()), requested: descriptor.size };
        match pending.ask() {
            Poll::Ready(None) => self.check().map(|()| buffer),
            Poll::Ready(Some(fault)) => Err(fault.error(&self.facts.name)),
            Poll::Pending => {
                self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(pending);
                Ok(buffer)
            }
        }
    }

    /// The result of `work`. Errs only if the device cannot go on: it had failed before, or is lost. Any other failure
    /// is the result of `work` and leaves the device as it was.
    pub(crate) async fn attempt<T>(&self, work: impl Future<Output = Result<T>>) -> Result<Result<T>> {
        self.check()?;
        let scopes = Scopes::open(&self.device);
        let done = work.await;
        let refused = scopes.close().await;
        self.check()?;
        Ok(match refused {
            Some(error) => Err(Fault::of(error, None).error(&self.facts.name)),
            None => done,
        })
    }

    /// Waits until all submitted work is done. A page cannot wait: there it returns at once.
    pub(crate) fn wait(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    /// Lets the device report finished work, and errs if anything has gone wrong so far.
    pub(crate) fn poll(&self, how: wgpu::PollType) -> Result<()> {
        self.device.poll(how).map_err(|e| self.error(e.to_string()))?;
        self.check()
    }

    /// Encodes one compute pass with `fill` and submits it.
    pub(crate) fn submit_pass(&self, label: &str, fill: impl FnOnce(&mut wgpu::ComputePass<'_>)) {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) });
        fill(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        self.queue.submit([encoder.finish()]);
    }

    /// Whether the device can time passes.
    pub(crate) fn has_clock(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) && self.queue.get_timestamp_period() > 0.0
    }

    /// Whether kernels may use integers of 64 bits.
    pub(crate) fn has_int64(&self) -> bool {
        self.device.features().contains(wgpu::Features::SHADER_INT64)
    }

    /// Largest buffer that kernels can bind, bytes.
    pub(crate) fn max_buffer_bytes(&self) -> u64 {
        self.limits.max_buffer_size.min(self.limits.max_storage_buffer_binding_size)
    }

    /// Storage buffers that a kernel may bind.
    pub(crate) fn max_storage_buffers(&self) -> usize {
        self.limits.max_storage_buffers_per_shader_stage as usize
    }

    /// An [`Error::Device`].
    pub(crate) fn error(&self, problem: impl Into<String>) -> Error {
        Error::Device { device: self.facts.name.clone(), problem: problem.into() }
    }
}

/// Error scopes for every kind of error.
struct Scopes([wgpu::ErrorScopeGuard; 3]);

impl Scopes {
    fn open(device: &wgpu::Device) -> Scopes {
        let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory];
        Scopes(filters.map(|filter| device.push_error_scope(filter)))
    }

    /// Closes them at once; the future gives the first error that they caught.
    fn close(self) -> impl Future<Output = Option<wgpu::Error>> + wgpu::WasmNotSend + 'static {
        let [internal, validation, memory] = self.0;
        // The scope opened last is closed first.
        let (memory, validation, internal) = (memory.pop(), validation.pop(), internal.pop());
        async move {
            let (memory, validation, internal) = (memory.await, validation.await, internal.await);
            memory.or(validation).or(internal)
        }
    }
}

/// The closed scopes of one buffer, not answered yet.
struct Pending {
    error: Pin<Box<dyn ScopeError>>,
    /// Bytes of the buffer.
    requested: u64,
}

/// What [`Scopes::close`] gives.
trait ScopeError: Future<Output = Option<wgpu::Error>> + wgpu::WasmNotSend {}
impl<F: Future<Output = Option<wgpu::Error>> + wgpu::WasmNotSend> ScopeError for F {}

impl Pending {
    /// The answer, if it is there.
    fn ask(&mut self) -> Poll<Option<Fault>> {
        let answer = self.error.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        answer.map(|error| error.map(|error| Fault::of(error, Some(self.requested))))
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("requested", &self.requested).finish_non_exhaustive()
    }
}
