//! Writing answers symbol by symbol: greedy and beam search.

use std::cmp::Ordering;

use candle_core::{D, DType, Tensor};
use unroll_core::pair::{Encoded, PairModel, select_state};
use unroll_core::{Error as ModelError, State};
use unroll_tasks::{Batch, InputKind, Inputs, PairInputs, Search, Targets};

use crate::{Error, Result, TaskModel, TensorBatch};

/// An answer that is being written, or is finished.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// Its symbols, without begin and end.
    pub symbols: Vec<u32>,
    /// Sum of the natural logarithms of their probabilities, its end's included once it has one.
    pub ln_probability: f64,
}

/// The best answer to each source of a batch that the search finds: of those that ended within `longest`
/// symbols the one that ranks highest, else the highest ranked of those that did not.
///
/// Beams hold the `beam` likeliest unfinished beginnings at each step; the search for a source is over
/// when no unfinished one can rank above the best finished one any more, as far as a longer answer is no
/// likelier. Of equals the smaller symbol comes first.
///
/// # Errors
/// When the model does not go from one sequence to another.
pub fn decode(
    model: &TaskModel,
    batch: &TensorBatch,
    search: Search,
    longest: usize,
) -> Result<Vec<Hypothesis>> {
    let model = model.for_inference();
    let (Some(body), InputKind::Pairs { begin, end, .. }) = (model.pair(), model.shape().input)
    else {
        let message = "only models from one sequence to another write answers";
        return Err(Error::Model(ModelError::Unsupported(message.into())));
    };
    let encoded = model.encode(body, batch)?;
    let sources = encoded.states.dim(0)?;
    let mut beams: Vec<Beam> = (0..sources).map(|_| Beam::new()).collect();
    let mut active = Active::new(&encoded, sources, begin);
    for _ in 0..longest {
        let (logits, state) = active.step(model, body)?;
        let rows = ln_softmax(&logits)?;
        let mut kept = Vec::new();
        for (source, beam) in beams.iter_mut().enumerate() {
            let own = active.rows_of(source);
            let chosen = beam.extend(&own, &rows, search, end);
            kept.extend(chosen.into_iter().map(|(row, hypothesis)| (source, row, hypothesis)));
        }
        if kept.is_empty() {
            active.rows.clear();
            break;
        }
        active = active.next(&encoded, &state, kept)?;
    }
    for row in active.rows {
        beams[row.source].unfinished.push(row.hypothesis);
    }
    Ok(beams.into_iter().map(|beam| beam.best(search)).collect())
}

/// What a model looks at while it writes given answers to the sources of a batch: for each, a row of
/// weights over its real source steps for each symbol and for the end, the mean over heads. `None` for
/// models that do not attend.
///
/// # Errors
/// When the batch is none of pairs, or there is not one answer for each source.
pub fn attention_along(
    model: &TaskModel,
    batch: &Batch,
    answers: &[Vec<u32>],
) -> Result<Option<Vec<Vec<Vec<f64>>>>> {
    let (Inputs::Pairs(pairs), InputKind::Pairs { begin, end, .. }) =
        (&batch.inputs, model.shape().input)
    else {
        return Ok(None);
    };
    if answers.len() != batch.batch_size {
        let message = format!("{} answers to {} sources", answers.len(), batch.batch_size);
        return Err(Error::Batch { task: model.shape().name.clone(), message });
    }
    let seq_len = 1 + answers.iter().map(Vec::len).max().unwrap_or(0);
    let padded = |row: Vec<u32>| {
        let rest = seq_len - row.len();
        row.into_iter().chain(std::iter::repeat_n(end, rest))
    };
    let given = answers.iter().flat_map(|answer| padded([&[begin], &answer[..]].concat()));
    let right = answers.iter().flat_map(|answer| padded(answer.clone()));
    let forced = Batch {
        batch_size: batch.batch_size,
        seq_len,
        inputs: Inputs::Pairs(Box::new(PairInputs {
            target: given.collect(),
            ..(**pairs).clone()
        })),
        targets: Targets::Classes(right.collect()),
        weights: None,
        lengths: Some(answers.iter().map(|answer| answer.len() + 1).collect()),
        continues: false,
    };
    let Some(weights) = model.cross_attention(&model.tensors(&forced)?)? else { return Ok(None) };
    let weights: Vec<Vec<Vec<f64>>> = weights.mean(1)?.to_dtype(DType::F64)?.to_vec3()?;
    let real =
        |row: usize| pairs.source_lengths.as_ref().map_or(pairs.source_len, |lengths| lengths[row]);
    let rows = weights.into_iter().zip(answers).enumerate().map(|(row, (weights, answer))| {
        let steps = weights.into_iter().take(answer.len() + 1);
        steps.map(|step| step.into_iter().take(real(row)).collect()).collect()
    });
    Ok(Some(rows.collect()))
}

/// A beginning that is looked at further, and where its state lies.
struct Row {
    source: usize,
    last: u32,
    hypothesis: Hypothesis,
}

/// All beginnings of all sources: one batch.
struct Active {
    rows: Vec<Row>,
    encoded: Encoded,
    state: State,
}

impl Active {
    fn new(encoded: &Encoded, sources: usize, begin: u32) -> Self {
        let empty = Hypothesis { symbols: Vec::new(), ln_probability: 0.0 };
        let rows =
            (0..sources).map(|source| Row { source, last: begin, hypothesis: empty.clone() });
        Self { rows: rows.collect(), encoded: encoded.clone(), state: encoded.state.clone() }
    }

