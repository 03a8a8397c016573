//! Polars tables made from trial records.
//!
//! Every table has one row for each thing measured; [`crate::columns`] documents the columns. The
//! rows follow the order of the records, so equal records give equal bytes. Columns that depend on
//! the clock stand in `throughput`, `curve_timings` and `timings` alone: the other tables are the same
//! bytes in every run.

use std::path::{Path, PathBuf};

use polars::prelude::*;

use crate::decay::{Decay, Reach, reaches};
use crate::record::{
    BaselineValue, Better, DistanceWeight, OtherMetric, Precision, Quality, Status, TrialRecord,
    VisibleEntropy, in_f32,
};
use crate::summary::initial_input;
use crate::{Error, Result, files};

/// All tables of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    /// One row for each trial.
    pub trials: DataFrame,
    /// One row for each trial and evaluated step.
    pub curves: DataFrame,
    /// One row for each trial, derivative, layer, training step and distance.
    pub gradients: DataFrame,
    /// One row for each trial, derivative, layer and training step: fitted laws and horizons.
    pub decays: DataFrame,
    /// One row for each trial, training step, example and distance: Jacobians of the state.
    pub jacobians: DataFrame,
    /// One row for each trial, training step, example and Lyapunov exponent.
    pub lyapunov: DataFrame,
    /// One row for each trial, training step, layer, direction and gate.
    pub gates: DataFrame,
    /// One row for each trial, training step, layer and attention head.
    pub attention: DataFrame,
    /// The heads' weights by distance and entropy by number of keys.
    pub attention_profiles: DataFrame,
    /// One row for each trial and phase.
    pub throughput: DataFrame,
    /// One row for each trial and length it was evaluated at.
    pub lengths: DataFrame,
    /// One row for each trial and further metric.
    pub metrics: DataFrame,
    /// Clock times of learning curves, one row for each trial and evaluated step.
    pub curve_timings: DataFrame,
    /// Clock times, one row for each trial.
    pub timings: DataFrame,
}

impl Tables {
    /// Builds the tables; rows in the order of the records.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn from_records(records: &[TrialRecord]) -> Result<Self> {
        let table = |name, frame: PolarsResult<DataFrame>| {
            frame.map_err(|error| Error::Table { table: name, message: error.to_string() })
        };
        Ok(Self {
            trials: table("trials", trials(records))?,
            curves: table("curves", curves(records))?,
            gradients: table("gradients", gradients(records))?,
            decays: table("decays", decays(records))?,
            jacobians: table("jacobians", jacobians(records))?,
            lyapunov: table("lyapunov", lyapunov(records))?,
            gates: table("gates", gates(records))?,
            attention: table("attention", attention(records))?,
            attention_profiles: table("attention_profiles", attention_profiles(records))?,
            throughput: table("throughput", throughput(records))?,
            lengths: table("lengths", lengths(records))?,
            metrics: table("metrics", metrics(records))?,
            curve_timings: table("curve_timings", curve_timings(records))?,
            timings: table("timings", timings(records))?,
        })
    }

    /// The tables with their names, in the order of [`crate::columns::TABLES`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &DataFrame)> {
        [
            ("trials", &self.trials),
            ("curves", &self.curves),
            ("gradients", &self.gradients),
            ("decays", &self.decays),
            ("jacobians", &self.jacobians),
            ("lyapunov", &self.lyapunov),
            ("gates", &self.gates),
            ("attention", &self.attention),
            ("attention_profiles", &self.attention_profiles),
            ("throughput", &self.throughput),
            ("lengths", &self.lengths),
            ("metrics", &self.metrics),
            ("curve_timings", &self.curve_timings),
            ("timings", &self.timings),
        ]
        .into_iter()
    }

    /// Every table as `NAME.csv` and `NAME.parquet` in `dir`: paths and bytes.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn files(&self, dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut all = Vec::new();
        for (name, frame) in self.iter() {
            let mut frame = frame.clone();
            let encoding =
                |error: PolarsError| Error::Table { table: name, message: error.to_string() };
            let mut csv = Vec::new();
            CsvWriter::new(&mut csv).finish(&mut frame).map_err(encoding)?;
            let mut parquet = Vec::new();
            ParquetWriter::new(&mut parquet).finish(&mut frame).map_err(encoding)?;
            for (extension, bytes) in [("csv", csv), ("parquet", parquet)] {
                all.push((dir.join(format!("{name}.{extension}")), bytes));
            }
        }
        Ok(all)
    }

    /// Writes the [`files`](Self::files), each all or nothing, and returns the paths.
    ///
    /// # Errors
    /// [`Error::Table`], [`Error::Io`].
    pub fn write(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        files::create_dir(dir)?;
        let write = |(path, bytes): (PathBuf, Vec<u8>)| {
            files::write(&path, &bytes)?;
            Ok(path)
        };
        self.files(dir)?.into_iter().map(write).collect()
    }
}

