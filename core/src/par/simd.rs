//! Run-time choice of the widest vector unit, in safe code.
//!
//! A kernel's inner loop is a plain loop in an `#[inline(always)]` function. [`vectorize`] runs it inside a function
//! compiled for the best instruction set of this machine (x86-64 v4 or v3 with FMA and F16C, NEON, or the baseline), so
//! a binary built for baseline x86-64 still uses AVX2 where it is present. Wrap whole loops, not single elements: each
//! call costs one indirect jump and everything not inlined into it is compiled for the baseline.
//!
//! Write `vectorize(#[inline(always)] move || ..)` and `move` inner closures: a scalar captured by reference is
//! reloaded after every narrow store, and the loop then stays scalar (a 15-fold loss was seen in the codecs).

/// Runs `f` with the widest vector instructions this machine has.
#[inline]
pub fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    struct Run<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Run<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Run(f))
}

/// Name of the instruction set that [`vectorize`] compiles for here, as vendors call it.
pub fn name() -> String {
    let level = format!("{:?}", pulp::Arch::new());
    match level.split(['(', ' ']).next().unwrap_or_default() {
        "V4" => "AVX-512".into(),
        "V3" => "AVX2".into(),
        "Scalar" => "no vector instructions beyond the baseline".into(),
        other => other.to_uppercase(),
    }
}
