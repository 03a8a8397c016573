//! What every column of the tables means, as data.

use std::fmt::Write;

/// Names of the tables, in the order in which they are documented and written.
pub const TABLES: [&str; 14] = [
    "trials",
    "curves",
    "gradients",
    "decays",
    "jacobians",
    "lyapunov",
    "gates",
    "attention",
    "attention_profiles",
    "throughput",
    "lengths",
    "metrics",
    "curve_timings",
    "timings",
];

/// The tables that depend on the clock or the machine. All others are the same bytes in every run.
pub const CLOCK_TABLES: [&str; 3] = ["throughput", "curve_timings", "timings"];

/// A column's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnDoc {
    /// The column's name in the file's header.
    pub name: &'static str,
    /// Tables that have it.
    pub tables: &'static [&'static str],
    /// Unit; empty for names and counts.
    pub unit: &'static str,
    /// Whether it depends on the clock or the machine: such columns differ from run to run and take
    /// no part in a comparison of runs. All others are the same in every run.
    pub clock: bool,
    /// What it holds.
    pub meaning: &'static str,
}

/// One row for each trial.
const TRIALS: &[&str] = &["trials"];
/// One row for each trial and evaluated step.
const CURVES: &[&str] = &["curves"];
/// One row for each trial, derivative, layer, training step and distance.
const GRADIENTS: &[&str] = &["gradients"];
/// One row for each trial, derivative, layer and training step.
const DECAYS: &[&str] = &["decays"];
/// One row for each trial, training step, example and distance.
const JACOBIANS: &[&str] = &["jacobians"];
/// One row for each trial, training step, example and exponent.
const LYAPUNOV: &[&str] = &["lyapunov"];
const STATES: &[&str] = &["jacobians", "lyapunov"];
/// One row for each trial, training step, layer, direction and gate.
const GATES: &[&str] = &["gates"];
/// One row for each trial, training step, layer and head.
const HEADS: &[&str] = &["attention"];
/// One row for each trial, training step, layer, head and range.
const PROFILES: &[&str] = &["attention_profiles"];
const BOTH_HEADS: &[&str] = &["attention", "attention_profiles"];
const NORMS: &[&str] = &["gradients", "decays"];
/// One row for each trial and phase.
const THROUGHPUT: &[&str] = &["throughput"];
/// One row for each trial and length it was evaluated at.
const LENGTHS: &[&str] = &["lengths"];
/// One row for each trial and further metric.
const METRICS: &[&str] = &["metrics"];
/// One row for each trial and evaluated step.
const CURVE_TIMINGS: &[&str] = &["curve_timings"];
/// One row for each trial.
const TIMINGS: &[&str] = &["timings"];
const ALL: &[&str] = &TABLES;
const KEYED: &[&str] = &[
    "trials",
    "curves",
    "gradients",
    "decays",
    "jacobians",
    "lyapunov",
    "gates",
    "attention",
    "attention_profiles",
    "throughput",
    "lengths",
    "metrics",
];

const fn same(
    name: &'static str,
    tables: &'static [&'static str],
    unit: &'static str,
    meaning: &'static str,
) -> ColumnDoc {
    ColumnDoc { name, tables, unit, clock: false, meaning }
}

const fn clock(
    name: &'static str,
    tables: &'static [&'static str],
    unit: &'static str,
    meaning: &'static str,
) -> ColumnDoc {
    ColumnDoc { name, tables, unit, clock: true, meaning }
}

