//! `unroll parity`: a device held to the processor.
//!
//! Every architecture with every option that changes its equations, in every form, is computed in f64 by
//! plain tensor operations on the processor, and then on the device in each [`Rounding`]: outputs, last
//! states and the gradients of all weights, inputs and initial states have to agree. PyTorch's vectors are
//! held to as well. On the processor itself this compares its own fused operations and its shorter types
//! with f64.

mod case;
pub mod variants;
mod vectors;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};

use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use unroll_core::{Error, Form, Result};
use unroll_kernels::gpu;

use self::case::{Case, Computed, Extent, Place, Work};
use self::variants::{SMALL, Sizes};
use crate::experiment::Precision;
use crate::experiment::plan::nearest;
use crate::registry;

/// How numbers are rounded in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// f64.
    F64,
    /// f32, nothing else.
    Fp32,
    /// f32 whose products round what they read to 10 bits of mantissa, on GPUs.
    Tf32,
    /// bf16, sums in f32.
    Bf16,
}

impl Rounding {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F64, Self::Fp32, Self::Tf32, Self::Bf16];

    /// Name in tables: `f64`, `fp32`, `tf32`, `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// Type of weights and activations.
    pub fn dtype(self) -> DType {
        match self {
            Self::F64 => DType::F64,
            Self::Fp32 | Self::Tf32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// How products of f32 round.
    pub fn precision(self) -> Precision {
        if self == Self::Tf32 { Precision::Tf32 } else { Precision::Fp32 }
    }

    /// Largest relative deviation of a tensor: norm of the difference over the norm of what is expected. With
    /// few bits, gradients are given twice that of outputs and states: they go through all steps a second
    /// time, and ReLU's is not continuous.
    pub fn tolerance(self, what: What) -> f64 {
        match (self, what) {
            (Self::F64, _) => 1e-10,
            (Self::Fp32, _) => 1e-4,
            (Self::Tf32, What::Gradient) => 2e-2,
            (Self::Tf32, _) => 1e-2,
            (Self::Bf16, What::Gradient) => 1e-1,
            (Self::Bf16, _) => 5e-2,
        }
    }

    /// Whether a device can do it.
    pub fn is_of(self, device: &Device) -> bool {
        self != Self::Tf32 || device.is_cuda()
    }
}

/// Kind of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Outputs and attention weights.
    Output,
    /// The state after the last step.
    State,
    /// The gradient of a weight, an input or an initial state.
    Gradient,
}

impl What {
    const ALL: [Self; 3] = [Self::Output, Self::State, Self::Gradient];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::State => "state",
            Self::Gradient => "gradient",
        }
    }
}

/// What is compared.
#[derive(Debug, Clone)]
pub struct Request {
    /// The device that is held to the processor.
    pub device: Device,
    /// In which roundings.
    pub roundings: Vec<Rounding>,
    /// Architectures by name; all when empty.
    pub architectures: Vec<String>,
    /// Small shapes alone.
    pub quick: bool,
}

/// The tensors of one kind in one comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Architecture.
    pub architecture: String,
    /// Options and shape, or the name of PyTorch's vectors.
    pub case: String,
    /// How numbers were rounded.
    pub rounding: Rounding,
    /// The form that was asked for.
    pub asked: &'static str,
    /// The form that ran.
    pub ran: String,
    /// What was expected: `cpu f64` or `PyTorch f64`.
    pub expected: &'static str,
    /// Kind of the tensors; `None` when nothing came out.
    pub what: Option<What>,
    /// How many there are.
    pub tensors: usize,
    /// The one that deviates most.
    pub worst: String,
    /// Its largest absolute deviation of an element.
    pub absolute: f64,
    /// Its relative deviation.
    pub relative: f64,
    /// Largest relative deviation from the processor in the same type; `None` on the processor.
    pub from_cpu: Option<f64>,
    /// The largest that is accepted.
    pub tolerance: f64,
    /// Whether all are within it.
    pub agrees: bool,
    /// Why nothing came out.
    pub error: Option<String>,
}

/// How many cases there are and what they gave.
#[derive(Debug, Clone)]
pub struct Report {
    /// One for each case, rounding, form and kind of tensor.
    pub rows: Vec<Row>,
    /// Cases.
    pub cases: usize,
}

impl Report {
    /// Whether all agree.
    pub fn agrees(&self) -> bool {
        self.rows.iter().all(|row| row.agrees)
    }
}

