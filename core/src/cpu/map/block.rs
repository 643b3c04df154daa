//! The loops of `Map`: every node of an expression over one block, block after block over one piece.
//!
//! Everything here is inlined into the one `simd::vectorize` call around [`run_piece`]. A node's row is taken out of
//! the table while it is written, so its operands can be borrowed meanwhile.

use super::access::Access;
use super::functions as f;
use super::plan::{Place, Plan, Source};
use super::{BLOCK, MapInput, is_f32};
use crate::dtype::DType;
use crate::float::view::{View, ViewMut};
use crate::float::{bf16, e4m3, e5m2, e8m0, f16, math, tf32};
use crate::op::map::{BinaryFn, MAX_NODES, MAX_OUTPUTS, MapExpr, Node, NodeId, UnaryFn};
use crate::rng;
use arrayvec::ArrayVec;

/// What all pieces of one call share.
pub(super) struct Call<'a> {
    pub(super) expr: &'a MapExpr,
    pub(super) plan: &'a Plan,
    pub(super) feeds: &'a [Feed<'a>],
    /// Elements of a scratch row: [`BLOCK`], or all there are if fewer.
    pub(super) row_len: usize,
}

/// One task: a range of the output with its own scratch.
pub(super) struct Piece<'a> {
    pub(super) start: usize,
    pub(super) len: usize,
    /// The piece's part of every output.
    pub(super) outputs: ArrayVec<ViewMut<'a>, MAX_OUTPUTS>,
    /// `plan.rows * row_len` elements.
    pub(super) work: &'a mut [f32],
}

/// An input, ready to be read.
pub(super) enum Feed<'a> {
    /// From memory; the view again for `[seed, step]`.
    Read(View<'a>, Access<'a>),
    /// From this output, before it is overwritten.
    InPlace(usize),
}

impl<'a> Feed<'a> {
    pub(super) fn new(input: &MapInput<'a>, shape: &[usize]) -> Feed<'a> {
        match *input {
            MapInput::View { view, strides } => Feed::Read(view, Access::new(view, shape, strides)),
            MapInput::InPlace(i) => Feed::InPlace(i),
        }
    }

    /// How nodes get at this input.
    pub(super) fn source(&self) -> Source {
        match self {
            Feed::InPlace(_) => Source::InPlace,
            Feed::Read(_, access) if access.is_scalar() => Source::Scalar,
            Feed::Read(_, access) if access.contiguous_f32().is_some() => Source::Borrowed,
            Feed::Read(..) => Source::Loaded,
        }
    }

    /// `[seed, step]` of a random-number input.
    fn seed_step(&self) -> [u32; 2] {
        match self {
            Feed::Read(view, _) => [view.u32s()[0], view.u32s()[1]],
            Feed::InPlace(_) => unreachable!("a random-number input is u32 state, never the output of a Map"),
        }
    }
}

/// Evaluates the expression over one piece and stores its outputs.
#[inline(always)]
pub(super) fn run_piece(call: &Call<'_>, piece: &mut Piece<'_>) {
    fill_pinned(call, piece.work);
    for at in (0..piece.len).step_by(BLOCK) {
        let len = BLOCK.min(piece.len - at);
        let mut coded: ArrayVec<ViewMut<'_>, MAX_OUTPUTS> = piece.outputs.iter_mut().map(|y| y.part(at..at + len)).collect();
        let mut block = Block {
            call,
            rows: piece.work.chunks_exact_mut(call.row_len).map(|row| &mut row[..len]).collect(),
            direct: coded.iter_mut().map(take_f32).collect(),
            start: piece.start + at,
        };
        for (node, place) in call.expr.nodes.iter().zip(call.plan.places) {
            if let (Node::Input(n), Place::Row(_)) = (*node, place)
                && let Feed::InPlace(i) = call.feeds[usize::from(n)]
            {
                block.load_in_place(place, i, &coded[i]);
            }
        }
        for (node, place) in call.expr.nodes.iter().zip(call.plan.places) {
            let y = block.take(place);
            block.evaluate(*node, y);
            block.put_back(place, y);
        }
        for (i, id) in call.expr.outputs.iter().enumerate() {
            block.store(i, call.plan.place(*id), &mut coded[i]);
        }
    }
}

/// The rows of constants and scalar inputs: filled once a piece.
fn fill_pinned(call: &Call<'_>, work: &mut [f32]) {
    for (node, place) in call.expr.nodes.iter().zip(call.plan.places) {
        if let (Some(value), Place::Row(row)) = (pinned_value(call, *node), place) {
            work[usize::from(row) * call.row_len..][..call.row_len].fill(value);
        }
    }
}

fn pinned_value(call: &Call<'_>, node: Node) -> Option<f32> {
    match node {
        Node::Const(bits) => Some(f32::from_bits(bits)),
        Node::Input(n) => match &call.feeds[usize::from(n)] {
            Feed::Read(_, access) if access.is_scalar() => Some(access.scalar()),
            Feed::Read(..) | Feed::InPlace(_) => None,
        },
        Node::Round(..)
        | Node::Unary(..)
        | Node::Binary(..)
        | Node::Select(_)
        | Node::Dropout { .. }
        | Node::Uniform { .. } => None,
    }
}

/// The values of an f32 view, which is left empty; an empty slice for another dtype.
fn take_f32<'a>(y: &mut ViewMut<'a>) -> &'a mut [f32] {
    if is_f32(y.dtype) { bytemuck::cast_slice_mut(std::mem::take(&mut y.bytes)) } else { Default::default() }
}

