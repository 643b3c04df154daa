//! Integration tests, one binary: the proof that recorded Programs compute what they say, in every precision.

mod convergence;
mod device_clock;
mod fp8;
mod gradients;
mod indices;
mod large_gradients;
mod nonfinite;
mod owed;
mod parity;
mod passes;
mod precision_graph;
mod runtime;
mod scaler;
mod wgpu_limits;
mod wgpu_steps;

/// The example of the documentation of core. Cargo runs examples in documentation after all tests, where they would hide the last word.
#[path = "../../core/docs/one_layer.rs"]
mod one_layer;

#[test]
fn the_example_of_the_documentation_says_what_it_says() {
    one_layer::one_layer().expect("it records");
}
