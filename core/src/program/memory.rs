//! The memory plan: where every value lies, decided before the first run. What it reports is what a backend allocates.
//!
//! Memory is a list of buffers. `Param` and `State` values live in persistent buffers described by a [`Layout`], shared
//! by all Programs of a session and found by name. Lists (the parameters of an optimizer, its moments, its gradients)
//! lie in one buffer in list order, each member at a multiple of [`ALIGN`] bytes. Temporaries take turns in buffers of
//! their own: one value per buffer at a time, since WebGPU cannot bind one buffer for reading and writing at once.

use super::indices::{IndexRange, index_ranges};
use super::{Init, Kind, Program, Rate, Role, ValueId};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::shape::Ty;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Alignment of every value, bytes: the largest offset alignment that WebGPU asks for.
pub const ALIGN: usize = 256;

/// A place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the buffer; persistent buffers come first.
    pub buffer: usize,
    /// First byte.
    pub offset: usize,
    /// Bytes of the value.
    pub size: usize,
}

/// What a buffer holds, for the memory report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// Master weights.
    Weights,
    /// Moments and step counters.
    Optimizer,
    /// Scales, trackers, histories.
    Precision,
    /// Numbers for the host.
    Telemetry,
    /// Gradients of parameters.
    Gradients,
    /// Everything else inside a step.
    Activations,
    /// Data from the host.
    Inputs,
}

impl Purpose {
    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Purpose::Weights => "weights",
            Purpose::Optimizer => "optimizer",
            Purpose::Precision => "precision",
            Purpose::Telemetry => "telemetry",
            Purpose::Gradients => "gradients",
            Purpose::Activations => "activations",
            Purpose::Inputs => "inputs",
        }
    }
}

/// One buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Bytes.
    pub size: usize,
    /// What it holds.
    pub purpose: Purpose,
}

/// A persistent value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Unique name.
    pub name: String,
    /// Type.
    pub ty: Ty,
    /// First contents.
    pub init: Init,
    /// Where it lies; the buffer indexes [`Layout::buffers`].
    pub place: Place,
    /// What it is for.
    pub purpose: Purpose,
}

/// All persistent values of a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// Values in declaration order.
    pub entries: Vec<Entry>,
    /// Buffers that hold them.
    pub buffers: Vec<Buffer>,
    by_name: HashMap<String, usize>,
}

impl Layout {
    /// The layout that `program` (usually the training step, which has every state) asks for.
    pub fn new(program: &Program) -> Layout {
        let mut layout = Layout::default();
        let mut packed: Vec<Vec<ValueId>> = Vec::new();
        for list in program.lists() {
            let persistent = list.iter().all(|&id| program.value(id).kind.is_persistent());
            if persistent && !packed.iter().any(|p| p.contains(&list[0])) {
                packed.push(list);
            }
        }
        let mut places: HashMap<ValueId, Place> = HashMap::new();
        for list in &packed {
            let purpose = purpose(&program.value(list[0]).kind);
            let buffer = layout.buffers.len();
            let mut end = 0;
            for &id in list {
                let size = program.ty(id).size_bytes();
                places.insert(id, Place { buffer, offset: end, size });
                end += align(size);
            }
            layout.buffers.push(Buffer { size: end, purpose });
        }
        for (id, value) in program.values_where(|v| v.kind.is_persistent()) {
            let (Kind::Param(init) | Kind::State(_, init)) = value.kind else { continue };
            let purpose = purpose(&value.kind);
            let place = places.get(&id).copied().unwrap_or_else(|| {
                let size = value.ty.size_bytes();
                layout.buffers.push(Buffer { size: align(size), purpose });
                Place { buffer: layout.buffers.len() - 1, offset: 0, size }
            });
            layout.by_name.insert(value.name.clone(), layout.entries.len());
            layout.entries.push(Entry { name: value.name.clone(), ty: value.ty.clone(), init, place, purpose });
        }
        layout
    }

    /// The persistent value `name`.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|&i| &self.entries[i])
    }
}

/// Where every value of one Program lies.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// Persistent part, shared with other Programs.
    pub layout: Arc<Layout>,
    /// Buffers of this Program, numbered after the persistent ones.
    pub buffers: Vec<Buffer>,
    /// Place of each value; `None` for values that no instruction touches.
    pub places: Vec<Option<Place>>,
    /// Casts of parameters that lie in one buffer, to one dtype: indices of instructions whose outputs lie one after
    /// the other in one buffer of their own, so that a backend may run each group as one launch at the place of its
    /// first.
    pub cast_groups: Vec<Vec<usize>>,
    /// Inputs that are indices, with their ranges.
    pub indices: Vec<IndexRange>,
}

