//! One layer alone.

use candle_core::{DType, Device, Tensor, Var};
use serde_json::{Map, Value};
use unroll_core::{BuildContext, Error, Family, Form, Init, Stream, memory, ops};
use unroll_kernels::AttentionArgs;
use unroll_kernels::attention::Mask;
use unroll_probe::{
    LayerMode, LayerTiming, MemoryGauge, Stop, TimedModel, TimingOptions, bench_layer, time,
};

use crate::experiment::plan::nearest;
use crate::memory::Gauge;
use crate::registry;

/// What to time.
#[derive(Debug, Clone)]
pub struct LayerRequest {
    /// Registry name, or `sdpa`.
    pub arch: String,
    /// Sequences.
    pub batch: usize,
    /// Steps.
    pub seq_len: usize,
    /// Input features.
    pub input: usize,
    /// Hidden size.
    pub hidden: usize,
    /// Layers, where the architecture has them.
    pub layers: Option<usize>,
    /// Heads, where the architecture has them.
    pub heads: Option<usize>,
    /// Causal attention.
    pub causal: bool,
    /// Forward and backward, or forward alone.
    pub train: bool,
    /// Element type.
    pub dtype: DType,
    /// Device.
    pub device: Device,
    /// Implementation.
    pub form: Form,
    /// Time for at least this long, seconds.
    pub min_seconds: f64,
    /// Run this many iterations instead, without warming up.
    pub iterations: Option<usize>,
}

/// The attention core alone: no projections, no parameters.
const SDPA: &str = "sdpa";

/// candle's own layers, as yardsticks: one graph node for every operation of every step.
const CANDLE: [&str; 2] = ["candle_gru", "candle_lstm"];

/// The longest that a layer is timed for, seconds.
const LONGEST: f64 = 3600.0;

/// Times a layer on standard normal input.
///
/// # Errors
/// When the layer cannot be built or run with these sizes.
pub fn layer(request: &LayerRequest) -> unroll_probe::Result<LayerTiming> {
    for (name, value) in
        [("batch", request.batch), ("seq-len", request.seq_len), ("hidden", request.hidden)]
    {
        unroll_core::architecture::require_positive(name, value)?;
    }
    fits(request)?;
    if !(0.0..=LONGEST).contains(&request.min_seconds) {
        let message = format!("must lie in 0 to {LONGEST}, not {}", request.min_seconds);
        return Err(Error::option("min-seconds", message).into());
    }
    let options = match request.iterations {
        Some(iterations) => {
            unroll_core::architecture::require_positive("iterations", iterations)?;
            TimingOptions { warm_up_seconds: 0.0, min_seconds: 0.0, min_iterations: iterations }
        }
        None => TimingOptions {
            warm_up_seconds: request.min_seconds / 4.0,
            min_seconds: request.min_seconds,
            min_iterations: 5,
        },
    };
    if request.arch == SDPA || CANDLE.contains(&request.arch.as_str()) {
        has_options(request)?;
    }
    if request.arch == SDPA {
        return sdpa(request, &options);
    }
    if CANDLE.contains(&request.arch.as_str()) {
        return candle(request, &options);
    }
    let architecture = registry::find(&request.arch).ok_or_else(|| {
        let names: Vec<&str> =
            registry::all_names().into_iter().chain([SDPA]).chain(CANDLE).collect();
        let help = nearest(&request.arch, &names);
        Error::option("arch", format!("there is no architecture `{}`: {help}", request.arch))
    })?;
    let known = architecture.options();
    let mut given = Map::new();
    let mut set = |name: &str, flag: &str, value: Option<Value>, needed: bool| match value {
        Some(value) if known.iter().any(|(doc, _)| doc.name == name) => {
            given.insert(name.to_owned(), value);
            Ok(())
        }
        Some(_) if needed => Err(Error::option(flag, format!("`{}` has none", request.arch))),
        _ => Ok(()),
    };
    set("input_size", "--input", Some(request.input.into()), true)?;
    set("second_input_size", "--input", Some(request.input.into()), false)?;
    set("hidden_size", "--hidden", Some(request.hidden.into()), true)?;
    set("num_layers", "--layers", request.layers.map(Value::from), request.layers != Some(1))?;
    set("num_heads", "--heads", request.heads.map(Value::from), true)?;
    set("causal", "--causal", Some(request.causal.into()), request.causal)?;
    let stream = Stream::new(0, "bench");
    let context = BuildContext::new(request.dtype, &request.device, Init::default(), stream);
    let size = (request.batch, request.seq_len);
    let mode = if request.train { LayerMode::Train } else { LayerMode::Infer };
    let run = |timed: TimedModel<'_>| {
        bench_layer(timed, mode, request.form, 0, &options, &Gauge::of(&request.device))
    };
    match architecture.family() {
        Family::EncoderDecoder => {
            let mut model = architecture.build_pair(&given, &context)?;
            if mode == LayerMode::Infer {
                model = architecture.build_pair(&given, &context.frozen(model.parameters()))?;
            }
            run(TimedModel::pair(model.as_ref(), size))
        }
        Family::Fusion => {
            let mut model = architecture.build_fusion(&given, &context)?;
            if mode == LayerMode::Infer {
                model = architecture.build_fusion(&given, &context.frozen(model.parameters()))?;
            }
            run(TimedModel::fusion(model.as_ref(), size))
        }
        Family::Recurrent | Family::Attention | Family::AttentionOverStates => {
            let mut model = architecture.build(&given, &context)?;
            if mode == LayerMode::Infer {
                model = architecture.build(&given, &context.frozen(model.parameters()))?;
            }
            run(TimedModel::sequence(model.as_ref(), size))
        }
    }
}

