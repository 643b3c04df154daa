//! Launches of attention.

use super::{Arg, Builder, Frame, kernel};
use mantissa_core::DType;
use mantissa_core::error::{Error, Result};
use mantissa_core::op::attention::Attention;
use mantissa_core::op::expr::dropout_threshold;
use mantissa_core::shape::Ty;

/// Queries or keys of a workgroup.
const WG_SIZE: usize = 32;

/// Elements that a kernel handles at a time.
const QUAD: usize = 4;

/// Largest head that kernels keep in registers.
const MAX_HEAD_SIZE: usize = 128;

/// One launch; one more where heads do not fill whole words.
pub(super) fn forward(o: &Attention, f: &mut Frame<'_>) -> Result<()> {
    let store = Store::new(o, f)?;
    let launch = common(o, "attention", 1, &store, f)?.bind("y", store.arg).bind("lse", f.y(1));
    let [b, t, _] = sizes(&f.tx()[0]);
    f.push(launch.grid([t.div_ceil(WG_SIZE), o.heads, b]).done()?);
    store.finish(f)
}

/// One launch for the gradients of queries, one for those of keys and values; one more where heads do not fill whole words.
pub(super) fn backward(o: &Attention, f: &mut Frame<'_>) -> Result<()> {
    let store = Store::new(o, f)?;
    let [b, t, _] = sizes(&f.tx()[0]);
    let delta = f.scratch(b * o.heads * t * size_of::<f32>());
    let part = |entry, f: &Frame<'_>| -> Result<Builder> {
        let launch = common(o, entry, 4, &store, f)?.dtype("Y", f.tx()[1].dtype).dtype("DY", f.tx()[3].dtype);
        Ok(launch.bind("saved_lse", f.x(2)).bind("dy", f.x(3)).bind("dqkv", store.arg))
    };
    let dq = part("attention_dq", f)?.bind("saved_y", f.x(1)).bind("delta", delta);
    f.push(dq.grid([t.div_ceil(WG_SIZE), o.heads, b]).done()?);
    let dkv = part("attention_dkv", f)?.bind("saved_delta", delta);
    f.push(dkv.grid([t.div_ceil(WG_SIZE), o.kv_heads, b]).done()?);
    store.finish(f)
}

fn sizes(qkv: &Ty) -> [usize; 3] {
    [qkv.shape[0], qkv.shape[1], qkv.shape[2]]
}

/// Where a kernel puts output 0: its memory, or scratch in f32 that is packed afterwards.
struct Store {
    arg: Arg,
    dtype: DType,
    whole: bool,
    head_size: usize,
}

impl Store {
    fn new(o: &Attention, f: &mut Frame<'_>) -> Result<Store> {
        let head_size = o.head_size(f.tx()[0].shape.last());
        if head_size > MAX_HEAD_SIZE {
            return Err(Error::operand(
                "attention",
                format!("heads of at most {MAX_HEAD_SIZE} elements"),
                head_size.to_string(),
            ));
        }
        let y = &f.ty()[0];
        let whole = head_size.is_multiple_of(QUAD);
        if whole || y.dtype == DType::F32 {
            return Ok(Store { arg: f.y(0), dtype: y.dtype, whole, head_size });
        }
        let arg = f.scratch(y.shape.numel() * size_of::<f32>());
        Ok(Store { arg, dtype: DType::F32, whole, head_size })
    }

    fn finish(&self, f: &mut Frame<'_>) -> Result<()> {
        let y = &f.ty()[0];
        if self.dtype == y.dtype {
            return Ok(());
        }
        let launch = fields(kernel("attention", "attention_pack").dtype("OUT", y.dtype), [0; 4], 0.0, y.shape.numel());
        let launch = no_dropout(launch).bind("unpacked", self.arg).bind("y", f.y(0));
        f.push(launch.groups(y.size_bytes().div_ceil(size_of::<u32>()).div_ceil(WG_SIZE)).done()?);
        Ok(())
    }
}

/// What all kernels share; the random state is input `rng`.
fn common(o: &Attention, entry: &'static str, rng: usize, store: &Store, f: &Frame<'_>) -> Result<Builder> {
    let qkv = &f.tx()[0];
    let quads = store.head_size.div_ceil(QUAD);
    let launch = kernel("attention", entry).dtype("X", qkv.dtype).dtype("OUT", store.dtype).set("QUADS", quads as u32);
    let launch = launch.set("WHOLE", u32::from(store.whole)).set("CAUSAL", u32::from(o.causal)).bind("qkv", f.x(0));
    let launch = fields(launch, [qkv.shape[1], o.heads, o.kv_heads, store.head_size], o.scale.f32(), 0);
    Ok(match o.dropout {
        None => no_dropout(launch).bind("random_state", Arg::Absent),
        Some(d) => {
            let p = d.p.f32();
            let launch = launch.set("DROPOUT", 1).uniform("threshold", dropout_threshold(p) as usize);
            let launch = launch.uniform_f32("keep_scale", 1.0 / (1.0 - p)).uniform("stream", d.stream as usize);
            launch.bind("random_state", f.x(rng))
        }
    })
}

fn fields(launch: Builder, [t, heads, kv_heads, head_size]: [usize; 4], scale: f32, elements: usize) -> Builder {
    let launch = launch.uniform("t", t).uniform("heads", heads).uniform("kv_heads", kv_heads).uniform("head_size", head_size);
    launch.uniform_f32("scale", scale).uniform("elements", elements)
}

fn no_dropout(launch: Builder) -> Builder {
    launch.uniform("threshold", 0).uniform_f32("keep_scale", 1.0).uniform("stream", 0)
}
