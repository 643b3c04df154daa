//! Shapes and types of values. Row-major, the last axis varies fastest; a scalar has no axes.

use crate::dtype::DType;
use crate::error::{Error, Result};
use std::fmt;
use std::ops::Deref;

/// Lengths of the axes of a value.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// The shape of a scalar.
    pub fn scalar() -> Shape {
        Shape(Vec::new())
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.0.iter().product()
    }

    /// Length of the last axis; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.0.last().copied().unwrap_or(1)
    }

    /// Product of all axes but the last: the number of rows.
    pub fn rows(&self) -> usize {
        self.0.split_last().map_or(1, |(_, rest)| rest.iter().product())
    }

    /// Row-major element strides.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1; self.0.len()];
        for i in (1..self.0.len()).rev() {
            strides[i - 1] = strides[i] * self.0[i];
        }
        strides
    }

    /// The common shape of two operands under NumPy broadcasting. Fails if an axis differs and is 1 in neither.
    pub fn broadcast(&self, other: &Shape) -> Result<Shape> {
        let rank = self.len().max(other.len());
        let axis = |s: &Shape, i: usize| if i + s.len() < rank { 1 } else { s.0[i + s.len() - rank] };
        let mut out = Vec::with_capacity(rank);
        for i in 0..rank {
            match (axis(self, i), axis(other, i)) {
                (a, b) if a == b => out.push(a),
                (1, b) => out.push(b),
                (a, 1) => out.push(a),
                _ => return Err(Error::operand("broadcast", format!("a shape that fits {self}"), other.to_string())),
            }
        }
        Ok(Shape(out))
    }

    /// Element strides of `self` read as part of `out`: 0 on every broadcast axis. `self` must broadcast to `out`.
    pub fn broadcast_strides(&self, out: &Shape) -> Vec<usize> {
        let own = self.strides();
        let lead = out.len() - self.len();
        (0..out.len()).map(|i| if i < lead || self.0[i - lead] == 1 { 0 } else { own[i - lead] }).collect()
    }

    /// Axes of `out` along which `self` is repeated to fill it.
    pub fn broadcast_axes(&self, out: &Shape) -> Vec<usize> {
        let lead = out.len() - self.len();
        (0..out.len()).filter(|&i| i < lead || (self.0[i - lead] == 1 && out[i] != 1)).collect()
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl From<Vec<usize>> for Shape {
    fn from(axes: Vec<usize>) -> Shape {
        Shape(axes)
    }
}

impl From<&[usize]> for Shape {
    fn from(axes: &[usize]) -> Shape {
        Shape(axes.to_vec())
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(axes: [usize; N]) -> Shape {
        Shape(axes.to_vec())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, n) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{n}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Type of a value: element type and shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ty {
    /// Element type in storage.
    pub dtype: DType,
    /// Axis lengths.
    pub shape: Shape,
}

impl Ty {
    /// A type.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Ty {
        Ty { dtype, shape: shape.into() }
    }

    /// A scalar of `dtype`.
    pub fn scalar(dtype: DType) -> Ty {
        Ty { dtype, shape: Shape::scalar() }
    }

    /// Bytes of all elements.
    pub fn size_bytes(&self) -> usize {
        self.shape.numel() * self.dtype.size_bytes()
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        let s = |v: &[usize]| Shape::from(v);
        assert_eq!(s(&[2, 3]).broadcast(&s(&[3])).expect("fits"), s(&[2, 3]));
        assert_eq!(s(&[2, 1]).broadcast(&s(&[5])).expect("fits"), s(&[2, 5]));
        assert_eq!(s(&[]).broadcast(&s(&[4])).expect("fits"), s(&[4]));
        assert!(s(&[2, 3]).broadcast(&s(&[2])).is_err());
        assert_eq!(s(&[3, 1]).broadcast_strides(&s(&[2, 3, 4])), [0, 1, 0]);
        assert_eq!(s(&[3, 1]).broadcast_axes(&s(&[2, 3, 4])), [0, 2]);
    }

    #[test]
    fn strides_rows_and_size() {
        let t = Ty::new(DType::Bf16, [2, 3, 4]);
        assert_eq!(t.shape.strides(), [12, 4, 1]);
        assert_eq!((t.shape.rows(), t.shape.last(), t.size_bytes()), (6, 4, 48));
        assert_eq!(t.to_string(), "bf16[2, 3, 4]");
        assert_eq!(Shape::scalar().numel(), 1);
    }
}