/// The layers that are no architecture have few options: one that has no effect would be timed as if it had.
fn has_options(request: &LayerRequest) -> unroll_core::Result<()> {
    let sdpa = request.arch == SDPA;
    for (flag, given) in [
        ("--layers", request.layers.is_some_and(|layers| layers != 1)),
        ("--input", sdpa && request.input != request.hidden),
        ("--heads", !sdpa && request.heads.is_some()),
        ("--causal", !sdpa && request.causal),
    ] {
        if given {
            return Err(Error::option(flag, format!("`{}` has none", request.arch)));
        }
    }
    Ok(())
}

/// Refuses sizes for which the machine has no memory, before anything is allocated: a square weight of the hidden
/// size, and inputs and outputs.
fn fits(request: &LayerRequest) -> unroll_core::Result<()> {
    if !request.device.is_cpu() {
        return Ok(());
    }
    let LayerRequest { batch, seq_len, input, hidden, .. } = *request;
    for (name, value) in [("input", input), ("hidden", hidden)] {
        unroll_core::architecture::require_positive(name, value)?;
    }
    let element = request.dtype.size_in_bytes();
    let square = memory::product(&[hidden, hidden, element]);
    let weight = if request.arch == SDPA { 0 } else { square };
    let rows = memory::product(&[batch, seq_len, input + hidden, element]);
    let what = format!(
        "`{}` with {hidden} hidden units on {batch} sequences of {seq_len} steps",
        request.arch
    );
    memory::require(what, weight.saturating_add(rows))
}