impl MemoryPlan {
    /// Plans `program` on top of `layout`, which must hold all its persistent values. Fails if a value is not there, or
    /// a list cannot lie in one piece.
    pub fn new(program: &Program, layout: &Arc<Layout>) -> Result<MemoryPlan> {
        Planner::new(program, layout)?.run()
    }

    /// Gives `put` the bytes of every `Input` of `program`, micro-step by micro-step: buffer, first byte, contents.
    /// Fails, naming the input, if one is missing, has another size, or holds an index out of its range.
    pub fn place_inputs(
        &self,
        program: &Program,
        inputs: &[(ValueId, &[u8])],
        mut put: impl FnMut(usize, usize, &[u8]),
    ) -> Result<()> {
        for (id, value) in program.values_where(|v| matches!(v.kind, Kind::Input(_))) {
            let bytes = inputs.iter().find(|(i, _)| *i == id).map(|(_, b)| *b);
            let copies = if value.kind == Kind::Input(Rate::MicroStep) { program.grad_accum } else { 1 };
            let size = value.ty.size_bytes();
            let bytes = bytes.filter(|b| b.len() == size * copies).ok_or_else(|| {
                let found = bytes.map_or("nothing".to_string(), |b| format!("{} bytes", b.len()));
                Error::operand(format!("input `{}`", value.name), format!("{} bytes", size * copies), found)
            })?;
            if let Some(range) = self.indices.iter().find(|r| r.input == id) {
                range.check(value, bytes)?;
            }
            let Some(place) = self.places[id.index()] else { continue };
            for (m, part) in bytes.chunks(size.max(1)).enumerate() {
                put(place.buffer, place.offset + m * align(size), part);
            }
        }
        Ok(())
    }

    /// Whether a Program of this plan may run over the temporaries of one of the `other`: what does not take turns lies
    /// where it lay. Lists of gradients must, since their padding is zero and stays so.
    pub fn fits_variant_of(&self, other: &MemoryPlan) -> bool {
        let fixed = |plan: &MemoryPlan| -> Vec<(Place, Buffer)> {
            let base = plan.layout.buffers.len();
            let own = |p: &Place| Some((*p, *plan.buffers.get(p.buffer.checked_sub(base)?)?));
            plan.places.iter().flatten().filter_map(own).filter(|(_, b)| b.purpose != Purpose::Activations).collect()
        };
        fixed(self) == fixed(other)
    }

    /// Bytes by purpose, persistent part included, in the order of [`Purpose`].
    pub fn bytes_by_purpose(&self) -> Vec<(Purpose, usize)> {
        let mut totals: std::collections::BTreeMap<Purpose, usize> = std::collections::BTreeMap::new();
        for b in self.layout.buffers.iter().chain(&self.buffers) {
            *totals.entry(b.purpose).or_default() += b.size;
        }
        totals.into_iter().collect()
    }

    /// Bytes of the buffers that are not shared with other Programs.
    pub fn temp_bytes(&self) -> usize {
        self.buffers.iter().map(|b| b.size).sum()
    }

    /// Bytes of all buffers.
    pub fn total_bytes(&self) -> usize {
        self.layout.buffers.iter().chain(&self.buffers).map(|b| b.size).sum()
    }
}

impl Program {
    /// The list operands of all multi-tensor instructions.
    fn lists(&self) -> Vec<Vec<ValueId>> {
        let of = |instr: &super::Instr| {
            instr.op.packs(instr.inputs.len()).into_iter().map(|r| instr.inputs[r].to_vec()).collect::<Vec<_>>()
        };
        self.instrs.iter().flat_map(of).filter(|l| !l.is_empty()).collect()
    }
}

fn purpose(kind: &Kind) -> Purpose {
    match kind {
        Kind::Param(_) => Purpose::Weights,
        Kind::State(Role::Optimizer, _) => Purpose::Optimizer,
        Kind::State(Role::Precision, _) => Purpose::Precision,
        Kind::State(Role::Accumulator, _) => Purpose::Gradients,
        Kind::State(Role::Telemetry, _) => Purpose::Telemetry,
        Kind::Input(_) => Purpose::Inputs,
        Kind::Temp | Kind::Output => Purpose::Activations,
    }
}

/// `bytes` rounded up to a whole number of alignment units, at least one.
pub fn align(bytes: usize) -> usize {
    bytes.max(1).div_ceil(ALIGN) * ALIGN
}

