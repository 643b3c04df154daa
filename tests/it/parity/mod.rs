//! Every operation on every backend against the CPU, over dtypes and awkward shapes. One file a family.

mod conv2d;
mod harness;
mod loss;
mod matmul;
mod norm;
mod reduce;
mod update;
