//! Every operation on every backend against the CPU, over dtypes and awkward shapes. One file a family.

mod attention;
mod harness;
mod loss;
mod norm;
mod pool;
mod reduce;
mod softmax;
mod update;