/// Norms below this share of the largest one of their kind are not what deviations are relative to: a
/// gradient that is zero by the equations has no norm of its own. With few bits of mantissa, sums that
/// nearly cancel keep few right ones.
fn least_share(rounding: Rounding) -> f64 {
    match rounding {
        Rounding::F64 | Rounding::Fp32 => 1e-3,
        Rounding::Tf32 | Rounding::Bf16 => 0.1,
    }
}

/// One comparison, as far as the processor prepares it.
struct Prepared {
    row: Row,
    place: Place,
    expected: Arc<Computed>,
    /// What the processor makes of it in the same type.
    on_cpu: Option<Computed>,
}

/// What the processor has done of a case: on itself, all of it.
enum Done {
    Prepared(Vec<Prepared>),
    Compared(Vec<Row>),
}

/// Compares. `progress` is told how many cases are done, and of how many. The processor works on `threads`
/// cases at a time; the results depend neither on that nor on the order.
///
/// # Errors
/// When an architecture is not there, or the processor cannot compute what is expected.
pub fn run(
    request: &Request,
    threads: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    for name in &request.architectures {
        if registry::find(name).is_none() {
            let help = nearest(name, &registry::all_names());
            let message = format!("there is no architecture `{name}`: {help}");
            return Err(Error::option("arch", message));
        }
    }
    let wanted = |case: &Case| {
        let name = case.architecture.name();
        request.architectures.is_empty() || request.architectures.iter().any(|one| one == name)
    };
    let cases: Vec<Case> = cases(request.quick)?.into_iter().filter(wanted).collect();
    let next = AtomicUsize::new(0);
    let work = |sender: SyncSender<(usize, Result<Done>)>| {
        loop {
            let index = next.fetch_add(1, Relaxed);
            let Some(case) = cases.get(index) else { return };
            let done = prepare(case, request).and_then(|prepared| {
                if request.device.is_cpu() {
                    finish(case, prepared).map(Done::Compared)
                } else {
                    Ok(Done::Prepared(prepared))
                }
            });
            if sender.send((index, done)).is_err() {
                return;
            }
        }
    };
    let mut compared: Vec<Vec<Row>> = vec![Vec::new(); cases.len()];
    let before = gpu::tf32();
    let outcome: Result<()> = std::thread::scope(|scope| {
        // Bounded: what is prepared waits for the device in memory.
        let (sender, receiver) = sync_channel(4);
        for _ in 0..threads.max(1) {
            let sender = sender.clone();
            // A pool of one thread each: cases are worked on side by side, not cut up.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).stack_size(64 << 20).build();
            let pool = pool.map_err(|error| Error::Unsupported(error.to_string()))?;
            let work = &work;
            scope.spawn(move || pool.install(|| work(sender)));
        }
        drop(sender);
        for (done, (index, result)) in receiver.iter().enumerate() {
            progress(done, cases.len());
            compared[index] = match result? {
                Done::Compared(rows) => rows,
                Done::Prepared(prepared) => finish(&cases[index], prepared)?,
            };
        }
        Ok(())
    });
    gpu::set_tf32(before);
    outcome?;
    progress(cases.len(), cases.len());
    Ok(Report { rows: compared.into_iter().flatten().collect(), cases: cases.len() })
}

