//! Batches made ahead of time, on a thread of their own, for the steps of a run in order.
//!
//! What a batch holds depends on the number of its step alone, so a prefetcher that starts at step n gives what one
//! that started at 1 would have given: the position of a run in its data is one integer.

use anyhow::{Context, Result, bail};
use mantissa_core::Result as CoreResult;
use mantissa_core::data::{BatchBytes, Loader};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Batches that wait at most.
const DEPTH: usize = 2;

/// Makes batches ahead of time.
#[derive(Debug)]
pub struct Prefetch {
    /// `None` only while it is dropped.
    batches: Option<Receiver<(u64, CoreResult<BatchBytes>)>>,
    spare: SyncSender<BatchBytes>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts with the batch of step `first` (counted from 1) and ends with that of step `last`.
    pub fn new(mut loader: Loader, first: u64, last: u64) -> Result<Prefetch> {
        let (send, batches) = sync_channel(DEPTH);
        // Room for all buffers there are: those that wait, the one being filled, the one in use.
        let (spare, used) = sync_channel::<BatchBytes>(DEPTH + 2);
        let work = move || {
            for step in first..=last {
                let mut batch = used.try_recv().unwrap_or_default();
                let made = loader.train(step, &mut batch).map(|()| batch);
                let failed = made.is_err();
                if send.send((step, made)).is_err() || failed {
                    return;
                }
            }
        };
        let thread =
            std::thread::Builder::new().name("mantissa-data".into()).spawn(work).context("cannot start the data thread")?;
        Ok(Prefetch { batches: Some(batches), spare, thread: Some(thread) })
    }

    /// The batch of step `step`; steps are asked for in order. Errs if the data could not be read; no later batch comes
    /// then.
    pub fn next(&mut self, step: u64) -> Result<BatchBytes> {
        let received = self.batches.as_ref().and_then(|b| b.recv().ok());
        match received {
            Some((made, batch)) if made == step => batch.with_context(|| format!("cannot read the batch of step {step}")),
            Some((made, _)) => bail!("data: expected the batch of step {step}, found that of step {made}"),
            None => bail!("data: expected the batch of step {step}, found the end of the data thread"),
        }
    }

    /// Takes a batch back for reuse.
    pub fn give_back(&self, batch: BatchBytes) {
        // Too many buffers, or nobody to fill them: then it is dropped.
        let _ = self.spare.try_send(batch);
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // A thread that waits for room sees that nobody receives any more, and ends.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, its message is on stderr already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::data::{Dataset, Tokens};
    use mantissa_core::train::TrainConfig;
    use std::sync::Arc;

    fn loader() -> Loader {
        let text = (0..5000u32).map(|i| (i * 7 % 251) as u8).collect();
        let config: TrainConfig = crate::cli::resolve::resolve(&Default::default()).unwrap().config.train;
        Loader::new(Arc::new(Dataset::Tokens(Tokens::from_bytes(text))), config.batch_plan()).unwrap()
    }

    #[test]
    fn gives_the_batches_of_the_loader_wherever_it_starts() {
        let mut direct = loader();
        let mut expected = BatchBytes::default();
        for first in [1, 7] {
            let mut prefetch = Prefetch::new(loader(), first, 12).unwrap();
            for step in first..=12 {
                direct.train(step, &mut expected).unwrap();
                let batch = prefetch.next(step).unwrap();
                assert!(batch.x == expected.x && batch.targets == expected.targets, "step {step}");
                prefetch.give_back(batch);
            }
            assert!(prefetch.next(13).unwrap_err().to_string().contains("end of the data thread"));
        }
    }

    #[test]
    fn steps_out_of_order_are_refused_and_dropping_it_early_ends_the_thread() {
        let mut prefetch = Prefetch::new(loader(), 3, u64::MAX).unwrap();
        assert!(prefetch.next(5).unwrap_err().to_string().contains("expected the batch of step 5, found that of step 3"));
        drop(prefetch);
    }
}