/// Every column of every table, in the order of the files.
pub const COLUMNS: &[ColumnDoc] = &[
    same("trial", ALL, "", "id of the trial: the name of its record in `trials/`"),
    same("experiment", TRIALS, "", "name of the experiment"),
    same("kind", TRIALS, "", "what is measured: `quality`, `gradient`, `throughput`"),
    same("architecture", KEYED, "", "registry name of the architecture"),
    same(
        "family",
        TRIALS,
        "",
        "how it carries information along a sequence: `recurrent`, `attention`, `attention over \
         recurrent states`, `encoder and decoder`, `fusion of two sequences`",
    ),
    same("series", KEYED, "", "architecture, with the values of further axes"),
    same("task", KEYED, "", "task"),
    same("length", KEYED, "steps", "sequence length that the trial runs at"),
    same("seed", KEYED, "", "seed"),
    same("device", KEYED, "", "`cpu`, `cuda:0`, ..."),
    same("dtype", TRIALS, "", "type of parameters and activations: `f32`, `f64`, `bf16`"),
    same("precision", TRIALS, "", "how f32 products round on a GPU: `fp32` (not at all), `tf32`"),
    same(
        "form",
        TRIALS,
        "",
        "form that ran: `fused`, `fused attention` (a Transformer on a GPU), `reference`, `unrolled`",
    ),
    same("hidden_size", TRIALS, "elements", "hidden size after matching"),
    same("num_layers", TRIALS, "", "layers"),
    same("batch_size", TRIALS, "sequences", "sequences per batch"),
    same("matched_by", TRIALS, "", "what the architectures were matched by"),
    same("axes", TRIALS, "", "values of all further axes, JSON object"),
    same("status", TRIALS, "", "how the trial ended: `finished`, `diverged`, `failed`"),
    same("diverged_at", TRIALS, "training steps", "first step without a finite loss"),
    same("message", TRIALS, "", "why a failed trial could not run"),
    same("parameters", TRIALS, "elements", "trainable parameters of the whole model"),
    same("forward_flops", TRIALS, "FLOP", "one forward pass over a batch, counted"),
    same("training_flops", TRIALS, "FLOP", "one training step over a batch, counted"),
    same("state_elements", TRIALS, "elements", "state of one sequence after `length` steps"),
    same("metric", TRIALS, "", "name of the metric with its unit"),
    same("better", TRIALS, "", "which end of the metric is good: `lower`, `higher`"),
    same("test", TRIALS, "see metric", "metric on the test split with the last weights"),
    same(
        "validation",
        TRIALS,
        "see metric",
        "metric on the validation split with the last weights",
    ),
    same("test_loss", TRIALS, "nats or squared units", "mean loss on the test split"),
    same("solved", TRIALS, "", "whether the task's own criterion for solved holds"),
    same("solved_at", TRIALS, "see metric", "value from which on the task counts as solved"),
    same("baseline", TRIALS, "see metric", "best trivial baseline: what counts as chance"),
    same("baseline_name", TRIALS, "", "what that baseline does"),
    same(
        "reference",
        TRIALS,
        "see metric",
        "best baseline that is fitted to the training data (ridge regression, n-grams); empty without one",
    ),
    same("reference_name", TRIALS, "", "what that one is"),
    same("at_chance", TRIALS, "", "whether the metric is no better than the trivial baseline"),
    same("steps", TRIALS, "training steps", "training steps run"),
    same("steps_to_threshold", TRIALS, "training steps", "first evaluated step past the threshold"),
    same(
        "initial_horizon",
        TRIALS,
        "steps",
        "`horizon_percent` of dL/dx before training; empty when beyond the length or not measured",
    ),
    same("initial_half_life", TRIALS, "steps", "`half_life` of dL/dx before training"),
    same("initial_reach", TRIALS, "steps", "`reach` of dL/dx before training"),
    same("step", CURVES, "training steps", "training steps done"),
    same("tokens", CURVES, "tokens", "tokens (batch times length) seen"),
    same("train_loss", CURVES, "nats or squared units", "mean training loss since the row before"),
    same("validation", CURVES, "see metric", "metric on the validation split"),
    same("validation_loss", CURVES, "nats or squared units", "loss on the validation split"),
    same("learning_rate", CURVES, "", "learning rate of the last step"),
    same("gradient_norm", CURVES, "", "mean gradient norm before clipping since the row before"),
    same("of", NORMS, "", "derivative of the loss with respect to `hidden`, `cell`, `input`"),
    same("layer", NORMS, "", "layer of the state, 0 is the lowest; 0 for the input"),
    same("step", NORMS, "training steps", "training steps done; 0 is at initialisation"),
    same("measured_to", DECAYS, "steps", "largest distance measured"),
    same("from", DECAYS, "steps", "smallest distance fitted"),
    same("to", DECAYS, "steps", "largest distance fitted"),
    same(
        "rate",
        DECAYS,
        "nats per step",
        "slope of `mean_log_norm` (the mean over examples of ln norm) against distance, least squares",
    ),
    same("half_life", DECAYS, "steps", "-ln 2 / rate; empty when the norm does not shrink"),
    same("exponential_r2", DECAYS, "", "fraction of the variance that the exponential explains"),
    same("exponent", DECAYS, "", "slope of `mean_log_norm` against ln distance"),
    same("power_r2", DECAYS, "", "fraction of the variance that the power law explains"),
    same(
        "law",
        DECAYS,
        "",
        "the law that explains more: `exponential`, `power law`; empty when `mean_log_norm` changes by \
         less than 1e-6",
    ),
    same(
        "horizon_percent",
        DECAYS,
        "steps",
        "distance at which e to the power of `mean_log_norm` has fallen to 1 % of that at distance 0; empty \
         when beyond what was measured",
    ),
    same("horizon_epsilon", DECAYS, "steps", "the same for f32's epsilon, 1.19e-7"),
    same(
        "reach",
        DECAYS,
        "steps",
        "distance within which 99 % of the sum of `mean_norm` (the mean over examples) lie",
    ),
    same("distance", GRADIENTS, "steps", "steps between the loss and the state"),
    same("mean_norm", GRADIENTS, "", "Euclidean norm, mean over examples; 0 below 5e-324"),
    same("ln_mean_norm", GRADIENTS, "ln", "natural logarithm of that mean, whatever its size"),
    same(
        "mean_log_norm",
        GRADIENTS,
        "ln",
        "natural logarithm of the norm, mean over examples; empty when a norm is exactly 0",
    ),
    same("ln_norm_q10", GRADIENTS, "ln", "0.1 quantile of the logarithm over examples"),
    same("ln_norm_q50", GRADIENTS, "ln", "median of the logarithm over examples"),
    same("ln_norm_q90", GRADIENTS, "ln", "0.9 quantile of the logarithm over examples"),
    same(
        "in_f32",
        GRADIENTS,
        "",
        "what f32 makes of the mean norm: `normal`, `denormal` (below 1.2e-38), `underflow` (below \
         1.4e-45: f32 has 0), `zero` (no dependence), `overflow`",
    ),
    same("step", STATES, "training steps", "training steps done; 0 is at initialisation"),
    same("example", STATES, "", "which test sequence"),
    same("probes", STATES, "", "random vectors of the estimate; empty when it is exact"),
    same("state_size", STATES, "elements", "elements of the state s, all layers and parts"),
    same("distance", JACOBIANS, "steps", "k of the Jacobian ds_T/ds_(T-k)"),
    same("ln_largest", JACOBIANS, "ln", "ln of its largest singular value, or a lower bound of it"),
    same("ln_largest_below", JACOBIANS, "ln", "upper bound; the same when exact"),
    same("probability", JACOBIANS, "", "probability of the upper bound; 1 when exact"),
    same("ln_largest_hidden", JACOBIANS, "ln", "of the block dh_T/dh_(T-k) of the top layer"),
    same("ln_largest_cell", JACOBIANS, "ln", "of the block dc_T/dc_(T-k) of the top layer"),
    same("ln_smallest", JACOBIANS, "ln", "ln of the smallest singular value; exact only"),
    same("log_det_rate", JACOBIANS, "nats per step", "ln |det| / k: the sum of all exponents"),
    same("log_det_rate_error", JACOBIANS, "nats per step", "its standard error; 0 when exact"),
    same("steps", LYAPUNOV, "steps", "steps that the exponents are means over"),
    same("index", LYAPUNOV, "", "1 is the largest"),
    same("exponent", LYAPUNOV, "nats per step", "Lyapunov exponent"),
    same("exponent_error", LYAPUNOV, "nats per step", "its standard error; 0 when exact"),
    same("step", GATES, "training steps", "training steps done; 0 is at initialisation"),
    same("layer", GATES, "", "layer, 0 is the lowest"),
    same("direction", GATES, "", "`forward`, `reverse`"),
    same("gate", GATES, "", "`input`, `forget`, `candidate`, `output`, `reset`, `update`"),
    same("mean", GATES, "", "mean value over examples, steps and units"),
    same("standard_deviation", GATES, "", "of the values"),
    same("q10", GATES, "", "0.1 quantile of the values"),
    same("q50", GATES, "", "median"),
    same("q90", GATES, "", "0.9 quantile"),
    same("closed", GATES, "", "fraction of a sigmoid gate's values below 0.1"),
    same("open", GATES, "", "fraction of a sigmoid gate's values above 0.9"),
    same("saturated", GATES, "", "fraction of a candidate's values larger than 0.9 in size"),
    same(
        "forget_time_q10",
        GATES,
        "steps",
        "1/(1 - E f) of the gate that keeps the state: 0.1 quantile over units",
    ),
    same("forget_time_q50", GATES, "steps", "median over units"),
    same("forget_time_q90", GATES, "steps", "0.9 quantile over units"),
    same(
        "decay_time_q10",
        GATES,
        "steps",
        "-1/E ln f, in which the product of the gates falls to 1/e: 0.1 quantile over units",
    ),
    same("decay_time_q50", GATES, "steps", "median over units"),
    same("decay_time_q90", GATES, "steps", "0.9 quantile over units"),
    same("step", BOTH_HEADS, "training steps", "training steps done; 0 is at initialisation"),
    same("layer", BOTH_HEADS, "", "layer among those with attention, 0 is the lowest"),
    same("head", BOTH_HEADS, "", "head"),
    same(
        "entropy",
        HEADS,
        "nats",
        "mean entropy of the weights; empty where they are no distribution",
    ),
    same(
        "normalised_entropy",
        HEADS,
        "",
        "mean of the entropy over ln n of n visible keys: 1 is uniform",
    ),
    same("mean_distance", HEADS, "steps", "mean attended distance"),
    same("uniform_distance", HEADS, "steps", "what that would be if all keys weighed alike"),
    same(
        "by",
        PROFILES,
        "",
        "what the row's range is of: `distance` between query and key, or number of `visible` keys",
    ),
    same("first", PROFILES, "steps", "smallest distance or number of keys"),
    same("last", PROFILES, "steps", "largest"),
    same("weight", PROFILES, "", "by distance: mean weight of the keys there"),
    same(
        "path_length",
        PROFILES,
        "edges",
        "by distance: fewest edges along time from the input there to the output, over the whole model",
    ),
    same("entropy", PROFILES, "nats", "by visible keys: mean entropy"),
    same("normalised_entropy", PROFILES, "", "by visible keys: mean entropy over ln n"),
    same("phase", THROUGHPUT, "", "`forward`, `backward`, `train_step`, `decode`"),
    same("batch_size", THROUGHPUT, "sequences", "sequences per batch"),
    clock("iterations", THROUGHPUT, "", "iterations timed"),
    clock("median_s", THROUGHPUT, "s", "median time of an iteration"),
    clock("min_s", THROUGHPUT, "s", "fastest iteration"),
    clock("q10_s", THROUGHPUT, "s", "0.1 quantile of the time of an iteration"),
    clock("q90_s", THROUGHPUT, "s", "0.9 quantile of the time of an iteration"),
    clock(
        "tokens_per_s",
        THROUGHPUT,
        "tokens/s",
        "tokens (batch times length) per second at the median",
    ),
    clock("gflops_per_s", THROUGHPUT, "GFLOP/s", "counted FLOPs per second at the median"),
    clock(
        "peak_bytes",
        THROUGHPUT,
        "bytes",
        "largest memory in use on the device during the phase, above what was in use before; empty \
         when not measured",
    ),
    clock(
        "threads",
        THROUGHPUT,
        "",
        "threads of the trial: times at different numbers of them do not compare; empty in records from \
         before it was kept",
    ),
    same("metric", LENGTHS, "", "name of the metric with its unit"),
    same("evaluated_length", LENGTHS, "steps", "length of the evaluated sequences"),
    same("value", LENGTHS, "see metric", "metric at that length"),
    same("loss", LENGTHS, "nats or squared units", "loss at that length"),
    same("metric", METRICS, "", "name of the metric with its unit"),
    same("value", METRICS, "see metric", "metric on the test split with the last weights"),
    same("step", CURVE_TIMINGS, "training steps", "training steps done"),
    clock("seconds", CURVE_TIMINGS, "s", "training time so far, evaluation left out"),
    clock("wall_s", TIMINGS, "s", "whole trial"),
    clock("train_s", TIMINGS, "s", "training alone"),
    clock("seconds_to_threshold", TIMINGS, "s", "training time until the threshold held"),
    clock("environment", TIMINGS, "", "id of machine and build, a file in `environments/`"),
    clock("threads", TIMINGS, "", "threads of the trial; empty in records from before it was kept"),
];

