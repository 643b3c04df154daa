use mantissa_core::*;
use std::sync::Arc;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let steps: u64 = args[2].parse().unwrap();
    let recipe = precision::Recipe::new(args[1].parse().unwrap());
    let (model, batch) = model::ModelConfig::preset("gpt-tiny").unwrap();
    let config = train::TrainConfig {
        model,
        recipe,
        optim: optim::OptimConfig::adamw(),
        schedule: optim::schedule::Schedule {
            lr: 1e-3,
            min_lr: 1e-4,
            warmup: 20,
            steps: 500,
            decay: optim::schedule::Decay::Cosine,
        },
        clip: Some(precision::clip::Clip::Norm(1.0)),
        batch,
        error_if_nonfinite: false,
        grad_accum: 1,
        seed: 1337,
    };
    let text = std::fs::read("/work/shared/data/tinyshakespeare.txt").unwrap();
    let n = text.len() * 9 / 10;
    let (tr, va) = text.split_at(n);
    let mut s = train::Session::new(Arc::new(cpu::CpuBackend::new()), config).unwrap();
    if args.len() > 3 {
        println!("{}", s.program());
    }
    println!("instrs {} plan {:?} total {}", s.program().instrs.len(), s.plan().bytes_by_purpose(), s.plan().total_bytes());
    let mut rng = rng::Rng::new(1, 1);
    let mut get = |d: &[u8]| {
        let mut x = vec![];
        let mut t = vec![];
        for _ in 0..16 {
            let i = rng.below((d.len() - 129) as u64) as usize;
            x.extend(d[i..i + 128].iter().map(|&b| b as u32));
            t.extend(d[i + 1..i + 129].iter().map(|&b| b as u32));
        }
        (x, t)
    };
    let mut times = vec![];
    for i in 0..steps {
        let (x, t) = get(tr);
        let t0 = std::time::Instant::now();
        let r = s.step(train::session::Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&t) }).unwrap();
        times.push(t0.elapsed().as_secs_f64() * 1e3);
        if i % 50 == 0 || i < 5 {
            println!(
                "{} loss {:.4} gn {:.3} ls {:?} skipped {} fp8 {:?} {:.1} ms",
                r.step,
                r.loss,
                r.grad_norm,
                r.loss_scale,
                r.skipped_total,
                r.fp8.map(|f| (f.underflow.0, f.saturated.0)),
                times[i as usize]
            );
        }
    }
    times.sort_by(f64::total_cmp);
    let mut v = 0.0;
    for _ in 0..20 {
        let (x, t) = get(va);
        v += s.eval(train::session::Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&t) }).unwrap();
    }
    println!("median {:.1} ms, val {:.4}", times[times.len() / 2], v / 20.0);
}
