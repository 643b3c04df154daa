//! Where each node of a `Map` expression keeps its values while a block is evaluated.
//!
//! A node gets a scratch row for as long as a later node reads it; rows are reused lowest first, which needs exactly as
//! many rows as values are alive at once. Constants and scalar inputs keep theirs for the whole piece, so that they are
//! filled once. Treating every input as such a constant and every output as stored from scratch bounds the rows of any
//! actual call: that is what `map_work_len` does.

use crate::op::map::{MAX_NODES, MAX_OUTPUTS, MapExpr, Node, NodeId};

/// Home of a node's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nobody reads this node.
    Dead,
    /// Scratch row.
    Row(u8),
    /// Straight in the f32 output of this number.
    Output(u8),
    /// Borrowed from this input as it lies in memory.
    Borrowed(u16),
}

/// How an input reaches its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// One value: a row filled once.
    Scalar,
    /// f32 values in output order: borrowed.
    Borrowed,
    /// Decoded or gathered, block by block.
    Loaded,
    /// Read from an output before that is overwritten: loaded at the start of each block.
    InPlace,
}

/// Homes of all nodes of one expression.
pub(super) struct Plan {
    pub(super) places: [Place; MAX_NODES],
    /// Scratch rows in use.
    pub(super) rows: usize,
}

impl Plan {
    /// Plans `expr`; `direct(i)` says that output `i` is f32 memory that a node may write as its row.
    pub(super) fn new(expr: &MapExpr, source: impl Fn(u16) -> Source, direct: impl Fn(usize) -> bool) -> Plan {
        debug_assert!(expr.nodes.len() <= MAX_NODES && expr.outputs.len() <= MAX_OUTPUTS);
        let last = last_reads(expr);
        let mut plan = Plan { places: [Place::Dead; MAX_NODES], rows: 0 };
        let mut free = u128::MAX;
        // Rows that hold their values from the start of a block.
        for (i, node) in expr.nodes.iter().enumerate().filter(|(i, _)| last[*i] != UNREAD) {
            if held_from_start(*node, &source) {
                plan.places[i] = plan.take(&mut free);
            }
        }
        for (i, node) in expr.nodes.iter().enumerate().filter(|(i, _)| last[*i] != UNREAD) {
            if plan.places[i] == Place::Dead {
                let mut outputs = expr.outputs.iter().enumerate();
                let output = outputs.find(|(k, id)| usize::from(**id) == i && direct(*k)).map(|(k, _)| k);
                plan.places[i] = match (*node, output) {
                    (Node::Input(n), _) if source(n) == Source::Borrowed => Place::Borrowed(n),
                    (_, Some(k)) => Place::Output(k as u8),
                    (_, None) => plan.take(&mut free),
                };
            }
            node.for_each_operand(|x| {
                let x = usize::from(x);
                if usize::from(last[x]) == i
                    && !pinned(expr.nodes[x], &source)
                    && let Place::Row(row) = plan.places[x]
                {
                    free |= 1 << row;
                }
            });
        }
        plan
    }

    /// Home of node `id`.
    pub(super) fn place(&self, id: NodeId) -> Place {
        self.places[usize::from(id)]
    }

    fn take(&mut self, free: &mut u128) -> Place {
        let row = free.trailing_zeros();
        *free &= !(1 << row);
        self.rows = self.rows.max(row as usize + 1);
        Place::Row(row as u8)
    }
}

/// The row of this node is filled once and kept for the whole piece.
fn pinned(node: Node, source: impl Fn(u16) -> Source) -> bool {
    match node {
        Node::Const(_) => true,
        Node::Input(n) => source(n) == Source::Scalar,
        Node::Round(..)
        | Node::Unary(..)
        | Node::Binary(..)
        | Node::Select(_)
        | Node::Dropout { .. }
        | Node::Uniform { .. } => false,
    }
}

fn held_from_start(node: Node, source: impl Fn(u16) -> Source) -> bool {
    matches!(node, Node::Input(n) if source(n) == Source::InPlace) || pinned(node, source)
}

const UNREAD: u8 = u8::MAX;

/// Index of the last live node that reads each node; past all nodes for outputs, [`UNREAD`] for dead ones.
fn last_reads(expr: &MapExpr) -> [u8; MAX_NODES] {
    const { assert!(MAX_NODES < UNREAD as usize) };
    let mut last = [UNREAD; MAX_NODES];
    for &id in &expr.outputs {
        last[usize::from(id)] = MAX_NODES as u8;
    }
    // Readers come after what they read: going backwards, the first reader met is the last, and it is known to live.
    for (i, node) in expr.nodes.iter().enumerate().rev() {
        if last[i] != UNREAD {
            node.for_each_operand(|x| {
                let x = usize::from(x);
                if last[x] == UNREAD {
                    last[x] = i as u8;
                }
            });
        }
    }
    last
}