/// Documentation of a table's columns, in the order of the file.
pub fn of_table(table: &str) -> impl Iterator<Item = &'static ColumnDoc> {
    COLUMNS.iter().filter(move |column| column.tables.contains(&table))
}

/// What a row of a table stands for.
fn rows(table: &str) -> &'static str {
    match table {
        "trials" => "one row for each trial",
        "curves" => "one row for each trial and evaluated step",
        "gradients" => "one row for each trial, derivative, layer, training step and distance",
        "decays" => {
            "one row for each trial, derivative, layer and training step: laws fitted to `gradients`"
        }
        "jacobians" => {
            "one row for each trial, training step, example and distance: how the recurrent state \
             depends on an earlier one"
        }
        "lyapunov" => "one row for each trial, training step, example and Lyapunov exponent",
        "gates" => "one row for each trial, training step, layer, direction and gate",
        "attention" => "one row for each trial, training step, layer and head",
        "attention_profiles" => {
            "one row for each trial, training step, layer, head, and range of distances or of numbers \
             of visible keys"
        }
        "throughput" => "one row for each trial and phase",
        "lengths" => "one row for each trial and length it was evaluated at",
        "metrics" => "one row for each trial and metric of its task beside the first",
        "curve_timings" => "one row for each trial and evaluated step; nothing but clock times",
        _ => "one row for each trial; nothing but clock times",
    }
}

