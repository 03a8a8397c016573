//! Times of gate statistics and attention profiles: `cargo run --release -p unroll-probe --example
//! gate_times`.
//!
//! Prints the shortest of five measurements in milliseconds, beside the forward pass that each needs at
//! least, and the most memory that the process has had until then.

use std::error::Error;
use std::time::Instant;

use candle_core::{DType, Device};
use serde_json::{Map, Value, json};
use unroll_attention::ARCHITECTURES;
use unroll_core::{Architecture, BuildContext, Entry, ForwardArgs, SequenceModel};
use unroll_gru::GruConfig;
use unroll_lstm::LstmConfig;
use unroll_probe::{attention_profile, gate_statistics, gaussian_input};

static LSTM: Entry<LstmConfig> = Entry::new("lstm", "");
static GRU: Entry<GruConfig> = Entry::new("gru", "");

const INPUTS: usize = 16;

/// The shortest of five runs, in milliseconds.
fn shortest(mut run: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best * 1e3)
}

/// The most memory that the process has had, in MB, where the system tells.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|peak| peak.split_whitespace().next()?.parse().ok());
    kilobytes.map_or(f64::NAN, |kilobytes: f64| kilobytes / 1e3)
}

fn build(
    architecture: &dyn Architecture,
    options: Value,
    dtype: DType,
) -> Result<Box<dyn SequenceModel>, Box<dyn Error>> {
    let Value::Object(mut given) = options else { return Err("options are a map".into()) };
    given.insert("input_size".into(), INPUTS.into());
    let options: Map<String, Value> = given;
    Ok(architecture.build(&options, &BuildContext::cpu(dtype, 1))?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let find = |name: &str| {
        ARCHITECTURES.iter().copied().find(|a| a.name() == name).ok_or("no such architecture")
    };
    println!(
        "{:>18} {:>5} {:>4} {:>5} {:>4} {:>9} {:>10} {:>8}",
        "", "type", "B", "T", "H", "forward", "measured", "peak MB"
    );
    for (architecture, batch, steps, hidden) in [
        (find("transformer")?, 1, 2048, 64),
        (&LSTM as &dyn Architecture, 32, 512, 128),
        (&GRU, 32, 512, 128),
        (find("transformer")?, 4, 512, 128),
        (find("local_transformer")?, 4, 512, 128),
        (find("additive")?, 1, 2048, 64),
    ] {
        for dtype in [DType::F32, DType::F64] {
            let body = build(architecture, json!({"hidden_size": hidden}), dtype)?;
            let x = gaussian_input((batch, steps, INPUTS), 1, dtype, &Device::Cpu)?;
            let forward = shortest(|| {
                body.forward(&ForwardArgs::new(&x))?;
                Ok(())
            })?;
            let measured = shortest(|| {
                gate_statistics(body.as_ref(), &x, None)?;
                attention_profile(body.as_ref(), &x, None, None)?;
                Ok(())
            })?;
            let name = architecture.name();
            let dtype = dtype.as_str();
            println!(
                "{name:>18} {dtype:>5} {batch:>4} {steps:>5} {hidden:>4} {forward:>9.1} {measured:>10.1} \
                 {:>8.0}",
                peak()
            );
        }
    }
    Ok(())
}