/// A column with one value for each row.
fn column<R, T, P: ?Sized>(name: &str, rows: &[R], value: impl Fn(&R) -> T) -> Column
where
    Series: NamedFrom<Vec<T>, P>,
{
    Column::from(Series::new(name.into(), rows.iter().map(value).collect::<Vec<T>>()))
}

/// Which trial a row belongs to.
fn keys<R>(rows: &[R], record: impl Fn(&R) -> &TrialRecord + Copy) -> Vec<Column> {
    vec![
        column("trial", rows, |row| record(row).id.clone()),
        column("architecture", rows, |row| record(row).cell.architecture.clone()),
        column("series", rows, |row| record(row).cell.series.clone()),
        column("task", rows, |row| record(row).cell.task.clone()),
        column("length", rows, |row| record(row).cell.length as u64),
        column("seed", rows, |row| record(row).cell.seed),
        column("device", rows, |row| record(row).cell.device.clone()),
    ]
}

/// Every item of every record beside its record.
fn flattened<'a, T>(
    records: &'a [TrialRecord],
    items: impl Fn(&'a TrialRecord) -> &'a [T],
) -> Vec<(&'a TrialRecord, &'a T)> {
    let items = &items;
    records.iter().flat_map(|record| items(record).iter().map(move |item| (record, item))).collect()
}

fn frame(height: usize, columns: Vec<Column>) -> PolarsResult<DataFrame> {
    DataFrame::new(height, columns)
}

