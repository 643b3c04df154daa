//! WGSL kernels, stitched and read by naga at build time, and the table that describes them.
//!
//! One file of `wgsl/` is one stem, twin of the file of that name in `core/src/cpu`; stems that serve software adapters
//! only lie in `wgsl/software/`. A launch names a stem, an entry point and values of the stem's constants;
//! [`Stem::stitch`] gives the text that a device compiles behind a [`Prelude`]. Nothing else assembles WGSL, but the
//! body of elementwise expressions ([`map`]).

pub mod map;

/// Part of the build script; here for its tests.
#[cfg(test)]
#[path = "../build/repeat.rs"]
mod repeat;
#[cfg(test)]
#[path = "../build/validate.rs"]
mod validate;

#[cfg(test)]
mod permutations;

use mantissa_core::DType;
use mantissa_core::error::{Error, Result};
use std::fmt::Write as _;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// One file of `wgsl/`.
#[derive(Debug)]
pub struct Stem {
    /// File name without its end; the name of its CPU twin too.
    pub name: &'static str,
    /// Hash of the text, for caches.
    pub hash: u64,
    /// Text with its imports, without the constants.
    pub source: &'static str,
    /// What a device must be able to do beyond what every device does.
    pub needs: &'static [Need],
    /// Constants that a launch may set.
    pub consts: &'static [Const],
    /// Fields of the uniform struct.
    pub params: &'static [Param],
    /// Bytes of the uniform struct; 0 without one.
    pub params_size: u32,
    /// Entry points.
    pub entries: &'static [Entry],
}

/// How kernels decode f16, and fp8 by way of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum F16Decoding {
    /// By integers and exact sums: the same on every device.
    #[default]
    Integers,
    /// By the conversion of the device, where a probe has shown it to be exact.
    Unpack,
}

impl std::fmt::Display for F16Decoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            F16Decoding::Integers => "integers",
            F16Decoding::Unpack => "the device's conversion",
        })
    }
}

/// How kernels read and write a vec8: eight neighbouring words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Vec8Access {
    /// As two vectors of four: every device.
    #[default]
    Vectors,
    /// As four words of 64 bits: software adapters, where the cost of a load is its number of components.
    Words64,
}

/// The functions in front of every kernel that depend on the device. The default runs on every device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prelude {
    /// Decoding of f16.
    pub f16: F16Decoding,
    /// Access to a vec8.
    pub vec8: Vec8Access,
}

impl Prelude {
    /// The text to put in front of a kernel.
    pub fn text(self) -> String {
        let f16 = match self.f16 {
            F16Decoding::Integers => F16_INTEGERS,
            F16Decoding::Unpack => F16_UNPACK,
        };
        let vec8 = match self.vec8 {
            Vec8Access::Vectors => VEC8_VECTORS,
            Vec8Access::Words64 => VEC8_WORDS64,
        };
        format!("{f16}{vec8}")
    }
}

/// What not every device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// Subgroup operations.
    Subgroups,
    /// Integers of 64 bits.
    Int64,
}

/// Values of a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstKind {
    /// [`dtype_code`] of a dtype.
    Dtype,
    /// 0 or 1.
    Bool,
    /// One of a list.
    Number,
}

/// A constant that a launch may set.
#[derive(Debug)]
pub struct Const {
    /// Name in the text.
    pub name: &'static str,
    /// What its values mean.
    pub kind: ConstKind,
    /// Values it may have.
    pub domain: &'static [u32],
    /// Value where a launch gives none.
    pub default: u32,
}

/// Type of a uniform field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// `u32`.
    U32,
    /// `i32`.
    I32,
    /// `f32`.
    F32,
}

/// A field of the uniform struct, as naga laid it out. Component `i` of a vector is the field `name[i]`.
#[derive(Debug)]
pub struct Param {
    /// Name in the text.
    pub name: &'static str,
    /// Offset, bytes.
    pub offset: u32,
    /// Type.
    pub scalar: Scalar,
}

