//! Burn's side.

use crate::burn_models::{Attention, Gpt, Mlp};
use crate::contender::{Contender, PRODUCTS};
use crate::ours::{Data, Inputs, LR};
use anyhow::{Result, bail};
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, DeviceKind, Int, Tensor, TensorData};
use mantissa_core::model::ModelConfig;
use mantissa_core::optim::OptimConfig;

/// The best adapter.
pub(crate) fn wgpu() -> Device {
    Device::wgpu(DeviceKind::DefaultDevice)
}

/// The CPU.
pub(crate) fn flex() -> Device {
    Device::flex()
}

/// Products of square matrices. All of a turn are kept until the last is there, so that none can be left out.
pub(crate) fn product(name: &str, device: Device, side: usize, a: &[f32], b: &[f32]) -> Result<Contender> {
    let (a, b) = (a.to_vec(), b.to_vec());
    Contender::start(name, move || {
        let tensor = |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, [side, side]), &device);
        let (a, b) = (tensor(a), tensor(b));
        Ok(move || {
            let all: Vec<Tensor<2>> = (0..PRODUCTS).map(|_| a.clone().matmul(b.clone())).collect();
            device.sync().expect("the matmuls run");
            all[PRODUCTS - 1].clone().into_data().into_vec().expect("f32")
        })
    })
}

/// Steps of training in f32; the result is the loss.
pub(crate) fn training(
    name: &str,
    device: Device,
    model: &ModelConfig,
    batch: usize,
    data: &Data,
    attention: Attention,
) -> Result<Contender> {
    let targets: Vec<i32> = data.targets.iter().map(|&t| t as i32).collect();
    let device = device.autodiff();
    match (model, &data.x) {
        (ModelConfig::Mlp(config), Inputs::Pixels(pixels)) => {
            let (config, pixels) = (config.clone(), pixels.clone());
            let shape = [batch, config.inputs];
            Contender::start(name, move || {
                let net = Mlp::new(&config, &device);
                Ok(trainer(net, device, move |net: &Mlp, device| {
                    let x = Tensor::from_data(TensorData::new(pixels.clone(), shape), device);
                    net.loss(x, Tensor::from_data(TensorData::new(targets.clone(), [targets.len()]), device))
                }))
            })
        }
        (ModelConfig::Gpt(config), Inputs::Tokens(tokens)) => {
            let tokens: Vec<i32> = tokens.iter().map(|&t| t as i32).collect();
            let (config, shape) = (config.clone(), [batch, config.context]);
            Contender::start(name, move || {
                let net = Gpt::new(&config, &device, attention);
                Ok(trainer(net, device, move |net: &Gpt, device| {
                    let x = Tensor::<2, Int>::from_data(TensorData::new(tokens.clone(), shape), device);
                    net.loss(x, Tensor::from_data(TensorData::new(targets.clone(), [targets.len()]), device))
                }))
            })
        }
        _ => bail!("the data is not of this model"),
    }
}

/// Forward, backward and AdamW with the constants of ours.
fn trainer<M: Module + 'static>(
    net: M,
    device: Device,
    loss: impl Fn(&M, &Device) -> Tensor<1> + 'static,
) -> impl FnMut() -> Vec<f32> {
    let OptimConfig::AdamW { beta1, beta2, eps, weight_decay } = OptimConfig::adamw() else { unreachable!("AdamW is AdamW") };
    let mut optim: ModuleOptimizer = AdamWConfig::new()
        .with_beta_1(beta1 as f32)
        .with_beta_2(beta2 as f32)
        .with_epsilon(eps as f32)
        .with_weight_decay(weight_decay as f32)
        .init();
    eprintln!("burn: {} parameters", net.num_params());
    let mut net = Some(net);
    move || {
        let model = net.take().expect("put back below");
        let loss = loss(&model, &device);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        net = Some(optim.step(LR, model, grads));
        let loss = loss.into_scalar::<f32>();
        device.sync().expect("the step runs");
        vec![loss]
    }
}