fn trials(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let cost = |value: fn(&crate::record::ModelCost) -> u64| {
        move |record: &TrialRecord| record.cost.as_ref().map(value)
    };
    fn quality<T>(value: impl Fn(&Quality) -> T) -> impl Fn(&TrialRecord) -> Option<T> {
        move |record| record.quality.as_ref().map(&value)
    }
    fn optional<T>(value: impl Fn(&Quality) -> Option<T>) -> impl Fn(&TrialRecord) -> Option<T> {
        move |record| record.quality.as_ref().and_then(&value)
    }
    fn initial<T>(value: impl Fn(Reach) -> Option<T>) -> impl Fn(&TrialRecord) -> Option<T> {
        move |record| initial_input(record).and_then(&value)
    }
    let best = |record: &TrialRecord| record.quality.as_ref().and_then(best_baseline).cloned();
    let fitted = |record: &TrialRecord| record.quality.as_ref().and_then(best_reference).cloned();
    let mut columns = vec![
        column("experiment", records, |record| record.cell.experiment.clone()),
        column("kind", records, |record| record.kind.name()),
    ];
    let mut keys = keys(records, |record| record);
    let trial = keys.remove(0);
    columns.insert(0, trial);
    columns.push(keys.remove(0));
    columns.push(column("family", records, |record| record.cell.family.clone()));
    columns.append(&mut keys);
    columns.extend([
        column("dtype", records, |record| record.cell.dtype.clone()),
        column("precision", records, |record| record.cell.precision.clone()),
        column("form", records, |record| record.cell.form.clone()),
        column("hidden_size", records, |record| record.cell.hidden_size as u64),
        column("num_layers", records, |record| record.cell.num_layers as u64),
        column("batch_size", records, |record| record.cell.batch_size as u64),
        column("matched_by", records, |record| record.cell.matched_by.clone()),
        column("axes", records, |record| json_object(&record.cell.axes)),
        column("status", records, |record| record.status.name()),
        column("diverged_at", records, |record| match record.status {
            Status::Diverged { step } => Some(step),
            _ => None,
        }),
        column("message", records, |record| match &record.status {
            Status::Failed { message } => Some(message.clone()),
            _ => None,
        }),
        column("parameters", records, cost(|cost| cost.parameters)),
        column("forward_flops", records, cost(|cost| cost.forward_flops)),
        column("training_flops", records, cost(|cost| cost.training_flops)),
        column("state_elements", records, cost(|cost| cost.state_elements)),
        column("metric", records, quality(|quality| quality.metric.clone())),
        column("better", records, quality(|quality| quality.better.name())),
        column("test", records, quality(|quality| quality.test)),
        column("validation", records, quality(|quality| quality.validation)),
        column("test_loss", records, quality(|quality| quality.test_loss)),
        column("solved", records, quality(|quality| quality.solved)),
        column("solved_at", records, optional(|quality| quality.solved_at)),
        column("baseline", records, |record| best(record).map(|baseline| baseline.value)),
        column("baseline_name", records, |record| best(record).map(|baseline| baseline.name)),
        column("reference", records, |record| fitted(record).map(|baseline| baseline.value)),
        column("reference_name", records, |record| fitted(record).map(|baseline| baseline.name)),
        column("at_chance", records, quality(|quality| quality.at_chance)),
        column("steps", records, quality(|quality| quality.steps)),
        column("steps_to_threshold", records, optional(|quality| quality.steps_to_threshold)),
        column("initial_horizon", records, initial(|reach| reach.horizon_percent)),
        column("initial_half_life", records, initial(|reach| reach.decay?.half_life())),
        column("initial_reach", records, initial(|reach| Some(reach.reach? as u64))),
    ]);
    frame(records.len(), columns)
}

/// The best trivial baseline: what counts as chance.
pub(crate) fn best_baseline(quality: &Quality) -> Option<&BaselineValue> {
    best_of_baselines(quality, false)
}

/// The best baseline that is fitted to the training data.
pub(crate) fn best_reference(quality: &Quality) -> Option<&BaselineValue> {
    best_of_baselines(quality, true)
}

fn best_of_baselines(quality: &Quality, fitted: bool) -> Option<&BaselineValue> {
    let finite = quality
        .baselines
        .iter()
        .filter(|baseline| baseline.fitted == fitted && baseline.value.is_finite());
    match quality.better {
        Better::Lower => finite.min_by(|a, b| a.value.total_cmp(&b.value)),
        Better::Higher => finite.max_by(|a, b| a.value.total_cmp(&b.value)),
    }
}

/// `{"name":value,...}` in the map's order, which is sorted.
fn json_object(map: &std::collections::BTreeMap<String, serde_json::Value>) -> String {
    let object: serde_json::Map<_, _> =
        map.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    serde_json::Value::Object(object).to_string()
}

fn curves(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let rows = flattened(records, |record| &record.curve);
    let mut columns = keys(&rows, |row| row.0);
    columns.extend([
        column("step", &rows, |(_, point)| point.step),
        column("tokens", &rows, |(_, point)| point.tokens),
        column("train_loss", &rows, |(_, point)| point.train_loss),
        column("validation", &rows, |(_, point)| point.validation),
        column("validation_loss", &rows, |(_, point)| point.validation_loss),
        column("learning_rate", &rows, |(_, point)| point.learning_rate),
        column("gradient_norm", &rows, |(_, point)| point.gradient_norm),
    ]);
    frame(rows.len(), columns)
}

fn curve_timings(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let rows = flattened(records, |record| &record.curve);
    let columns = vec![
        column("trial", &rows, |(record, _)| record.id.clone()),
        column("step", &rows, |(_, point)| point.step),
        column("seconds", &rows, |(_, point)| point.seconds),
    ];
    frame(rows.len(), columns)
}

