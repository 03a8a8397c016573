//! One self-attention layer of any kind: projections, heads, memory.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use unroll_core::architecture::{require_positive, require_probability};
use unroll_core::{
    AttentionLayout, BuildContext, Cost, Error, Form, ForwardArgs, Lengths, Mode, ParameterSet,
    Result, State, StateTensor, Visibility,
};

use crate::linear::{self, Features, LINEAR_BLOCK, Sums};
use crate::memory::{self, Memory, MemoryLayout};
use crate::pattern::{self, Pattern, Plan, Visible};
use crate::positions::Rotation;
use crate::projections::Projections;
use crate::softmax::{self, QUERY_BLOCK, SOFTMAX_FLOPS, WeightDropout, scaled_dot_product};

/// Kind of self-attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Scaled dot-product attention over all steps, or all earlier ones (Vaswani 2017).
    #[default]
    Mha,
    /// The same over the last `window` steps: key `j` is visible to query `i` when
    /// `0 <= i - j < window`. Always causal.
    Local,
    /// Linear attention with `phi = elu + 1` (Katharopoulos 2020).
    Linear,
}

/// What makes a self-attention layer, apart from its input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SelfAttentionConfig {
    pub(crate) kind: Kind,
    pub(crate) hidden_size: usize,
    pub(crate) num_heads: usize,
    pub(crate) bias: bool,
    pub(crate) causal: bool,
    pub(crate) window: usize,
    pub(crate) attention_dropout: f64,
}

impl SelfAttentionConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        require_positive("hidden_size", self.hidden_size)?;
        require_positive("num_heads", self.num_heads)?;
        require_probability("attention_dropout", self.attention_dropout)?;
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            return Err(Error::option(
                "num_heads",
                format!("{} does not divide hidden_size {}", self.num_heads, self.hidden_size),
            ));
        }
        match self.kind {
            Kind::Mha => Ok(()),
            Kind::Local if !self.causal => {
                Err(Error::option("causal", "a sliding window looks back: must be true"))
            }
            Kind::Local => require_positive("window", self.window),
            Kind::Linear if self.attention_dropout > 0.0 => Err(Error::option(
                "attention_dropout",
                "linear attention has no weights to drop: must be 0",
            )),
            Kind::Linear => Ok(()),
        }
    }

    pub(crate) fn head_size(&self) -> usize {
        // None at all is refused when a model is built; its cost can be asked for all the same.
        self.hidden_size / self.num_heads.max(1)
    }

    /// Which keys a query sees; `None` for linear attention, which has no keys left to see.
    pub(crate) fn pattern(&self) -> Option<Pattern> {
        match self.kind {
            Kind::Linear => None,
            Kind::Local => Some(Pattern::Window(self.window)),
            Kind::Mha if self.causal => Some(Pattern::Causal),
            Kind::Mha => Some(Pattern::Full),
        }
    }

    /// Which steps a query sees, through keys or through sums.
    pub(crate) fn visibility(&self) -> Visibility {
        match self.pattern() {
            Some(pattern) => pattern.into(),
            None if self.causal => Visibility::Past,
            None => Visibility::All,
        }
    }

    /// How the weights of `layers` such layers are to be read.
    pub(crate) fn layout(&self, layers: usize) -> AttentionLayout {
        AttentionLayout { layers, heads: self.num_heads, visibility: self.visibility() }
    }

    /// Hops from `distance` steps earlier through at most `layers` such layers.
    pub(crate) fn path_length(&self, distance: usize, layers: usize) -> Option<usize> {
        self.visibility().hops(distance).filter(|&hops| hops <= layers)
    }

    /// Sizes of the memories of `layers` such layers.
    pub(crate) fn memory(&self, layers: usize) -> MemoryLayout {
        MemoryLayout {
            layers,
            heads: self.num_heads,
            head_size: self.head_size(),
            pattern: self.pattern(),
        }
    }

    /// Cost of one layer. Counted are the projections and every score that is computed: blocks of
    /// queries compute some that the mask then hides (128 queries per block when causal).
    pub(crate) fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        let (batch, rows) = (batch as u64, (batch * seq_len) as u64);
        let (hidden, heads) = (self.hidden_size as u64, self.num_heads as u64);
        let head_size = self.head_size() as u64;
        let (core, kept) = match self.pattern() {
            Some(pattern) => {
                let pairs = batch * heads * pattern::pairs(pattern, seq_len, QUERY_BLOCK);
                // Two products of the head size per score; scores and weights are kept.
                (pairs * (4 * head_size + SOFTMAX_FLOPS), 2 * pairs)
            }
            None => {
                let flops = linear::flops(self.causal, seq_len, head_size);
                let scores = if self.causal { LINEAR_BLOCK.min(seq_len) as u64 } else { 0 };
                (batch * heads * flops, rows * heads * (scores + head_size))
            }
        };
        let state_elements =
            if self.causal { self.memory(1).elements(batch as usize, seq_len) } else { 0 };
        let core = Cost {
            parameters: 0,
            forward_flops: core,
            backward_flops: 2 * core,
            state_elements,
            activation_elements: rows * hidden + kept,
        };
        Projections::cost(rows, hidden, self.bias) + core
    }
}