/// What is expected of a case, in each rounding and form.
fn prepare(case: &Case, request: &Request) -> Result<Vec<Prepared>> {
    let exact = |rounded_to: DType, form: Form| Place {
        dtype: DType::F64,
        device: Device::Cpu,
        form,
        rounded_to,
    };
    let in_f64_alone = case.vectors.is_some_and(|name| name.starts_with(vectors::IN_F64));
    let given = case.expected()?.map(Arc::new);
    let mut all = Vec::new();
    // Weights and inputs of f32 mean the same number in f32 and f64, those of bf16 in all types.
    let mut computed: Vec<(DType, Arc<Computed>)> = Vec::new();
    let mut has_steps = None;
    for &rounding in &request.roundings {
        if !rounding.is_of(&request.device) || (in_f64_alone && rounding != Rounding::F64) {
            continue;
        }
        let rounded_to = match (&given, rounding) {
            // PyTorch's weights are of f64.
            (Some(_), _) => rounding.dtype(),
            (None, Rounding::Bf16) => DType::BF16,
            (None, _) => DType::F32,
        };
        let known = computed.iter().find(|(dtype, _)| *dtype == rounded_to);
        let expected = match (&given, known) {
            (Some(expected), _) | (None, Some((_, expected))) => Arc::clone(expected),
            (None, None) => {
                let fresh = match case.run(&exact(rounded_to, Form::Reference)) {
                    // Models that see ahead have no state to go on from.
                    Err(Error::Unsupported(_)) => return Ok(Vec::new()),
                    other => Arc::new(other?),
                };
                computed.push((rounded_to, Arc::clone(&fresh)));
                fresh
            }
        };
        for &form in case.forms {
            if form == Form::Unrolled && has_steps.is_none() {
                // Models that are not causal have no steps.
                has_steps = match case.run(&exact(rounded_to, form)) {
                    Err(Error::Unsupported(_)) => Some(false),
                    other => other.map(|_| Some(true))?,
                };
            }
            if form == Form::Unrolled && has_steps == Some(false) {
                continue;
            }
            let place =
                Place { dtype: rounding.dtype(), device: request.device.clone(), form, rounded_to };
            let on_cpu = if request.device.is_cpu() {
                None
            } else {
                Some(case.run(&Place { device: Device::Cpu, ..place.clone() })?)
            };
            let row = Row {
                architecture: case.architecture.name().to_owned(),
                case: case.name(),
                rounding,
                asked: form.name(),
                ran: String::new(),
                expected: if given.is_some() { "PyTorch f64" } else { "cpu f64" },
                what: None,
                tensors: 0,
                worst: String::new(),
                absolute: f64::NAN,
                relative: f64::NAN,
                from_cpu: None,
                tolerance: rounding.tolerance(What::Output),
                agrees: false,
                error: None,
            };
            all.push(Prepared { row, place, expected: Arc::clone(&expected), on_cpu });
        }
    }
    Ok(all)
}

/// What the device makes of it.
fn finish(case: &Case, prepared: Vec<Prepared>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for Prepared { row, place, expected, on_cpu } in prepared {
        gpu::set_tf32(row.rounding == Rounding::Tf32);
        match case.run(&place) {
            Ok(found) => compare(&row, &found, &expected, on_cpu.as_ref(), &mut rows)?,
            Err(error) => rows.push(Row { error: Some(error.to_string()), ..row }),
        }
    }
    Ok(rows)
}

/// A row for each kind of tensor.
fn compare(
    row: &Row,
    found: &Computed,
    expected: &Computed,
    on_cpu: Option<&Computed>,
    rows: &mut Vec<Row>,
) -> Result<()> {
    for kind in What::ALL {
        let mut row = Row { what: Some(kind), ran: found.form.clone(), ..row.clone() };
        (row.absolute, row.relative) = (0.0, 0.0);
        row.tolerance = row.rounding.tolerance(kind);
        let least = least_share(row.rounding) * largest_norm(expected, kind)?;
        for (_, name, tensor) in expected.tensors.iter().filter(|(what, ..)| *what == kind) {
            let Some(other) = of_name(found, name) else {
                row.error = Some(format!("there is no `{name}`"));
                continue;
            };
            row.tensors += 1;
            let relative = deviation(name, other, tensor, least)?;
            // NaN counts as the worst.
            if relative.is_nan() || relative > row.relative || row.worst.is_empty() {
                row.relative = relative;
                row.absolute = largest(&(other - tensor)?)?;
                row.worst.clone_from(name);
            }
            if let Some(same_type) = on_cpu.and_then(|computed| of_name(computed, name)) {
                let relative = deviation(name, other, same_type, least)?;
                let so_far = row.from_cpu.unwrap_or(0.0);
                row.from_cpu = Some(if relative <= so_far { so_far } else { relative });
            }
        }
        if row.tensors > 0 || row.error.is_some() {
            let within = |value: f64| value <= row.tolerance;
            row.agrees =
                row.error.is_none() && within(row.relative) && row.from_cpu.is_none_or(within);
            rows.push(row);
        }
    }
    Ok(())
}

fn of_name<'a>(computed: &'a Computed, name: &str) -> Option<&'a Tensor> {
    computed.tensors.iter().find(|(_, other, _)| other == name).map(|(.., tensor)| tensor)
}

fn norm(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
}

fn largest(tensor: &Tensor) -> Result<f64> {
    if tensor.elem_count() == 0 {
        return Ok(0.0);
    }
    Ok(tensor.abs()?.flatten_all()?.max_all()?.to_scalar::<f64>()?)
}

