//! The README's example: a layer with a head, one training step after another, weights to a file and back.

// README: begin
use candle_core::{DType, Device, Tensor};
use candle_nn::{AdamW, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use unroll_core::weights::{TensorFile, export, import};
use unroll_core::{BuildContext, ForwardArgs, ModelConfig};
use unroll_lstm::LstmConfig;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = LstmConfig { input_size: 2, hidden_size: 32, ..Default::default() };
    let lstm = config.build(&BuildContext::cpu(DType::F32, 1))?;

    // Steps: the sum of the second feature, from the state after the last step.
    let device = Device::Cpu;
    let head = VarMap::new();
    let linear =
        candle_nn::linear(32, 1, VarBuilder::from_varmap(&head, DType::F32, &device).pp("head"))?;
    let vars = [lstm.parameters().vars(), head.all_vars()].concat();
    let mut optimizer = AdamW::new(vars, ParamsAdamW { lr: 1e-2, ..Default::default() })?;
    for step in 0..20 {
        let x = Tensor::randn(0f32, 1.0, (32, 10, 2), &device)?; // (batch, time, features)
        let y = x.narrow(2, 1, 1)?.sum(1)?;
        let last = lstm.forward_last(&ForwardArgs::new(&x))?; // (32, 32); `forward` gives every step
        let loss = candle_nn::loss::mse(&linear.forward(&last)?, &y)?;
        optimizer.backward_step(&loss)?;
        println!("step {step}: loss {:.3}", loss.to_scalar::<f32>()?);
    }

    // Weights: safetensors under PyTorch's names, `weight_ih_l0` and so on.
    let path = std::env::temp_dir().join(format!("lstm-{}.safetensors", std::process::id()));
    export(lstm.parameters())?.write(&path)?;
    let other = config.build(&BuildContext::cpu(DType::F32, 2))?;
    import(other.parameters(), &TensorFile::read(&path)?)?;
    std::fs::remove_file(&path)?;

    // The same parameters without a graph that grows with every step: step by step, (1, 2) to (1, 32).
    let live = config.build(&BuildContext::cpu(DType::F32, 2).frozen(other.parameters()))?;
    let mut state = live.zero_state(1)?;
    for _ in 0..3 {
        (_, state) = live.step(&Tensor::ones((1, 2), DType::F32, &device)?, &state)?;
    }
    println!("{:?}", state.get("c")?.shape());
    Ok(())
}
// README: end