/// What the layers of one forward pass share.
pub(crate) struct Pass<'a> {
    core: Core,
    /// `(B, T)`: 1 on real steps; `None` when all are.
    pub(crate) real: Option<Tensor>,
    pub(crate) rotation: Option<Rotation>,
    pub(crate) mode: Mode<'a>,
    attention: bool,
    causal: bool,
    /// Whether operations around the attention may be fused.
    pub(crate) fused: bool,
    /// New steps after which all sequences end (`T` when they end at different ones).
    end: usize,
    cached: usize,
}

enum Core {
    Softmax(Softmax),
    Linear,
}

/// How a softmax attention runs.
enum Softmax {
    /// Block by block, in plain tensor operations.
    Reference(Plan),
    /// As one operation.
    Fused(Visible),
}

impl<'a> Pass<'a> {
    /// Plans a forward pass over `seq_len` steps after `steps` earlier ones.
    pub(crate) fn new(
        config: &SelfAttentionConfig,
        args: &ForwardArgs<'a>,
        (steps, seq_len): (usize, usize),
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let cached = config.pattern().map_or(0, |pattern| pattern.cached(steps));
        let fused = softmax::may_fuse(args.form, dtype, device);
        let attends = softmax::may_attend(args.form, dtype, device, config.head_size());
        let drops = matches!(args.mode, Mode::Train(_)) && config.attention_dropout > 0.0;
        let core = match config.pattern() {
            // The weights exist only in the reference form.
            Some(pattern) if attends && !drops && !args.attention => {
                Core::Softmax(Softmax::Fused(Visible::new(pattern, cached, args.lengths)))
            }
            Some(pattern) => Core::Softmax(Softmax::Reference(Plan::new(
                pattern,
                (cached, seq_len, QUERY_BLOCK),
                args.lengths,
                dtype,
                device,
            )?)),
            None => Core::Linear,
        };
        Ok(Self {
            core,
            real: real_steps(args.lengths, seq_len, dtype, device)?,
            rotation: None,
            mode: args.mode,
            attention: args.attention,
            causal: config.causal,
            fused,
            end: memory::common_length(args.lengths, seq_len).unwrap_or(seq_len),
            cached,
        })
    }

    /// Whether the attention runs as one operation.
    pub(crate) fn fuses_attention(&self) -> bool {
        matches!(self.core, Core::Softmax(Softmax::Fused(_)))
    }

    /// What ran in a block of norms, maps and attention. On GPUs only the attention is one operation.
    pub(crate) fn form(&self) -> &'static str {
        match (self.fused, self.fuses_attention()) {
            (true, _) => "fused",
            (false, true) => "fused attention",
            (false, false) => "reference",
        }
    }

    /// `x` `(B, T, H)` with zeros on padding.
    pub(crate) fn hide_padding(&self, x: Tensor) -> Result<Tensor> {
        match &self.real {
            Some(real) => Ok(x.broadcast_mul(&real.unsqueeze(2)?)?),
            None => Ok(x),
        }
    }
}

/// `(B, T)` of 1 and 0, or `None` when no step is padding.
pub(crate) fn real_steps(
    lengths: Option<&Lengths>,
    seq_len: usize,
    dtype: DType,
    device: &Device,
) -> Result<Option<Tensor>> {
    match lengths {
        Some(lengths) if lengths.as_slice().iter().any(|&l| l < seq_len) => {
            Ok(Some(lengths.mask(seq_len, dtype, device)?))
        }
        _ => Ok(None),
    }
}

/// What a layer gives.
pub(crate) struct LayerOutput {
    /// `(B, T, H)`; not zero on padding.
    pub(crate) output: Tensor,
    /// What the next steps need, when the layer is causal.
    pub(crate) memory: Option<Memory>,
    /// `(B, N, T, S)` when asked for.
    pub(crate) weights: Option<Tensor>,
}

/// A self-attention layer with its parameters.
#[derive(Debug, Clone)]
pub(crate) struct SelfAttention {
    config: SelfAttentionConfig,
    projections: Projections,
    /// Name of the layer's dropout stream.
    dropout_name: String,
}

