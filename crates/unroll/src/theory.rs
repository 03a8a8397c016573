//! Closed forms of gradient decay at initialisation, where a trial's settings have one.
//!
//! | setting | derivative | rate per step | holds | source |
//! |---|---|---|---|---|
//! | identity units, `W_hh = gain * Q` | dL/dh | `gain` | exactly | Saxe, McClelland & Ganguli 2014 |
//! | other units, `W_hh = gain * Q` | dL/dh | `gain` | as an upper bound | Pascanu, Mikolov & Bengio 2013 |
//! | LSTM, forget bias `b` | dL/dc | `sigma(b)` | for zero weights | Jozefowicz, Zaremba & Sutskever 2015 |
//! | GRU, remembering bias `b` | dL/dh | `sigma(b)` | for zero weights | Tallec & Ollivier 2018 |

use serde_json::Value;
use unroll_core::{BiasInit, WeightInit};
use unroll_results::record::{GradientOf, Theory, TheoryKind};

use crate::experiment::TrialSpec;

/// The closed forms of a trial's settings; of single, unidirectional recurrent layers.
pub fn of(spec: &TrialSpec) -> Vec<Theory> {
    let option = |name: &str| spec.options.get(name);
    let one_layer = option("num_layers").and_then(Value::as_u64).unwrap_or(1) == 1;
    let both_ways = option("bidirectional").and_then(Value::as_bool).unwrap_or(false);
    if !one_layer || both_ways {
        return Vec::new();
    }
    match spec.arch.as_str() {
        "rnn" => rnn(spec, option("nonlinearity").and_then(Value::as_str).unwrap_or("tanh")),
        "lstm" => {
            let own = option("forget_bias").and_then(Value::as_f64);
            gate(GradientOf::Cell, own.or_else(|| set_by_initialiser(spec)))
        }
        "gru" => gate(GradientOf::Hidden, set_by_initialiser(spec)),
        _ => Vec::new(),
    }
}

fn rnn(spec: &TrialSpec, nonlinearity: &str) -> Vec<Theory> {
    let gain = spec.init.gain;
    let scaled = matches!(spec.init.weight, WeightInit::Orthogonal | WeightInit::Identity);
    let kind = match nonlinearity {
        "identity" => TheoryKind::Exact,
        // The slopes of tanh and relu are at most 1.
        _ => TheoryKind::UpperBound,
    };
    if !scaled || gain <= 0.0 {
        return Vec::new();
    }
    let formula = format!("{gain}^k");
    vec![Theory { of: GradientOf::Hidden, ln_rate: gain.ln(), formula, kind }]
}

/// The bias that the initialiser gives the remembering gate, if it is the same for all units.
fn set_by_initialiser(spec: &TrialSpec) -> Option<f64> {
    match spec.init.bias {
        BiasInit::Forget => Some(spec.init.forget_bias),
        BiasInit::Zero => Some(0.0),
        BiasInit::Pytorch | BiasInit::Chrono => None,
    }
}

fn gate(of: GradientOf, bias: Option<f64>) -> Vec<Theory> {
    let theory = |bias: f64| Theory {
        of,
        // ln sigma(b), without a detour over 1 minus a tiny number.
        ln_rate: -(-bias).exp().ln_1p(),
        formula: format!("σ({bias})^k"),
        kind: TheoryKind::GateAtBias,
    };
    bias.map(theory).into_iter().collect()
}
