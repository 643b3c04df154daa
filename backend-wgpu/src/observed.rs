//! A step instruction by instruction, for tools: after each one the device is waited for, and the values that an
//! observer asks for are read back.

use crate::bound::Bound;
use mantissa_core::backend::wait;
use mantissa_core::error::Result;
use mantissa_core::float::view::View;
use mantissa_core::program::ValueId;
use mantissa_core::program::observe::{Moment, Observer, Values};
use std::sync::OnceLock;

/// Runs a step with `observer` called around every instruction. Errs if an input does not fit, or the device fails.
pub(crate) fn run(bound: &Bound, inputs: &[(ValueId, &[u8])], observer: &mut dyn Observer) -> Result<()> {
    bound.load_inputs(inputs)?;
    let (program, gpu) = (&*bound.program, &bound.context.gpu);
    for (index, micro) in bound.order() {
        observer.before(&Moment { program, index, micro, values: &Snapshot::new(bound, micro) });
        // An observer finds in the states what the instruction has staged for them.
        gpu.submit_pass("observed step", |pass| {
            bound.encode(pass, index..index + 1, micro);
            bound.encode_records(pass);
        });
        gpu.wait()?;
        observer.after(&Moment { program, index, micro, values: &Snapshot::new(bound, micro) });
    }
    Ok(())
}

/// Values as they are at one moment, each read from the device when first asked for.
struct Snapshot<'a> {
    bound: &'a Bound,
    micro: usize,
    words: Vec<OnceLock<Vec<u32>>>,
}

impl<'a> Snapshot<'a> {
    fn new(bound: &'a Bound, micro: usize) -> Snapshot<'a> {
        Snapshot { bound, micro, words: bound.program.values.iter().map(|_| OnceLock::new()).collect() }
    }
}

impl Values for Snapshot<'_> {
    fn view(&self, id: ValueId) -> Option<View<'_>> {
        let place = self.bound.place(id, self.micro)?;
        let words = self.words[id.index()].get_or_init(|| {
            // A device that fails here fails the step too; the observer gets nothing of this value.
            let bytes = wait(Box::new(self.bound.download(place))).unwrap_or_default();
            // Words, since views of wide elements need the alignment.
            let mut words = vec![0; bytes.len().div_ceil(size_of::<u32>())];
            bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(&bytes);
            words
        });
        let bytes: &[u8] = bytemuck::cast_slice(words);
        let dtype = self.bound.program.value(id).ty.dtype;
        (bytes.len() >= place.size).then(|| View::new(dtype, &bytes[..place.size]))
    }
}