impl SelfAttention {
    /// Adds the layer's parameters with `prefix` before their names.
    pub(crate) fn new(
        config: SelfAttentionConfig,
        parameters: &mut ParameterSet,
        prefix: &str,
        context: &BuildContext,
    ) -> Result<Self> {
        let sizes = (config.hidden_size, config.num_heads);
        let projections = Projections::new(parameters, prefix, sizes, config.bias, context)?;
        Ok(Self { config, projections, dropout_name: format!("{prefix}attention_dropout") })
    }

    pub(crate) fn config(&self) -> &SelfAttentionConfig {
        &self.config
    }

    /// The layer over `x` `(B, T, H)`.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        memory: Option<&Memory>,
        pass: &Pass<'_>,
    ) -> Result<LayerOutput> {
        let past = match memory {
            Some(Memory::Cache(Some(past))) => Some(past),
            _ => None,
        };
        if let (Core::Softmax(Softmax::Fused(visible)), None, None) =
            (&pass.core, past, &pass.rotation)
        {
            return self.packed(x, visible, pass);
        }
        let parts = self.projections.split(x)?;
        let (context, memory, weights) = match &pass.core {
            Core::Softmax(core) => self.softmax(parts, past, core, pass)?,
            Core::Linear => {
                let start = match memory {
                    Some(Memory::Sums(sums)) => Some(sums),
                    _ => None,
                };
                self.linear(parts, start, pass)?
            }
        };
        Ok(LayerOutput { output: self.projections.merge(&context)?, memory, weights })
    }

    /// The fused attention over new steps alone, straight from the packed projection.
    fn packed(&self, x: &Tensor, visible: &Visible, pass: &Pass<'_>) -> Result<LayerOutput> {
        let packed = self.projections.packed(x)?;
        let (heads, scale) = (self.config.num_heads, softmax::scale(self.config.head_size()));
        let lengths = visible.lengths.as_deref();
        let joined = unroll_kernels::self_attention(&packed, heads, scale, visible.mask, lengths)?;
        let memory = if pass.causal {
            let (keys, values) = self.projections.views(&packed)?;
            self.remember(&keys, &values, pass)?
        } else {
            None
        };
        Ok(LayerOutput { output: self.projections.merge_packed(&joined)?, memory, weights: None })
    }

    /// What later steps need of all keys and values so far `(B, N, S, d)`.
    fn remember(&self, keys: &Tensor, values: &Tensor, pass: &Pass<'_>) -> Result<Option<Memory>> {
        let Some(pattern) = self.config.pattern().filter(|_| pass.causal) else { return Ok(None) };
        let end = pass.cached + pass.end;
        let keep = pattern.cached(end);
        let cut = |all: &Tensor| memory::entries_before(all, 2, end, keep);
        let cache = (keep > 0).then(|| -> Result<_> { Ok((cut(keys)?, cut(values)?)) });
        Ok(Some(Memory::Cache(cache.transpose()?)))
    }

    fn softmax(
        &self,
        (queries, keys, values): (Tensor, Tensor, Tensor),
        past: Option<&(Tensor, Tensor)>,
        core: &Softmax,
        pass: &Pass<'_>,
    ) -> Result<(Tensor, Option<Memory>, Option<Tensor>)> {
        let (queries, keys) = match &pass.rotation {
            Some(rotation) => (rotation.apply(&queries)?, rotation.apply(&keys)?),
            None => (queries, keys),
        };
        let keys = memory::with_past(past.map(|p| &p.0), &keys, 2)?;
        let values = memory::with_past(past.map(|p| &p.1), &values, 2)?;
        let stream = match pass.mode {
            Mode::Train(stream) if self.config.attention_dropout > 0.0 => {
                Some(stream.child(&self.dropout_name))
            }
            _ => None,
        };
        let probability = self.config.attention_dropout;
        let dropout = stream.as_ref().map(|stream| WeightDropout { probability, stream });
        let tensors = (&queries, &keys, &values);
        let scale = softmax::scale(self.config.head_size());
        let (context, weights) = match core {
            Softmax::Fused(visible) => (softmax::attend_fused(tensors, visible, scale)?, None),
            Softmax::Reference(plan) => {
                let score = scaled_dot_product;
                let attended = softmax::attend(tensors, plan, dropout, pass.attention, score)?;
                (attended.context, attended.weights)
            }
        };
        Ok((context, self.remember(&keys, &values, pass)?, weights))
    }

    fn linear(
        &self,
        (queries, keys, values): (Tensor, Tensor, Tensor),
        start: Option<&Sums>,
        pass: &Pass<'_>,
    ) -> Result<(Tensor, Option<Memory>, Option<Tensor>)> {
        let seq_len = queries.dim(2)?;
        let features =
            features(&queries, &keys, values, pass.real.as_ref(), pass.rotation.as_ref())?;
        if !pass.causal {
            let attended = linear::global(&features, start, pass.attention)?;
            return Ok((attended.context, None, attended.weights));
        }
        // One step takes the recurrent form, which is the definition.
        if let (Some(sums), 1, false) = (start, seq_len, pass.attention) {
            let (context, sums) = linear::step(&features, sums)?;
            return Ok((context, Some(Memory::Sums(sums)), None));
        }
        let (attended, sums) = linear::causal(&features, start, pass.attention)?;
        Ok((attended.context, Some(Memory::Sums(sums)), attended.weights))
    }

    /// The layer's output at each sequence's last real step alone, `(B, 1, H)`, where `query`
    /// `(B, 1, H)` is the input at that step and `x` `(B, T, H)` the whole input.
    pub(crate) fn last(
        &self,
        x: &Tensor,
        query: &Tensor,
        lengths: Option<&Lengths>,
        memory: Option<&Memory>,
        steps: usize,
        form: Form,
    ) -> Result<Tensor> {
        let seq_len = x.dim(1)?;
        let (dtype, device) = (x.dtype(), x.device());
        let queries = self.projections.queries(query)?;
        let (keys, values) = self.projections.keys_and_values(x)?;
        let context = match self.config.pattern() {
            Some(pattern) => {
                let past = match memory {
                    Some(Memory::Cache(Some(past))) => Some(past),
                    _ => None,
                };
                let keys = memory::with_past(past.map(|p| &p.0), &keys, 2)?;
                let values = memory::with_past(past.map(|p| &p.1), &values, 2)?;
                let sizes = (pattern.cached(steps), seq_len);
                let tensors = (&queries, &keys, &values);
                let head_size = self.config.head_size();
                let visible = Visible::last(pattern, sizes, lengths)
                    .filter(|_| softmax::may_attend(form, dtype, device, head_size));
                match visible {
                    Some(visible) => {
                        let scale = softmax::scale(self.config.head_size());
                        softmax::attend_fused(tensors, &visible, scale)?
                    }
                    None => {
                        let plan = Plan::last(pattern, sizes, lengths, dtype, device)?;
                        softmax::attend(tensors, &plan, None, false, scaled_dot_product)?.context
                    }
                }
            }
            None => {
                let start = match memory {
                    Some(Memory::Sums(sums)) => Some(sums),
                    _ => None,
                };
                let real = real_steps(lengths, seq_len, dtype, device)?;
                let features = features(&queries, &keys, values, real.as_ref(), None)?;
                linear::global(&features, start, false)?.context
            }
        };
        self.projections.merge(&context)
    }
}