/// How a kernel uses a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindingKind {
    /// The uniform struct.
    Uniform,
    /// Storage that is read.
    Read,
    /// Storage that is written, and perhaps read.
    ReadWrite,
}

/// A binding of an entry point.
#[derive(Debug)]
pub struct Binding {
    /// Name in the text.
    pub name: &'static str,
    /// Binding number in group 0.
    pub index: u32,
    /// How it is used.
    pub kind: BindingKind,
}

/// An entry point and the bindings it uses.
#[derive(Debug)]
pub struct Entry {
    /// Name in the text.
    pub name: &'static str,
    /// In order of their numbers in the text.
    pub bindings: &'static [Binding],
}

/// The stem of this name.
pub fn stem(name: &str) -> Option<&'static Stem> {
    STEMS.iter().find(|s| s.name == name)
}

/// Number of a dtype in WGSL: its place in the format table.
pub fn dtype_code(dtype: DType) -> u32 {
    DType::ALL.iter().position(|d| *d == dtype).unwrap_or(0) as u32
}

impl Stem {
    /// The entry point of this name.
    pub fn entry(&self, name: &str) -> Result<&'static Entry> {
        let found = self.entries.iter().find(|e| e.name == name);
        found.ok_or_else(|| Error::operand(format!("kernel {}", self.name), "one of its entry points", format!("`{name}`")))
    }

    /// The value of a constant under `chosen`.
    pub fn constant(&self, name: &str, chosen: &[(&str, u32)]) -> u32 {
        let given = chosen.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        given.or_else(|| self.consts.iter().find(|c| c.name == name).map(|c| c.default)).unwrap_or(0)
    }

    /// The text to compile, with constants set. Errs on a constant or a value that the stem does not declare.
    pub fn stitch(&self, chosen: &[(&str, u32)]) -> Result<String> {
        let what = || format!("kernel {}", self.name);
        if let Some((name, _)) = chosen.iter().find(|(n, _)| !self.consts.iter().any(|c| c.name == *n)) {
            return Err(Error::operand(what(), "a constant of the stem", format!("`{name}`")));
        }
        let mut out = String::with_capacity(self.source.len() + 64 * self.consts.len());
        for c in self.consts {
            let value = self.constant(c.name, chosen);
            if !c.domain.contains(&value) {
                return Err(Error::operand(what(), format!("{} among {:?}", c.name, c.domain), value.to_string()));
            }
            let _ = match c.kind {
                ConstKind::Bool => writeln!(out, "const {}: bool = {};", c.name, value != 0),
                ConstKind::Dtype | ConstKind::Number => writeln!(out, "const {}: u32 = {value}u;", c.name),
            };
        }
        out.push_str(self.source);
        Ok(out)
    }

    /// Bytes of the uniform struct with these fields set, floats by their bits. Errs unless every field is given, once,
    /// and nothing else.
    pub fn uniform(&self, fields: &[(&str, u32)]) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.params_size as usize];
        let what = || format!("uniforms of kernel {}", self.name);
        if let Some((name, _)) = fields.iter().find(|(n, _)| !self.params.iter().any(|p| p.name == *n)) {
            return Err(Error::operand(what(), "fields of its struct", format!("`{name}`")));
        }
        for p in self.params {
            let mut given = fields.iter().filter(|(n, _)| *n == p.name);
            match (given.next(), given.next()) {
                (Some((_, v)), None) => {
                    let at = p.offset as usize;
                    bytes[at..at + 4].copy_from_slice(&v.to_le_bytes());
                }
                (None, _) => return Err(Error::operand(what(), format!("field `{}`", p.name), "none")),
                (Some(_), Some(_)) => return Err(Error::operand(what(), format!("field `{}` once", p.name), "twice")),
            }
        }
        Ok(bytes)
    }
}
