//! A step instruction by instruction, for tools: after each one the device is waited for, and what an observer asks to see is read back.

use crate::executable::WgpuExecutable;
use crate::readback::Download;
use mantissa_core::backend::wait;
use mantissa_core::error::Result;
use mantissa_core::float::view::View;
use mantissa_core::program::memory::align;
use mantissa_core::program::observe::{Moment, Observer, Values};
use mantissa_core::program::{Kind, Rate, ValueId};
use std::sync::OnceLock;

/// Runs a step with `observer` called around every instruction.
pub(crate) fn run(exe: &WgpuExecutable, inputs: &[(ValueId, &[u8])], observer: &mut dyn Observer) -> Result<()> {
    exe.load_inputs(inputs)?;
    let program = &*exe.program;
    let mut instruction = |index: usize, micro: usize| -> Result<()> {
        observer.before(&Moment { program, index, micro, values: &Seen::new(exe, micro) });
        // An observer sees in the states what the instruction recorded.
        exe.pass(|pass| {
            exe.encode(pass, index..index + 1, micro);
            exe.encode_records(pass);
        });
        exe.gpu.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| exe.gpu.error(e.to_string()))?;
        exe.gpu.check(None)?;
        observer.after(&Moment { program, index, micro, values: &Seen::new(exe, micro) });
        Ok(())
    };
    for micro in 0..program.grad_accum {
        (0..program.micro_end).try_for_each(|index| instruction(index, micro))?;
    }
    (program.micro_end..program.instrs.len()).try_for_each(|index| instruction(index, 0))
}

/// Values as they are at one moment, each read from the device when first asked for.
struct Seen<'a> {
    exe: &'a WgpuExecutable,
    micro: usize,
    bytes: Vec<OnceLock<Vec<u32>>>,
}

impl<'a> Seen<'a> {
    fn new(exe: &'a WgpuExecutable, micro: usize) -> Seen<'a> {
        Seen { exe, micro, bytes: exe.program.values.iter().map(|_| OnceLock::new()).collect() }
    }
}

impl Values for Seen<'_> {
    fn view(&self, id: ValueId) -> Option<View<'_>> {
        let place = self.exe.plan.places.get(id.index()).copied().flatten()?;
        let value = self.exe.program.value(id);
        let moved = if value.kind == Kind::Input(Rate::MicroStep) { self.micro * align(place.size) } else { 0 };
        let words = self.bytes[id.index()].get_or_init(|| {
            let buffer = self.exe.buffer(place.buffer);
            // A device that fails here fails the step too; the observer sees nothing of this value.
            let bytes = wait(Box::new(Download::start(&self.exe.gpu, buffer, place.offset + moved, place.size)));
            let bytes = bytes.unwrap_or_default();
            // Words, since views of wide elements need the alignment.
            let mut words = vec![0; bytes.len().div_ceil(size_of::<u32>())];
            bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(&bytes);
            words
        });
        let bytes: &[u8] = bytemuck::cast_slice(words);
        (bytes.len() >= place.size).then(|| View::new(value.ty.dtype, &bytes[..place.size]))
    }
}