/// The page that explains a folder of results, as Markdown: `results/README.md`.
pub fn readme() -> String {
    let mut text = String::from(
        "# Results\n\n\
         A folder here holds one run of one experiment. Everything but `trials/` is made from \
         `trials/` and can be made again without running anything.\n\n\
         | part | holds |\n|---|---|\n\
         | `trials/<id>.json` | one record per trial, written all or nothing when the trial ends; \
         the id is the hash of what the trial means |\n\
         | `experiment.toml`, `manifest.json` | the experiment with `--set` and `--device` of the last run \
         written into it, and the frozen list of its trials \
         with everything that each means |\n\
         | `environments/<id>.json` | machines and builds that trials ran on |\n\
         | `events/<process>.jsonl` | what each process did, in its order |\n\
         | `claims/`, `checkpoints/` | while a run is under way: trials in work, and where to go on |\n\
         | `conflicts/`, `damaged/` | only if it happened: second results with other bits, files that \
         could not be read |\n\
         | `tables/*.csv`, `tables/*.parquet` | the records as tables: same rows, same columns in \
         both formats |\n\
         | `plots/*.svg`, `plots/*.png` | the plots |\n\
         | `REPORT.html`, `REPORT.md` | the report: question, answer, decisions, tables, plots, failures, how to reproduce; the page needs nothing but itself |\n\n\
         In a CSV file an empty field is a missing value; `NaN`, `inf` and `-inf` are values (a \
         diverged loss). In a record these three are strings, because JSON has no such numbers.\n\n\
         Records, manifest and environments carry the BLAKE3 hash of their content: `unroll verify` \
         checks them.\n\n\
         Columns marked *clock* depend on the clock or the machine. All others are the same in \
         every run of the same experiment on the same kind of machine, byte for byte, and so are the \
         tables that have no such column.\n",
    );
    for table in TABLES {
        let _ = write!(text, "\n## `{table}`\n\n{}.\n\n", capitalised(rows(table)));
        text.push_str("| column | unit | meaning |\n|---|---|---|\n");
        for column in of_table(table) {
            let mark = if column.clock { " *(clock)*" } else { "" };
            let ColumnDoc { name, unit, meaning, .. } = column;
            let _ = writeln!(text, "| `{name}` | {unit} | {meaning}{mark} |");
        }
    }
    text
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_within_a_table_and_clock_columns_come_last() {
        for table in TABLES {
            let names: HashSet<_> = of_table(table).map(|column| column.name).collect();
            assert_eq!(names.len(), of_table(table).count(), "{table}");
            let clocks: Vec<bool> = of_table(table).map(|column| column.clock).collect();
            assert!(clocks.is_sorted(), "{table}: clock columns stand at the end");
            let clock = CLOCK_TABLES.contains(&table);
            assert_eq!(clocks.contains(&true), clock, "{table}");
        }
    }

    #[test]
    fn the_page_in_the_repository_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../results/README.md");
        let page = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            page,
            readme(),
            "run `cargo run -p unroll-results --example columns > results/README.md`"
        );
    }
}
