//! Times of a training step: `cargo run --release -p unroll-attention --example training_speed`.
//!
//! Prints, for each architecture named on the command line (`transformer` and others when none is),
//! hidden size and form, the shortest of many forward passes and of many forward and backward passes
//! in milliseconds, in f32 with 50 sequences of 64 steps.

use std::error::Error;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use serde_json::{Value, json};
use unroll_attention::ARCHITECTURES;
use unroll_core::{BuildContext, Form, ForwardArgs, Mode, Stream};

/// The shortest of as many runs as fit into a second.
fn shortest(mut run: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < Duration::from_secs(1) {
        let run_start = Instant::now();
        run()?;
        best = best.min(run_start.elapsed().as_secs_f64());
    }
    Ok(best * 1e3)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        names = ["mha", "transformer", "local_transformer", "linear_transformer", "recurrent_mha"]
            .map(String::from)
            .to_vec();
    }
    let stream = Stream::new(1, "train");
    println!("{:>20} {:>4} {:>10} {:>9} {:>9}", "architecture", "H", "form", "forward", "training");
    for name in &names {
        let architecture = ARCHITECTURES.iter().find(|architecture| architecture.name() == name);
        let architecture = architecture.ok_or_else(|| format!("no architecture `{name}`"))?;
        for hidden in [16, 64] {
            let Value::Object(options) = json!({"input_size": 2, "hidden_size": hidden}) else {
                return Err("options are an object".into());
            };
            let model = architecture.build(&options, &BuildContext::cpu(DType::F32, 1))?;
            let x = Stream::new(2, "x").normal((50, 64, 2), 1.0, DType::F32, &Device::Cpu)?;
            for form in [Form::Auto, Form::Reference] {
                let args = ForwardArgs { form, mode: Mode::Train(&stream), ..ForwardArgs::new(&x) };
                let ran = model.forward(&args)?.form;
                let forward = shortest(|| Ok(model.forward(&args).map(drop)?))?;
                let training = shortest(|| {
                    let loss = model.forward(&args)?.output.sqr()?.sum_all()?;
                    Ok(loss.backward().map(drop)?)
                })?;
                println!("{name:>20} {hidden:>4} {ran:>10} {forward:>9.2} {training:>9.2}");
            }
        }
    }
    Ok(())
}