/// State of planning one Program.
struct Planner<'a> {
    program: &'a Program,
    layout: &'a Arc<Layout>,
    /// Representative of the values that share memory by contract.
    root: Vec<ValueId>,
    /// Last instruction that touches each root.
    last: Vec<usize>,
    places: Vec<Option<Place>>,
    buffers: Vec<Buffer>,
    cast_groups: Vec<Vec<usize>>,
}

impl<'a> Planner<'a> {
    fn new(program: &'a Program, layout: &'a Arc<Layout>) -> Result<Planner<'a>> {
        let n = program.values.len();
        let mut places = vec![None; n];
        for (i, v) in program.values.iter().enumerate() {
            if v.kind.is_persistent() {
                let entry = layout.find(&v.name).filter(|e| e.ty == v.ty).ok_or_else(|| {
                    let found = layout.find(&v.name).map_or("nothing of that name".to_string(), |e| e.ty.to_string());
                    Error::operand(
                        format!("memory plan of {}", program.name),
                        format!("`{}` {} in the layout", v.name, v.ty),
                        found,
                    )
                })?;
                places[i] = Some(entry.place);
            }
        }
        let mut root: Vec<ValueId> = (0..n as u32).map(ValueId).collect();
        for instr in &program.instrs {
            for (o, i) in instr.op.aliases(instr.inputs.len()) {
                root[instr.outputs[o].index()] = root[instr.inputs[i].index()];
            }
        }
        let mut last = vec![0; n];
        for (at, instr) in program.instrs.iter().enumerate() {
            for id in instr.inputs.iter().chain(&instr.outputs) {
                last[root[id.index()].index()] = at;
            }
        }
        for (i, v) in program.values.iter().enumerate() {
            if v.kind == Kind::Output {
                last[root[i].index()] = usize::MAX;
            }
        }
        Ok(Planner { program, layout, root, last, places, buffers: Vec::new(), cast_groups: Vec::new() })
    }

    fn run(mut self) -> Result<MemoryPlan> {
        self.place_inputs();
        self.place_lists();
        self.place_casts();
        self.place_temporaries();
        for i in 0..self.places.len() {
            self.places[i] = self.places[self.root[i].index()];
        }
        Ok(MemoryPlan {
            layout: self.layout.clone(),
            buffers: self.buffers,
            places: self.places,
            cast_groups: self.cast_groups,
            indices: index_ranges(self.program),
        })
    }

    fn new_buffer(&mut self, size: usize, purpose: Purpose) -> usize {
        self.buffers.push(Buffer { size, purpose });
        self.layout.buffers.len() + self.buffers.len() - 1
    }

    fn place_inputs(&mut self) {
        let program = self.program;
        for (id, v) in program.values_where(|v| matches!(v.kind, Kind::Input(_))) {
            let copies = if v.kind == Kind::Input(Rate::MicroStep) { program.grad_accum } else { 1 };
            let size = v.ty.size_bytes();
            // Each micro-step's slice starts at an aligned offset; the executable moves the window.
            let buffer = self.new_buffer(align(size) * copies, Purpose::Inputs);
            self.places[id.index()] = Some(Place { buffer, offset: 0, size });
        }
    }

    /// Temporaries that form lists: one buffer a list, for the whole step.
    fn place_lists(&mut self) {
        for list in self.program.lists() {
            let roots: Vec<ValueId> = list.iter().map(|id| self.root[id.index()]).collect();
            if roots.iter().any(|r| self.places[r.index()].is_some()) {
                continue;
            }
            let total = roots.iter().map(|r| align(self.program.ty(*r).size_bytes())).sum();
            let buffer = self.new_buffer(total, Purpose::Gradients);
            let mut offset = 0;
            for r in roots {
                let size = self.program.ty(r).size_bytes();
                self.places[r.index()] = Some(Place { buffer, offset, size });
                offset += align(size);
            }
        }
    }

    /// Copies of parameters in another dtype: one buffer for all whose originals lie in one buffer, for the whole step.
    fn place_casts(&mut self) {
        let program = self.program;
        let written: HashSet<ValueId> = program.instrs[..program.micro_end].iter().flat_map(|i| i.outputs.clone()).collect();
        let mut groups: BTreeMap<(usize, DType), Vec<usize>> = BTreeMap::new();
        for (at, instr) in program.instrs.iter().enumerate().take(program.micro_end) {
            let (Op::Map(map), [from], [to]) = (&instr.op, &instr.inputs[..], &instr.outputs[..]) else { continue };
            let parameter = matches!(program.value(*from).kind, Kind::Param(_))
                && !written.contains(from)
                && program.value(*to).kind == Kind::Temp;
            let free = self.root[to.index()] == *to && self.places[to.index()].is_none();
            if let (Some(dtype), Some(place), true) =
                (map.as_cast(program.ty(*from)), self.places[from.index()], parameter && free)
            {
                groups.entry((place.buffer, dtype)).or_default().push(at);
            }
        }
        for group in groups.into_values().filter(|g| g.len() > 1) {
            let outputs: Vec<ValueId> = group.iter().map(|&at| program.instrs[at].outputs[0]).collect();
            let total = outputs.iter().map(|&o| align(program.ty(o).size_bytes())).sum();
            let buffer = self.new_buffer(total, Purpose::Activations);
            let mut offset = 0;
            for o in outputs {
                let size = program.ty(o).size_bytes();
                self.places[o.index()] = Some(Place { buffer, offset, size });
                offset += align(size);
            }
            self.cast_groups.push(group);
        }
    }

    /// The other temporaries, in execution order, each in the best-fitting free buffer.
    fn place_temporaries(&mut self) {
        let program = self.program;
        let mut free: Vec<usize> = Vec::new();
        // Whether a value has a buffer to itself, and which of them die at each instruction, in the order in which they
        // were placed.
        let mut owns = vec![false; program.values.len()];
        let mut dying: Vec<Vec<ValueId>> = vec![Vec::new(); program.instrs.len()];
        for (at, instr) in program.instrs.iter().enumerate() {
            let fresh: Vec<ValueId> =
                instr.outputs.iter().map(|o| self.root[o.index()]).filter(|r| self.places[r.index()].is_none()).collect();
            for id in fresh {
                let size = program.ty(id).size_bytes();
                let buffer = match self.in_place(instr, at, id, &owns) {
                    Some(taken) => {
                        owns[taken.index()] = false;
                        self.places[taken.index()].map_or(0, |p| p.buffer)
                    }
                    None => self.take_buffer(&mut free, align(size)),
                };
                self.places[id.index()] = Some(Place { buffer, offset: 0, size });
                owns[id.index()] = true;
                if let Some(list) = dying.get_mut(self.last[id.index()]) {
                    list.push(id);
                }
            }
            for id in std::mem::take(&mut dying[at]) {
                if std::mem::take(&mut owns[id.index()]) {
                    free.extend(self.places[id.index()].map(|p| p.buffer));
                }
            }
        }
    }

    /// An operand read element by element that dies here and whose memory output `id` can take over.
    fn in_place(&self, instr: &super::Instr, at: usize, id: ValueId, owns: &[bool]) -> Option<ValueId> {
        let root = |i: &ValueId| self.root[i.index()];
        let candidates = instr.op.elementwise_inputs(instr.inputs.len());
        let others = [&instr.inputs[..candidates.start], &instr.inputs[candidates.end..]].concat();
        // The kernel reads the old contents as the output's dtype: an equal width is not enough.
        let out = self.program.ty(id);
        instr.inputs[candidates].iter().find_map(|i| {
            let (ty, root) = (self.program.ty(*i), root(i));
            let dies = self.last[root.index()] == at && owns[root.index()] && root != id;
            let whole = self.program.ty(root).size_bytes() == ty.size_bytes();
            let alone = !others.iter().any(|o| self.root[o.index()] == root);
            (ty == out && dies && whole && alone).then_some(root)
        })
    }

    /// A free buffer for `size` bytes: the smallest that is large enough but not wastefully so, else the largest one
    /// made larger, else a new one.
    fn take_buffer(&mut self, free: &mut Vec<usize>, size: usize) -> usize {
        let base = self.layout.buffers.len();
        let size_of = |b: usize, buffers: &[Buffer]| buffers[b - base].size;
        let fit = (0..free.len())
            .filter(|&k| (size..=4 * size).contains(&size_of(free[k], &self.buffers)))
            .min_by_key(|&k| size_of(free[k], &self.buffers));
        let grow = || {
            (0..free.len())
                .filter(|&k| (size / 4..size).contains(&size_of(free[k], &self.buffers)))
                .max_by_key(|&k| size_of(free[k], &self.buffers))
        };
        match fit.or_else(grow) {
            Some(k) => {
                let b = free.swap_remove(k);
                let own = &mut self.buffers[b - base];
                own.size = own.size.max(size);
                b
            }
            None => self.new_buffer(size, Purpose::Activations),
        }
    }
}