fn gradients(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let rows = flattened(records, |record| &record.gradient);
    let in_f32: Vec<Precision> =
        records.iter().flat_map(|record| in_f32(&record.gradient)).collect();
    let mut columns = keys(&rows, |row| row.0);
    columns.extend([
        column("of", &rows, |(_, point)| point.of.name()),
        column("layer", &rows, |(_, point)| point.layer as u64),
        column("step", &rows, |(_, point)| point.step),
        column("distance", &rows, |(_, point)| point.distance as u64),
        column("mean_norm", &rows, |(_, point)| point.ln_mean_norm.exp()),
        column("ln_mean_norm", &rows, |(_, point)| point.ln_mean_norm),
        column("mean_log_norm", &rows, |(_, point)| point.mean_log_norm),
        column("ln_norm_q10", &rows, |(_, point)| point.ln_quantiles[0]),
        column("ln_norm_q50", &rows, |(_, point)| point.ln_quantiles[1]),
        column("ln_norm_q90", &rows, |(_, point)| point.ln_quantiles[2]),
        column("in_f32", &in_f32, |precision| precision.name()),
    ]);
    frame(rows.len(), columns)
}

fn decays(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let found: Vec<Vec<Reach>> = records.iter().map(|record| reaches(&record.gradient)).collect();
    let rows: Vec<(&TrialRecord, &Reach)> = records
        .iter()
        .zip(&found)
        .flat_map(|(record, found)| found.iter().map(move |reach| (record, reach)))
        .collect();
    type Row<'a> = (&'a TrialRecord, &'a Reach);
    fn fit<T>(value: impl Fn(&Decay) -> T) -> impl Fn(&Row<'_>) -> Option<T> {
        move |(_, reach)| reach.decay.as_ref().map(&value)
    }
    let mut columns = keys(&rows, |row| row.0);
    columns.extend([
        column("of", &rows, |(_, reach)| reach.of.name()),
        column("layer", &rows, |(_, reach)| reach.layer as u64),
        column("step", &rows, |(_, reach)| reach.step),
        column("measured_to", &rows, |(_, reach)| reach.measured_to as u64),
        column("from", &rows, fit(|decay| decay.from as u64)),
        column("to", &rows, fit(|decay| decay.to as u64)),
        column("rate", &rows, fit(|decay| decay.exponential.slope)),
        column("half_life", &rows, |row: &Row<'_>| row.1.decay.and_then(|d| d.half_life())),
        column("exponential_r2", &rows, fit(|decay| decay.exponential.r_squared)),
        column("exponent", &rows, fit(|decay| decay.power.slope)),
        column("power_r2", &rows, fit(|decay| decay.power.r_squared)),
        column("law", &rows, |row: &Row<'_>| Some(row.1.decay?.better_law()?.name())),
        column("horizon_percent", &rows, |(_, reach)| reach.horizon_percent),
        column("horizon_epsilon", &rows, |(_, reach)| reach.horizon_epsilon),
        column("reach", &rows, |(_, reach)| reach.reach.map(|distance| distance as u64)),
    ]);
    frame(rows.len(), columns)
}

fn jacobians(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let rows: Vec<_> = flattened(records, |record| &record.jacobians)
        .into_iter()
        .flat_map(|(record, jacobian)| {
            jacobian.points.iter().map(move |point| (record, jacobian, point))
        })
        .collect();
    let mut columns = keys(&rows, |row| row.0);
    columns.extend([
        column("step", &rows, |(_, jacobian, _)| jacobian.step),
        column("example", &rows, |(_, jacobian, _)| jacobian.example as u64),
        column("probes", &rows, |(_, jacobian, _)| jacobian.probes.map(|count| count as u64)),
        column("state_size", &rows, |(_, jacobian, _)| jacobian.state_size as u64),
        column("distance", &rows, |(_, _, point)| point.distance as u64),
        column("ln_largest", &rows, |(_, _, point)| point.ln_largest),
        column("ln_largest_below", &rows, |(_, _, point)| point.ln_largest_below),
        column("probability", &rows, |(_, _, point)| point.probability),
        column("ln_largest_hidden", &rows, |(_, _, point)| point.ln_largest_hidden),
        column("ln_largest_cell", &rows, |(_, _, point)| point.ln_largest_cell),
        column("ln_smallest", &rows, |(_, _, point)| point.ln_smallest),
        column("log_det_rate", &rows, |(_, _, point)| point.log_det_rate.value),
        column("log_det_rate_error", &rows, |(_, _, point)| point.log_det_rate.standard_error),
    ]);
    frame(rows.len(), columns)
}

fn lyapunov(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let rows: Vec<_> = flattened(records, |record| &record.jacobians)
        .into_iter()
        .flat_map(|(record, jacobian)| {
            let exponents = jacobian.lyapunov.iter().zip(1u64..);
            exponents.map(move |(exponent, index)| (record, jacobian, exponent, index))
        })
        .collect();
    let mut columns = keys(&rows, |row| row.0);
    columns.extend([
        column("step", &rows, |(_, jacobian, ..)| jacobian.step),
        column("example", &rows, |(_, jacobian, ..)| jacobian.example as u64),
        column("probes", &rows, |(_, jacobian, ..)| jacobian.probes.map(|count| count as u64)),
        column("state_size", &rows, |(_, jacobian, ..)| jacobian.state_size as u64),
        column("steps", &rows, |(_, jacobian, ..)| jacobian.steps as u64),
        column("index", &rows, |(.., index)| *index),
        column("exponent", &rows, |(_, _, exponent, _)| exponent.value),
        column("exponent_error", &rows, |(_, _, exponent, _)| exponent.standard_error),
    ]);
    frame(rows.len(), columns)
}

fn gates(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let rows = flattened(records, |record| &record.gates);
    let mut columns = keys(&rows, |row| row.0);
    columns.extend([
        column("step", &rows, |(_, gate)| gate.step),
        column("layer", &rows, |(_, gate)| gate.layer as u64),
        column("direction", &rows, |(_, gate)| gate.direction.clone()),
        column("gate", &rows, |(_, gate)| gate.gate.clone()),
        column("mean", &rows, |(_, gate)| gate.mean),
        column("standard_deviation", &rows, |(_, gate)| gate.standard_deviation),
        column("q10", &rows, |(_, gate)| gate.quantiles[0]),
        column("q50", &rows, |(_, gate)| gate.quantiles[1]),
        column("q90", &rows, |(_, gate)| gate.quantiles[2]),
        column("closed", &rows, |(_, gate)| gate.closed),
        column("open", &rows, |(_, gate)| gate.open),
        column("saturated", &rows, |(_, gate)| gate.saturated),
        column("forget_time_q10", &rows, |(_, gate)| gate.memory.map(|m| m.forget[0])),
        column("forget_time_q50", &rows, |(_, gate)| gate.memory.map(|m| m.forget[1])),
        column("forget_time_q90", &rows, |(_, gate)| gate.memory.map(|m| m.forget[2])),
        column("decay_time_q10", &rows, |(_, gate)| gate.memory.map(|m| m.decay[0])),
        column("decay_time_q50", &rows, |(_, gate)| gate.memory.map(|m| m.decay[1])),
        column("decay_time_q90", &rows, |(_, gate)| gate.memory.map(|m| m.decay[2])),
    ]);
    frame(rows.len(), columns)
}

fn attention(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let rows = flattened(records, |record| &record.attention);
    let mut columns = keys(&rows, |row| row.0);
    columns.extend([
        column("step", &rows, |(_, head)| head.step),
        column("layer", &rows, |(_, head)| head.layer as u64),
        column("head", &rows, |(_, head)| head.head as u64),
        column("entropy", &rows, |(_, head)| head.entropy),
        column("normalised_entropy", &rows, |(_, head)| head.normalised_entropy),
        column("mean_distance", &rows, |(_, head)| head.mean_distance),
        column("uniform_distance", &rows, |(_, head)| head.uniform_distance),
    ]);
    frame(rows.len(), columns)
}

/// A range of distances, or of numbers of visible keys.
enum Range<'a> {
    Distance(&'a DistanceWeight),
    Visible(&'a VisibleEntropy),
}

fn attention_profiles(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let rows: Vec<_> = flattened(records, |record| &record.attention)
        .into_iter()
        .flat_map(|(record, head)| {
            let distances = head.by_distance.iter().map(Range::Distance);
            let ranges = distances.chain(head.by_visible.iter().map(Range::Visible));
            ranges.map(move |range| (record, head, range))
        })
        .collect();
    let mut columns = keys(&rows, |row| row.0);
    let visible = |range: &Range<'_>, value: fn(&VisibleEntropy) -> f64| match range {
        Range::Visible(entropy) => Some(value(entropy)),
        Range::Distance(_) => None,
    };
    columns.extend([
        column("step", &rows, |(_, head, _)| head.step),
        column("layer", &rows, |(_, head, _)| head.layer as u64),
        column("head", &rows, |(_, head, _)| head.head as u64),
        column("by", &rows, |(.., range)| match range {
            Range::Distance(_) => "distance",
            Range::Visible(_) => "visible",
        }),
        column("first", &rows, |(.., range)| match range {
            Range::Distance(weight) => weight.first as u64,
            Range::Visible(entropy) => entropy.first as u64,
        }),
        column("last", &rows, |(.., range)| match range {
            Range::Distance(weight) => weight.last as u64,
            Range::Visible(entropy) => entropy.last as u64,
        }),
        column("weight", &rows, |(.., range)| match range {
            Range::Distance(weight) => Some(weight.weight),
            Range::Visible(_) => None,
        }),
        column("path_length", &rows, |(.., range)| match range {
            Range::Distance(weight) => weight.path_length.map(|edges| edges as u64),
            Range::Visible(_) => None,
        }),
        column("entropy", &rows, |(.., range)| visible(range, |entropy| entropy.entropy)),
        column("normalised_entropy", &rows, |(.., range)| {
            visible(range, |entropy| entropy.normalised_entropy)
        }),
    ]);
    frame(rows.len(), columns)
}

fn throughput(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let rows = flattened(records, |record| &record.throughput);
    let mut columns = keys(&rows, |row| row.0);
    columns.extend([
        column("phase", &rows, |(_, times)| times.phase.name()),
        column("batch_size", &rows, |(record, _)| record.cell.batch_size as u64),
        column("iterations", &rows, |(_, times)| times.iterations as u64),
        column("median_s", &rows, |(_, times)| times.median_s),
        column("min_s", &rows, |(_, times)| times.min_s),
        column("q10_s", &rows, |(_, times)| times.quantiles_s[0]),
        column("q90_s", &rows, |(_, times)| times.quantiles_s[1]),
        column("tokens_per_s", &rows, |(_, times)| times.tokens_per_s),
        column("gflops_per_s", &rows, |(_, times)| times.gflops_per_s),
        column("peak_bytes", &rows, |(_, times)| times.peak_bytes),
        column("threads", &rows, |(record, _)| record.timing.threads),
    ]);
    frame(rows.len(), columns)
}

fn lengths(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let rows = flattened(records, |record| &record.other_lengths);
    let mut columns = keys(&rows, |row| row.0);
    columns.extend([
        column("metric", &rows, |(record, _)| {
            record.quality.as_ref().map(|quality| quality.metric.clone())
        }),
        column("evaluated_length", &rows, |(_, evaluation)| evaluation.length as u64),
        column("value", &rows, |(_, evaluation)| evaluation.value),
        column("loss", &rows, |(_, evaluation)| evaluation.loss),
    ]);
    frame(rows.len(), columns)
}

fn metrics(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let rows: Vec<(&TrialRecord, &OtherMetric)> = records
        .iter()
        .flat_map(|record| {
            let others = record.quality.iter().flat_map(|quality| &quality.others);
            others.map(move |other| (record, other))
        })
        .collect();
    let mut columns = keys(&rows, |row| row.0);
    columns.extend([
        column("metric", &rows, |(_, other)| other.name.clone()),
        column("value", &rows, |(_, other)| other.value),
    ]);
    frame(rows.len(), columns)
}

fn timings(records: &[TrialRecord]) -> PolarsResult<DataFrame> {
    let columns = vec![
        column("trial", records, |record| record.id.clone()),
        column("wall_s", records, |record| record.timing.wall_s),
        column("train_s", records, |record| record.timing.train_s),
        column("seconds_to_threshold", records, |record| record.timing.seconds_to_threshold),
        column("environment", records, |record| record.timing.environment.clone()),
        column("threads", records, |record| record.timing.threads),
    ];
    frame(records.len(), columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns;
    use crate::testing;

    fn records() -> Vec<TrialRecord> {
        let mut records = testing::sweep();
        records.push(testing::measured("gru", 6, 1, "cpu"));
        records
    }

    #[test]
    fn every_column_is_documented_and_every_documented_column_is_written() {
        for records in [records(), Vec::new()] {
            let tables = Tables::from_records(&records).unwrap();
            let names: Vec<_> = tables.iter().map(|(name, _)| name).collect();
            assert_eq!(names, columns::TABLES);
            for (table, frame) in tables.iter() {
                let written: Vec<&str> =
                    frame.get_column_names().into_iter().map(PlSmallStr::as_str).collect();
                let documented: Vec<&str> = columns::of_table(table).map(|c| c.name).collect();
                assert_eq!(written, documented, "{table}");
            }
        }
    }

    #[test]
    fn empty_tables_have_the_types_of_full_ones() {
        let full = Tables::from_records(&records()).unwrap();
        let empty = Tables::from_records(&[]).unwrap();
        for ((name, full), (_, empty)) in full.iter().zip(empty.iter()) {
            assert_eq!(full.dtypes(), empty.dtypes(), "{name}");
            assert_eq!(empty.height(), 0);
        }
    }

    #[test]
    fn rows_are_counted_and_missing_values_are_null() {
        let tables = Tables::from_records(&records()).unwrap();
        let heights: Vec<_> = tables.iter().map(|(_, frame)| frame.height()).collect();
        assert_eq!(heights, [19, 17 * 3, 7, 1, 2, 3, 1, 1, 3, 1, 17, 17, 17 * 3, 19]);
        let trials = &tables.trials;
        assert_eq!(trials.column("test").unwrap().null_count(), 2);
        assert_eq!(trials.column("message").unwrap().null_count(), 18);
        let baselines = trials.column("baseline").unwrap();
        assert_eq!(baselines.f64().unwrap().get(0), Some(1.0 / 6.0));
        let norms = tables.gradients.column("mean_log_norm").unwrap();
        assert_eq!(norms.f64().unwrap().get(6), None);
    }

    #[test]
    fn files_are_the_same_bytes_each_time_and_read_back() {
        let tables = Tables::from_records(&records()).unwrap();
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let written = dirs.each_ref().map(|dir| tables.write(dir.path()).unwrap());
        assert_eq!(written[0].len(), 2 * columns::TABLES.len());
        for (a, b) in written[0].iter().zip(&written[1]) {
            assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap(), "{}", a.display());
        }
        for (name, frame) in tables.iter() {
            let file = std::fs::File::open(dirs[0].path().join(format!("{name}.parquet"))).unwrap();
            let back = ParquetReader::new(file).finish().unwrap();
            assert!(back.equals_missing(frame), "{name}");
        }
        let csv = std::fs::read_to_string(dirs[0].path().join("trials.csv")).unwrap();
        assert!(csv.contains(r#""out of memory, ""8 GB""""#), "{csv}");
        assert!(csv.contains(",NaN,"), "a diverged metric keeps its value");
    }
}
