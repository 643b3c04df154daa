//! A launch: a kernel with its uniforms, arguments and grid, and the frame of an instruction that collects its
//! launches.

use super::kernel::Kernel;
use super::kernel_choice::LaunchLimits;
use mantissa_core::DType;
use mantissa_core::error::{Error, Result};
use mantissa_core::program::memory::Place;
use mantissa_core::program::operands::Operands;
use mantissa_core::shape::Ty;
use mantissa_shaders::{self as shaders, Binding, BindingKind, Stem};

/// What a binding of a kernel shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// A piece of memory of the instruction.
    Piece(usize),
    /// Scratch memory, by number.
    Scratch(usize),
    /// Constant memory of the launch, by number.
    Table(usize),
    /// The rows that quantizations stage statistics in.
    StagedStats,
    /// Nothing: an operand that the kernel declares and this launch lacks.
    Absent,
}

/// A kernel with its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) kernel: Kernel,
    /// Bytes of the uniform struct.
    pub(crate) uniform: Vec<u8>,
    /// Argument of each storage binding, by binding number.
    pub(crate) args: Vec<(u32, Arg)>,
    /// Words of each table.
    pub(crate) tables: Vec<Vec<u32>>,
    /// Workgroups, in a row; the device folds them.
    pub(crate) groups: usize,
}

/// The operands of an instruction, and the launches it becomes.
pub(crate) struct Frame<'a> {
    operands: &'a Operands,
    pub(crate) limits: LaunchLimits,
    /// Row that a quantization stages its statistics in.
    pub(super) stats_row: usize,
    pub(super) launches: Vec<Launch>,
    /// Bytes of each scratch buffer.
    pub(super) scratch: Vec<usize>,
}

impl<'a> Frame<'a> {
    pub(super) fn new(operands: &'a Operands, limits: LaunchLimits, stats_row: usize) -> Frame<'a> {
        Frame { operands, limits, stats_row, launches: Vec::new(), scratch: Vec::new() }
    }

    /// Memory of input `i`; a list is one input.
    pub(crate) fn x(&self, i: usize) -> Arg {
        Arg::Piece(self.operands.inputs[i].0)
    }

    /// Memory of output `i`; a list is one output.
    pub(crate) fn y(&self, i: usize) -> Arg {
        Arg::Piece(self.operands.outputs[i].0)
    }

    /// Number of inputs, a list counted once.
    pub(crate) fn inputs(&self) -> usize {
        self.operands.inputs.len()
    }

    /// Where the memory of input `i` lies.
    pub(crate) fn x_place(&self, i: usize) -> Place {
        self.operands.places[self.operands.inputs[i].0]
    }

    /// Where the memory of output `i` lies.
    pub(crate) fn y_place(&self, i: usize) -> Place {
        self.operands.places[self.operands.outputs[i].0]
    }

    /// Recorded input types, lists member by member.
    pub(crate) fn tx(&self) -> &'a [Ty] {
        &self.operands.input_types
    }

    /// Recorded output types, lists member by member.
    pub(crate) fn ty(&self) -> &'a [Ty] {
        &self.operands.output_types
    }

    /// Scratch memory of `bytes`, alive until the end of the instruction. The last user's contents are still there.
    pub(crate) fn scratch(&mut self, bytes: usize) -> Arg {
        self.scratch.push(bytes);
        Arg::Scratch(self.scratch.len() - 1)
    }

    /// Adds a launch.
    pub(crate) fn push(&mut self, launch: Launch) {
        self.launches.push(launch);
    }
}

