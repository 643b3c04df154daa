//! Every operation on every backend against the CPU, over dtypes and awkward shapes. One file a family.

mod attention;
mod conv2d;
mod harness;
mod index;
mod layout;
mod loss;
mod map;
mod matmul;
mod norm;
mod pool;
mod quantize;
mod reduce;
mod softmax;
mod tensor_stats;
mod tuning;
mod update;