    fn step(&self, model: &TaskModel, body: &dyn PairModel) -> Result<(Tensor, State)> {
        let tokens: Vec<u32> = self.rows.iter().map(|row| row.last).collect();
        model.next_symbols(body, &tokens, &self.encoded, &self.state)
    }

    fn rows_of(&self, source: usize) -> Vec<(usize, &Hypothesis)> {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, row)| row.source == source).map(|(i, row)| (i, &row.hypothesis)).collect()
    }

    /// The chosen beginnings, with their sources and states.
    fn next(
        &self,
        all: &Encoded,
        state: &State,
        kept: Vec<(usize, usize, Hypothesis)>,
    ) -> Result<Self> {
        let device = all.states.device();
        let index = |of: fn(&(usize, usize, Hypothesis)) -> usize| -> Result<Tensor> {
            let rows: Vec<u32> = kept.iter().map(|one| of(one) as u32).collect();
            Ok(Tensor::from_vec(rows, kept.len(), device)?)
        };
        let sources: Vec<usize> = kept.iter().map(|&(source, ..)| source).collect();
        // Copying the encoder's states is most of the work where all rows stay.
        let same = sources.iter().eq(self.rows.iter().map(|row| &row.source));
        let encoded =
            if same { self.encoded.clone() } else { all.select(&index(|&(source, ..)| source)?)? };
        let state = select_state(state, &index(|&(_, row, _)| row)?)?;
        let rows = kept.into_iter().map(|(source, _, hypothesis)| Row {
            source,
            last: hypothesis.symbols.last().copied().unwrap_or_default(),
            hypothesis,
        });
        Ok(Self { rows: rows.collect(), encoded, state })
    }
}

/// What was found for one source.
struct Beam {
    finished: Option<(f64, Hypothesis)>,
    unfinished: Vec<Hypothesis>,
}

impl Beam {
    fn new() -> Self {
        Self { finished: None, unfinished: Vec::new() }
    }

    /// The likeliest continuations of a source's beginnings, those that end taken out: the row that each
    /// goes on from.
    fn extend(
        &mut self,
        own: &[(usize, &Hypothesis)],
        rows: &[Vec<f64>],
        search: Search,
        end: u32,
    ) -> Vec<(usize, Hypothesis)> {
        let mut all: Vec<(f64, usize, u32)> = Vec::new();
        for (place, (row, hypothesis)) in own.iter().enumerate() {
            let continued = rows[*row].iter().zip(0u32..);
            all.extend(
                continued.map(|(ln, symbol)| (hypothesis.ln_probability + ln, place, symbol)),
            );
        }
        // Two for each place: half of them may be ends.
        let most = (2 * search.beam).min(all.len());
        let order = |a: &(f64, usize, u32), b: &(f64, usize, u32)| {
            b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
        };
        if most > 0 && most < all.len() {
            all.select_nth_unstable_by(most - 1, order);
            all.truncate(most);
        }
        all.sort_by(order);
        let mut kept = Vec::new();
        for (rank, (ln_probability, place, symbol)) in all.into_iter().enumerate() {
            let (row, hypothesis) = own[place];
            let mut symbols = hypothesis.symbols.clone();
            if symbol == end {
                // An end outside the beam would not have been looked at.
                if rank < search.beam {
                    self.finish(Hypothesis { symbols, ln_probability }, search);
                }
            } else if kept.len() < search.beam {
                symbols.push(symbol);
                kept.push((row, Hypothesis { symbols, ln_probability }));
            }
        }
        if self.is_over(&kept, search) { Vec::new() } else { kept }
    }

    fn finish(&mut self, hypothesis: Hypothesis, search: Search) {
        let rank = search.rank(hypothesis.ln_probability, hypothesis.symbols.len() + 1);
        let better = |(best, _): &(f64, Hypothesis)| {
            rank.partial_cmp(best).is_some_and(|order| order == Ordering::Greater)
        };
        if self.finished.as_ref().is_none_or(better) {
            self.finished = Some((rank, hypothesis));
        }
    }

    fn is_over(&self, kept: &[(usize, Hypothesis)], search: Search) -> bool {
        let Some((best, _)) = &self.finished else { return false };
        // Greedy: the end was the likeliest symbol.
        search.beam == 1
            || kept
                .iter()
                .all(|(_, one)| search.rank(one.ln_probability, one.symbols.len() + 1) <= *best)
    }

    fn best(self, search: Search) -> Hypothesis {
        if let Some((_, finished)) = self.finished {
            return finished;
        }
        let rank = |one: &Hypothesis| search.rank(one.ln_probability, one.symbols.len());
        let mut unfinished = self.unfinished.into_iter();
        let first = unfinished.next();
        let empty = || Hypothesis { symbols: Vec::new(), ln_probability: f64::NEG_INFINITY };
        let first = first.unwrap_or_else(empty);
        unfinished.fold(first, |best, one| if rank(&one) > rank(&best) { one } else { best })
    }
}

/// Natural logarithms of the probabilities of logits `(R, O)`.
fn ln_softmax(logits: &Tensor) -> Result<Vec<Vec<f64>>> {
    let logits = logits.to_dtype(DType::F64)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let normaliser = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok(shifted.broadcast_sub(&normaliser)?.to_vec2()?)
}