fn largest_norm(computed: &Computed, kind: What) -> Result<f64> {
    let mut most = 0.0f64;
    for (_, _, tensor) in computed.tensors.iter().filter(|(what, ..)| *what == kind) {
        most = most.max(norm(tensor)?);
    }
    Ok(most)
}

/// Norm of the difference over the norm of what is expected, `least` at least. Of dL/dh_t, which fades over
/// many orders of magnitude, the worst step.
fn deviation(name: &str, found: &Tensor, expected: &Tensor, least: f64) -> Result<f64> {
    if found.dims() != expected.dims() {
        return Err(Error::shape(name, found.dims(), format!("{:?}", expected.dims())));
    }
    if name != "grad_h" {
        let scale = norm(expected)?.max(least).max(f64::MIN_POSITIVE);
        return Ok(norm(&(found - expected)?)? / scale);
    }
    let mut worst = 0.0f64;
    for step in 0..expected.dim(1)? {
        let (found, expected) = (found.narrow(1, step, 1)?, expected.narrow(1, step, 1)?);
        // Squares of 1e-200 would be none.
        let scale = largest(&expected)?.max(f64::MIN_POSITIVE);
        let difference = norm(&((found - &expected)? / scale)?)?;
        let relative = difference / norm(&(expected / scale)?)?;
        worst = if relative <= worst { worst } else { relative };
    }
    Ok(worst)
}

const ALL_FORMS: &[Form] = &[Form::Auto, Form::Reference, Form::Unrolled];
const WHOLE: &[Form] = &[Form::Auto, Form::Reference];

/// Everything that is compared; `quick`: in small shapes alone.
fn cases(quick: bool) -> Result<Vec<Case>> {
    let mut cases = vectors::cases()?;
    let plain = |batch, steps| Extent { batch, steps, padded: false, carried: false };
    let padded = |batch, steps| Extent { padded: true, ..plain(batch, steps) };
    let carried = |batch, steps| Extent { carried: true, ..plain(batch, steps) };
    let middle = Sizes { inputs: 20, hidden: 48, heads: 4, window: 9, longest: 64 };
    // A row at a time, the sizes of usual models, and those at which a GPU has to split a layer.
    let large = [(1, 40, 128, 256), (16, 24, 64, 128), (64, 10, 32, 512), (3, 8, 100, 1024)];
    for architecture in registry::architectures() {
        let mut add = |options, extent, forms| {
            let work = Work::Sequence;
            cases.push(Case { architecture, options, extent, work, forms, vectors: None });
        };
        for options in variants::of_sequences(architecture, SMALL) {
            let drops = options.iter().any(|(key, value)| {
                key.contains("dropout") && value.as_f64().is_some_and(|share| share > 0.0)
            });
            add(options.clone(), plain(3, 7), if drops { WHOLE } else { ALL_FORMS });
            add(options.clone(), padded(4, 9), WHOLE);
            add(options, carried(2, 5), WHOLE);
        }
        if quick {
            continue;
        }
        for options in variants::of_sequences(architecture, middle) {
            add(options, padded(6, 33), WHOLE);
        }
        for (batch, steps, inputs, hidden) in large {
            let sizes = Sizes { inputs, hidden, heads: 4, window: 16, longest: 64 };
            let most = if ["rnn", "gru", "lstm"].contains(&architecture.name()) { 9 } else { 1 };
            for options in variants::of_sequences(architecture, sizes).into_iter().take(most) {
                add(options, plain(batch, steps), &[Form::Auto]);
            }
        }
    }
    for architecture in unroll_attention::PAIR_ARCHITECTURES.iter().copied() {
        let sizes = if quick { vec![SMALL] } else { vec![SMALL, middle] };
        for sizes in sizes {
            for options in variants::of_pairs(architecture, sizes) {
                let (work, forms, vectors) = (Work::Pair, WHOLE, None);
                cases.push(Case {
                    architecture,
                    options,
                    extent: padded(4, 6),
                    work,
                    forms,
                    vectors,
                });
            }
        }
    }
    for architecture in unroll_attention::FUSION_ARCHITECTURES.iter().copied() {
        let sizes = if quick { vec![SMALL] } else { vec![SMALL, middle] };
        for sizes in sizes {
            for options in variants::of_fusions(architecture, sizes, 3) {
                let (work, forms, vectors) = (Work::Fusion { second_inputs: 3 }, WHOLE, None);
                cases.push(Case {
                    architecture,
                    options,
                    extent: padded(4, 6),
                    work,
                    forms,
                    vectors,
                });
            }
        }
    }
    Ok(cases)
}
