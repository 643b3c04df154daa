//! Launches of attention.

use super::builder::{Arg, Builder, Frame, kernel};
use super::kernel_choice::AttentionKernel;
use super::software;
use mantissa_core::DType;
use mantissa_core::error::{Error, Result};
use mantissa_core::op::attention::Attention;
use mantissa_core::op::expr::dropout_threshold;

/// Queries or keys of a workgroup.
const WG_SIZE: usize = 32;

/// Elements of a vec8, which kernels handle at a time.
const VEC8: usize = 8;

/// Largest head that kernels keep in registers.
const MAX_HEAD_SIZE: usize = 128;

/// One launch; one more where heads are no whole vec8s.
pub(super) fn forward(o: &Attention, f: &mut Frame<'_>) -> Result<()> {
    let store = Store::new(o, f)?;
    let launch = common(o, "attention", 1, &store, f).bind("y", store.arg).bind("stats", f.y(1));
    f.push(launch.groups(store.groups(o.heads)).done()?);
    store.finish(f)
}

/// One launch for the gradients of queries, one for those of keys and values; one more where heads are no whole vec8s.
pub(super) fn backward(o: &Attention, f: &mut Frame<'_>) -> Result<()> {
    let store = Store::new(o, f)?;
    // One number a query, where the statistics have two.
    let delta = f.scratch(f.tx()[2].size_bytes() / 2);
    let part = |entry, f: &Frame<'_>| {
        let launch = common(o, entry, 4, &store, f).dtype("Y", f.tx()[1].dtype).dtype("DY", f.tx()[3].dtype);
        launch.bind("saved_stats", f.x(2)).bind("dy", f.x(3)).bind("dqkv", store.arg)
    };
    let dq = part("attention_dq", f).bind("saved_y", f.x(1)).bind("delta", delta);
    f.push(dq.groups(store.groups(o.heads)).done()?);
    let dkv = part("attention_dkv", f).bind("saved_delta", delta);
    f.push(dkv.groups(store.groups(o.kv_heads)).done()?);
    store.finish(f)
}

/// Where a kernel puts output 0: its memory, or scratch of padded heads in f32 that is packed afterwards.
struct Store {
    arg: Arg,
    dtype: DType,
    /// Heads are whole vec8s.
    whole: bool,
    batch: usize,
    t: usize,
    head_size: usize,
    stem: &'static str,
    /// Queries or keys of a workgroup.
    owned: usize,
}

impl Store {
    fn new(o: &Attention, f: &mut Frame<'_>) -> Result<Store> {
        let qkv = &f.tx()[0].shape;
        let (batch, t, head_size) = (qkv[0], qkv[1], o.head_size(qkv[2]));
        if head_size > MAX_HEAD_SIZE {
            return Err(Error::operand(
                "attention",
                format!("heads of at most {MAX_HEAD_SIZE} elements"),
                head_size.to_string(),
            ));
        }
        let y = &f.ty()[0];
        let whole = head_size.is_multiple_of(VEC8);
        let (arg, dtype) = if whole {
            (f.y(0), y.dtype)
        } else {
            let heads = y.shape.numel() / head_size.max(1);
            (f.scratch(heads * head_size.next_multiple_of(VEC8) * size_of::<f32>()), DType::F32)
        };
        let (stem, owned) = match f.limits.attention {
            AttentionKernel::Subgroups => software::ATTENTION,
            AttentionKernel::Workgroups => ("attention", WG_SIZE),
        };
        Ok(Store { arg, dtype, whole, batch, t, head_size, stem, owned })
    }

    /// Vec8s of a head.
    fn vec8s(&self) -> u32 {
        self.head_size.div_ceil(VEC8) as u32
    }

    /// Workgroups of a kernel over `heads`: those of a head side by side, then heads, then sequences.
    fn groups(&self, heads: usize) -> usize {
        self.t.div_ceil(self.owned) * heads * self.batch
    }

    fn finish(&self, f: &mut Frame<'_>) -> Result<()> {
        if self.whole {
            return Ok(());
        }
        let y = &f.ty()[0];
        let launch = kernel("attention", "attention_pack").dtype("OUT", y.dtype).set("HEAD_VEC8S", self.vec8s());
        let launch = no_dropout(fields(launch, [0, 0, 0, 0, self.head_size], 0.0, y.shape.numel()));
        let words = y.size_bytes().div_ceil(size_of::<u32>());
        f.push(launch.bind("padded", self.arg).bind("y", f.y(0)).groups(words.div_ceil(WG_SIZE)).done()?);
        Ok(())
    }
}

/// What the kernels over heads share; the random state is input `rng`.
fn common(o: &Attention, entry: &'static str, rng: usize, store: &Store, f: &Frame<'_>) -> Builder {
    let launch =
        kernel(store.stem, entry).dtype("X", f.tx()[0].dtype).dtype("OUT", store.dtype).set("HEAD_VEC8S", store.vec8s());
    let launch = launch.set("WHOLE", u32::from(store.whole)).set("CAUSAL", u32::from(o.causal)).bind("qkv", f.x(0));
    let launch = fields(launch, [store.batch, store.t, o.heads, o.kv_heads, store.head_size], o.scale.f32(), 0);
    match o.dropout {
        None => no_dropout(launch).bind("random_state", Arg::Absent),
        Some(d) => {
            let p = d.p.f32();
            let launch = launch.set("DROPOUT", 1).uniform("threshold", dropout_threshold(p) as usize);
            let launch = launch.uniform_f32("keep_scale", 1.0 / (1.0 - p)).uniform("stream", d.stream as usize);
            launch.bind("random_state", f.x(rng))
        }
    }
}

fn fields(launch: Builder, [batch, t, heads, kv_heads, head_size]: [usize; 5], scale: f32, elements: usize) -> Builder {
    let launch = launch
        .uniform("batch", batch)
        .uniform("t", t)
        .uniform("heads", heads)
        .uniform("kv_heads", kv_heads)
        .uniform("head_size", head_size);
    launch.uniform_f32("scale", scale).uniform("elements", elements)
}

fn no_dropout(launch: Builder) -> Builder {
    launch.uniform("threshold", 0).uniform_f32("keep_scale", 1.0).uniform("stream", 0)
}
