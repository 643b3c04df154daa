//! `Embedding`: rows of a table by index. CPU kernel: `cpu/embedding.rs`.
//!
//! Inputs `table` [V, C], `ids` u32 [..]; output [.., C] in the table's dtype. Backward: inputs `ids, dy`; output
//! `dtable` f32 [V, C].

use super::{arity, expect, expect_float};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Ty;

pub(super) fn infer(inputs: &[Ty]) -> Result<Vec<Ty>> {
    arity("embedding", inputs, 2)?;
    let (table, ids) = (&inputs[0], &inputs[1]);
    expect_float("embedding", table)?;
    expect(table.shape.len() == 2, "embedding", "a table of shape [V, C]", table)?;
    expect(ids.dtype == DType::U32, "embedding", "u32 indices", ids)?;
    let mut shape = ids.shape.to_vec();
    shape.push(table.shape[1]);
    Ok(vec![Ty::new(table.dtype, shape)])
}

/// Attributes of `EmbeddingBackward`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EmbeddingBackward {
    /// Rows of the table.
    pub rows: usize,
}

impl EmbeddingBackward {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("embedding_backward", inputs, 2)?;
        let (ids, dy) = (&inputs[0], &inputs[1]);
        expect(ids.dtype == DType::U32, "embedding_backward", "u32 indices", ids)?;
        let fits = dy.dtype.is_float() && dy.shape.len() == ids.shape.len() + 1 && dy.shape.rows() == ids.shape.numel();
        expect(fits, "embedding_backward", format!("dy with a row for each of {ids}"), dy)?;
        Ok(vec![Ty::new(DType::F32, [self.rows, dy.shape.last()])])
    }
}