/// A launch under construction. The first error is kept and comes out of [`Builder::done`].
pub(crate) struct Builder {
    stem: &'static Stem,
    entry: &'static str,
    consts: Vec<(&'static str, u32)>,
    uniforms: Vec<(String, u32)>,
    args: Vec<(&'static str, Arg)>,
    tables: Vec<Vec<u32>>,
    groups: usize,
}

/// A launch of entry point `entry` of `stem`.
pub(crate) fn kernel(stem: &'static str, entry: &'static str) -> Builder {
    let stem = shaders::stem(stem).expect("launches name stems of the shaders crate; a test launches each");
    Builder { stem, entry, consts: Vec::new(), uniforms: Vec::new(), args: Vec::new(), tables: Vec::new(), groups: 1 }
}

impl Builder {
    /// Sets a constant of the stem.
    pub(crate) fn set(mut self, name: &'static str, value: u32) -> Builder {
        self.consts.push((name, value));
        self
    }

    /// Sets a constant to a dtype.
    pub(crate) fn dtype(self, name: &'static str, dtype: DType) -> Builder {
        self.set(name, shaders::dtype_code(dtype))
    }

    /// Sets an integer field of the uniform struct.
    pub(crate) fn uniform(mut self, name: impl Into<String>, value: usize) -> Builder {
        self.uniforms.push((name.into(), value as u32));
        self
    }

    /// Sets a float field of the uniform struct.
    pub(crate) fn uniform_f32(mut self, name: impl Into<String>, value: f32) -> Builder {
        self.uniforms.push((name.into(), value.to_bits()));
        self
    }

    /// Binds memory to a storage variable.
    pub(crate) fn bind(mut self, name: &'static str, arg: Arg) -> Builder {
        self.args.push((name, arg));
        self
    }

    /// Binds words that are known when compiling and never change.
    pub(crate) fn table(mut self, name: &'static str, words: Vec<u32>) -> Builder {
        self.tables.push(words);
        let arg = Arg::Table(self.tables.len() - 1);
        self.bind(name, arg)
    }

    /// `n` workgroups in a row; the kernel uses `group_index` and guards its bounds.
    pub(crate) fn groups(mut self, n: usize) -> Builder {
        self.groups = n;
        self
    }

    /// One invocation for each of `n` items, in workgroups of the stem's `WG_SIZE`.
    pub(crate) fn items(self, n: usize) -> Builder {
        let size = self.stem.constant("WG_SIZE", &self.consts) as usize;
        self.groups(n.div_ceil(size.max(1)))
    }

    /// The launch. Errs on a name that the stem lacks, a binding without an argument.
    pub(crate) fn done(self) -> Result<Launch> {
        let label = format!("{}.{}", self.stem.name, self.entry);
        let entry = self.stem.entry(self.entry)?;
        let uniforms: Vec<(&str, u32)> = self.uniforms.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        if let Some((name, _)) = self.args.iter().find(|(n, _)| !entry.bindings.iter().any(|b| b.name == *n)) {
            return Err(Error::operand(label, "bindings that the entry point uses", format!("`{name}`")));
        }
        let mut args = Vec::new();
        for b in entry.bindings.iter().filter(|b| b.kind != BindingKind::Uniform) {
            let arg = self.args.iter().find(|(n, _)| *n == b.name).map(|(_, a)| *a);
            args.push((b.index, arg.ok_or_else(|| Error::operand(&label, format!("an argument for `{}`", b.name), "none"))?));
        }
        let text = self.stem.stitch(&self.consts)?;
        let bindings = entry.bindings.iter().map(|b: &Binding| (b.index, b.kind)).collect();
        let uniform = self.stem.uniform(&uniforms)?;
        let kernel = Kernel { label, text, entry: self.entry, bindings, needs: self.stem.needs };
        Ok(Launch { kernel, uniform, args, tables: self.tables, groups: self.groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_that_does_not_fit_its_stem_is_refused() {
        let whole = || kernel("zero", "zero").uniform("words", 4).bind("y", Arg::Scratch(0)).items(4);
        assert!(whole().done().is_ok());
        assert!(whole().bind("z", Arg::Absent).done().is_err());
        assert!(whole().set("Q", 1).done().is_err());
        assert!(whole().set("WG_SIZE", 7).done().is_err());
        assert!(whole().uniform("n", 4).done().is_err());
        assert!(kernel("zero", "zero").uniform("words", 4).done().is_err());
        assert!(kernel("zero", "zero").bind("y", Arg::Absent).done().is_err());
    }
}