/// Scaled dot-product attention on given queries, keys and values `(B, N, T, d)`.
fn sdpa(request: &LayerRequest, options: &TimingOptions) -> unroll_probe::Result<LayerTiming> {
    let heads = request.heads.unwrap_or(1);
    if heads == 0 || request.hidden == 0 || !request.hidden.is_multiple_of(heads) {
        let message = format!("{} is not a multiple of {heads} heads", request.hidden);
        return Err(Error::option("hidden", message).into());
    }
    let (batch, steps, size) = (request.batch, request.seq_len, request.hidden / heads);
    let (dtype, device) = (request.dtype, &request.device);
    let draw = |name: &str| -> unroll_core::Result<Var> {
        let stream = Stream::new(0, name);
        let values = stream.normal((batch, heads, steps, size), 1.0, dtype, device)?;
        Ok(Var::from_tensor(&values)?)
    };
    let (q, k, v) = (draw("q")?, draw("k")?, draw("v")?);
    let mask = if request.causal {
        Some(ops::mask_from_fn(steps, steps, dtype, device, |query, key| key <= query)?)
    } else {
        None
    };
    let scale = 1.0 / (size as f64).sqrt();
    let fused =
        request.form == Form::Auto && unroll_kernels::supports_attention(device, dtype, size);
    let attend = |q: &Tensor, k: &Tensor, v: &Tensor| -> unroll_core::Result<Tensor> {
        if fused {
            return Ok(unroll_kernels::attention(&AttentionArgs {
                queries: q,
                keys: k,
                values: v,
                scale,
                mask: if request.causal { Mask::Causal } else { Mask::None },
                lengths: None,
            })?);
        }
        let scores = (q.matmul(&k.t()?)? * scale)?;
        Ok(ops::masked_softmax(&scores, mask.as_ref())?.matmul(v)?)
    };
    let form = if fused { "fused" } else { "reference" };
    // Two products of T x T x d; causal attention needs half of them.
    let products = (4 * batch * heads * steps * steps * size) as u64;
    let forward_flops = if request.causal { products / 2 } else { products };
    if request.train {
        let step =
            |(): &()| -> unroll_probe::Result<_> { Ok(attend(&q, &k, &v)?.sum_all()?.backward()?) };
        timed(request, options, 3 * forward_flops, form, step)
    } else {
        let (q, k, v) = (q.as_detached_tensor(), k.as_detached_tensor(), v.as_detached_tensor());
        let step = |(): &()| -> unroll_probe::Result<_> { Ok(attend(&q, &k, &v)?) };
        timed(request, options, forward_flops, form, step)
    }
}

/// Times `step`, which has that many FLOPs and is of that form.
fn timed<T>(
    request: &LayerRequest,
    options: &TimingOptions,
    flops: u64,
    form: &str,
    step: impl Fn(&()) -> unroll_probe::Result<T>,
) -> unroll_probe::Result<LayerTiming> {
    let gauge: &dyn MemoryGauge = &Gauge::of(&request.device);
    let timed = time(options, &request.device, gauge, Stop::NEVER, || Ok(()), step)?;
    Ok(LayerTiming {
        median_s: timed.median_s,
        min_s: timed.min_s,
        iterations: timed.iterations,
        flops,
        gflops_per_s: flops as f64 / timed.median_s / 1e9,
        tokens_per_s: (request.batch * request.seq_len) as f64 / timed.median_s,
        peak_bytes: timed.peak_bytes,
        form: form.to_owned(),
    })
}

/// A layer of `candle_nn::rnn`.
fn candle(request: &LayerRequest, options: &TimingOptions) -> unroll_probe::Result<LayerTiming> {
    use candle_nn::rnn::{GRUConfig, LSTMConfig, RNN, gru, lstm};

    let (dtype, device) = (request.dtype, &request.device);
    let (inputs, hidden) = (request.input, request.hidden);
    let variables = candle_nn::VarMap::new();
    let builder = candle_nn::VarBuilder::from_varmap(&variables, dtype, device);
    let lstm = (request.arch == "candle_lstm")
        .then(|| lstm(inputs, hidden, LSTMConfig::default(), builder.clone()))
        .transpose()?;
    let gru =
        lstm.is_none().then(|| gru(inputs, hidden, GRUConfig::default(), builder)).transpose()?;
    let forward = |x: &Tensor| -> unroll_probe::Result<Tensor> {
        match (&lstm, &gru) {
            (Some(layer), _) => Ok(layer.states_to_tensor(&layer.seq(x)?)?),
            (_, Some(layer)) => Ok(layer.states_to_tensor(&layer.seq(x)?)?),
            (None, None) => Err(Error::option("arch", "no such layer").into()),
        }
    };
    let shape = (request.batch, request.seq_len, inputs);
    let x = Var::from_tensor(&Stream::new(0, "x").normal(shape, 1.0, dtype, device)?)?;
    let gates = if lstm.is_some() { 4 } else { 3 };
    let products = 2 * request.batch * request.seq_len * gates * hidden * (inputs + hidden);
    if request.train {
        let step = |(): &()| -> unroll_probe::Result<_> { Ok(forward(&x)?.sum_all()?.backward()?) };
        timed(request, options, 3 * products as u64, "unrolled", step)
    } else {
        // Its weights are variables: a graph is made in any case.
        let x = x.as_detached_tensor();
        timed(request, options, products as u64, "unrolled", |(): &()| forward(&x))
    }
}