/// Features of linear attention from projected heads; keys are zero on padding.
fn features(
    queries: &Tensor,
    keys: &Tensor,
    values: Tensor,
    real: Option<&Tensor>,
    rotation: Option<&Rotation>,
) -> Result<Features> {
    let plain_queries = linear::feature_map(queries)?;
    let mut plain_keys = linear::feature_map(keys)?;
    if let Some(real) = real {
        plain_keys = plain_keys.broadcast_mul(&real.unsqueeze(1)?.unsqueeze(3)?)?;
    }
    let rotate = |x: &Tensor| match rotation {
        Some(rotation) => rotation.apply(x),
        None => Ok(x.clone()),
    };
    Ok(Features {
        queries: rotate(&plain_queries)?,
        keys: rotate(&plain_keys)?,
        plain_queries,
        plain_keys,
        values,
    })
}

/// The memories that a causal stack starts from: those of `state`, or nothing.
///
/// # Errors
/// When the state does not fit, or the stack is not causal and the state has a past.
pub(crate) fn memories(
    layout: &MemoryLayout,
    causal: bool,
    state: Option<&State>,
    batch: usize,
) -> Result<Vec<Option<Memory>>> {
    match state {
        Some(state) if causal => Ok(layout.unpack(state, batch)?.into_iter().map(Some).collect()),
        Some(state) if state.steps() > 0 => Err(not_causal()),
        _ => Ok(vec![None; layout.layers]),
    }
}

/// The error of models that see later steps.
pub(crate) fn not_causal() -> Error {
    Error::Unsupported(
        "attention without a causal mask reads the whole sequence: it has no step and no state to \
         carry on; set causal = true"
            .into(),
    )
}

/// The state after a pass: its tensors, marked when the sequences end at different steps and the
/// model cannot go on from there.
pub(crate) fn state_after(
    mut tensors: Vec<StateTensor>,
    (steps, seq_len): (usize, usize),
    lengths: Option<&Lengths>,
    has_positions: bool,
    dtype: DType,
    device: &Device,
) -> Result<State> {
    let common = memory::common_length(lengths, seq_len);
    if let (None, Some(lengths), true) = (common, lengths, has_positions && !tensors.is_empty()) {
        tensors.push(memory::ragged_mark(lengths, dtype, device)?);
    }
    Ok(State::new(tensors, steps + common.unwrap_or(seq_len)))
}