/// The rows of one block, each as long as the block.
struct Block<'b> {
    call: &'b Call<'b>,
    rows: ArrayVec<&'b mut [f32], MAX_NODES>,
    /// The block of each f32 output; empty for other dtypes.
    direct: ArrayVec<&'b mut [f32], MAX_OUTPUTS>,
    /// Linear index of the first element.
    start: usize,
}

impl<'b> Block<'b> {
    /// Takes the row that a node writes; empty where it writes none.
    #[inline(always)]
    fn take(&mut self, place: Place) -> &'b mut [f32] {
        match place {
            Place::Row(row) => std::mem::take(&mut self.rows[usize::from(row)]),
            Place::Output(i) => std::mem::take(&mut self.direct[usize::from(i)]),
            Place::Dead | Place::Borrowed(_) => Default::default(),
        }
    }

    #[inline(always)]
    fn put_back(&mut self, place: Place, y: &'b mut [f32]) {
        match place {
            Place::Row(row) => self.rows[usize::from(row)] = y,
            Place::Output(i) => self.direct[usize::from(i)] = y,
            Place::Dead | Place::Borrowed(_) => {}
        }
    }

    /// The values at `place`, `len` of them.
    #[inline(always)]
    fn read(&self, place: Place, len: usize) -> &[f32] {
        match place {
            Place::Row(row) => self.rows[usize::from(row)],
            Place::Output(i) => self.direct[usize::from(i)],
            Place::Borrowed(n) => match &self.call.feeds[usize::from(n)] {
                Feed::Read(_, access) => access.contiguous_f32().map_or(&[], |x| &x[self.start..self.start + len]),
                Feed::InPlace(_) => &[],
            },
            Place::Dead => &[],
        }
    }

    fn load_in_place(&mut self, place: Place, i: usize, coded: &ViewMut<'_>) {
        let y = self.take(place);
        if is_f32(coded.dtype) {
            y.copy_from_slice(self.direct[i]);
        } else {
            coded.as_view().decode_into(y);
        }
        self.put_back(place, y);
    }

    /// Output `i`, whose values are at `place`: rounds and stores them, unless they were computed where they belong.
    fn store(&mut self, i: usize, place: Place, coded: &mut ViewMut<'_>) {
        if is_f32(coded.dtype) {
            if place != Place::Output(i as u8) {
                let y = std::mem::take(&mut self.direct[i]);
                y.copy_from_slice(self.read(place, y.len()));
                self.direct[i] = y;
            }
        } else {
            coded.store(0, self.read(place, coded.len()));
        }
    }

    /// Writes the values of `node` to `y`. Nodes without a row of their own, or with one that is filled already, do
    /// nothing.
    #[inline(always)]
    fn evaluate(&self, node: Node, y: &mut [f32]) {
        if y.is_empty() {
            return;
        }
        let len = y.len();
        let at = |id: NodeId| self.read(self.call.plan.place(id), len);
        match node {
            Node::Const(_) => {}
            Node::Input(n) => match &self.call.feeds[usize::from(n)] {
                Feed::Read(_, access) if !access.is_scalar() => access.load(self.start, y),
                Feed::Read(..) | Feed::InPlace(_) => {}
            },
            Node::Round(dtype, x) => round(dtype, at(x), y),
            Node::Unary(function, x) => unary(function, at(x), y),
            Node::Binary(function, a, b) => binary(function, at(a), at(b), y),
            Node::Select([cond, a, b]) => {
                for (((y, cond), a), b) in y.iter_mut().zip(at(cond)).zip(at(a)).zip(at(b)) {
                    *y = f::select(*cond, *a, *b);
                }
            }
            Node::Dropout { x, rng, stream, threshold, scale } => {
                let [seed, step] = self.call.feeds[usize::from(rng)].seed_step();
                let scale = f32::from_bits(scale);
                y.copy_from_slice(at(x));
                with_words(y, [seed, stream], step, self.start, |x, word| f::dropout(x, word, threshold, scale));
            }
            Node::Uniform { rng, stream } => {
                let [seed, step] = self.call.feeds[usize::from(rng)].seed_step();
                with_words(y, [seed, stream], step, self.start, |_, word| f::uniform(word));
            }
        }
    }
}

