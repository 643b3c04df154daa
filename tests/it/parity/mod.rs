//! Every operation on every backend against the CPU, over dtypes and awkward shapes. One file a family.

mod harness;
mod loss;
mod map;
mod matmul;
mod norm;
mod reduce;
mod quantize;
mod update;