/// `y = function(x)`.
#[inline(always)]
fn unary(function: UnaryFn, x: &[f32], y: &mut [f32]) {
    match function {
        UnaryFn::Neg => apply(x, y, f::neg),
        UnaryFn::Abs => apply(x, y, f::abs),
        UnaryFn::Recip => apply(x, y, f::recip),
        UnaryFn::Square => apply(x, y, f::square),
        UnaryFn::Sqrt => apply(x, y, f::sqrt),
        UnaryFn::Rsqrt => apply(x, y, f::rsqrt),
        UnaryFn::Exp => apply(x, y, math::exp),
        UnaryFn::Log => apply(x, y, math::ln),
        UnaryFn::Tanh => apply(x, y, math::tanh),
        UnaryFn::Erf => apply(x, y, math::erf),
        UnaryFn::Sigmoid => apply(x, y, math::sigmoid),
        UnaryFn::Softplus => apply(x, y, math::softplus),
        UnaryFn::Sin => apply(x, y, math::sin),
        UnaryFn::Cos => apply(x, y, math::cos),
        UnaryFn::Floor => apply(x, y, f::floor),
        UnaryFn::Sign => apply(x, y, f::sign),
        UnaryFn::Relu => apply(x, y, f::relu),
        UnaryFn::ReluGrad => apply(x, y, f::relu_grad),
        UnaryFn::GeluTanh => apply(x, y, f::gelu_tanh),
        UnaryFn::GeluTanhGrad => apply(x, y, f::gelu_tanh_grad),
        UnaryFn::GeluErf => apply(x, y, f::gelu_erf),
        UnaryFn::GeluErfGrad => apply(x, y, f::gelu_erf_grad),
        UnaryFn::Silu => apply(x, y, f::silu),
        UnaryFn::SiluGrad => apply(x, y, f::silu_grad),
        UnaryFn::IsFinite => apply(x, y, f::is_finite),
    }
}

/// `y = function(a, b)`.
#[inline(always)]
fn binary(function: BinaryFn, a: &[f32], b: &[f32], y: &mut [f32]) {
    match function {
        BinaryFn::Add => apply2(a, b, y, f::add),
        BinaryFn::Sub => apply2(a, b, y, f::sub),
        BinaryFn::Mul => apply2(a, b, y, f::mul),
        BinaryFn::Div => apply2(a, b, y, f::div),
        BinaryFn::Max => apply2(a, b, y, f::max),
        BinaryFn::Min => apply2(a, b, y, f::min),
        BinaryFn::Pow => apply2(a, b, y, math::pow),
        BinaryFn::Lt => apply2(a, b, y, f::lt),
        BinaryFn::Le => apply2(a, b, y, f::le),
        BinaryFn::Eq => apply2(a, b, y, f::eq),
    }
}

/// `y = x` on the grid of `dtype`.
#[inline(always)]
fn round(dtype: DType, x: &[f32], y: &mut [f32]) {
    match dtype {
        DType::F32 => y.copy_from_slice(x),
        DType::Tf32 => apply(x, y, tf32::round),
        DType::F16 => apply(x, y, f16::round),
        DType::Bf16 => apply(x, y, bf16::round),
        DType::E4m3 => apply(x, y, e4m3::round),
        DType::E5m2 => apply(x, y, e5m2::round),
        DType::E8m0 => apply(x, y, e8m0::round),
        DType::U32 => apply(x, y, f::to_u32),
        DType::I32 => apply(x, y, f::to_i32),
    }
}

#[inline(always)]
fn apply(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = f(*x);
    }
}

#[inline(always)]
fn apply2(a: &[f32], b: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = f(*a, *b);
    }
}

/// `y[i] = f(y[i], random word of element start + i)`; `start` is even. One block function gives two words.
#[inline(always)]
fn with_words(y: &mut [f32], key: [u32; 2], step: u32, start: usize, f: impl Fn(f32, u32) -> f32) {
    debug_assert!(start.is_multiple_of(2));
    let first = start as u32 >> 1;
    let (pairs, odd) = y.as_chunks_mut::<2>();
    for (j, pair) in pairs.iter_mut().enumerate() {
        let words = rng::threefry2x32(key, [first.wrapping_add(j as u32), step]);
        *pair = [f(pair[0], words[0]), f(pair[1], words[1])];
    }
    if let [last] = odd {
        let words = rng::threefry2x32(key, [first.wrapping_add(pairs.len() as u32), step]);
        *last = f(*last, words[0]);
    }
}
