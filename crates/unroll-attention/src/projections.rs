//! The linear maps around multi-head attention, under the names of PyTorch's `MultiheadAttention`.

use candle_core::Tensor;
use unroll_core::parameters::Role;
use unroll_core::{BuildContext, Cost, ParameterSet, Result, cost, ops};

/// `x W^T + b`, as one operation when there is a bias and the device has it.
fn fused_linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) if unroll_kernels::supports(x.device(), x.dtype()) => {
            Ok(unroll_kernels::linear(x, weight, bias)?)
        }
        bias => ops::linear(x, weight, bias),
    }
}

/// `in_proj_weight` `(3H, H)`, `in_proj_bias` `(3H,)`, `out_proj.weight` `(H, H)`, `out_proj.bias`
/// `(H,)`. Biases start at 0, the packed weight Xavier-uniform, as in PyTorch.
#[derive(Debug, Clone)]
pub(crate) struct Projections {
    in_weight: Tensor,
    in_bias: Option<Tensor>,
    out_weight: Tensor,
    out_bias: Option<Tensor>,
    hidden_size: usize,
    num_heads: usize,
}

impl Projections {
    /// Adds the parameters, with `prefix` before their names.
    pub(crate) fn new(
        parameters: &mut ParameterSet,
        prefix: &str,
        (hidden_size, num_heads): (usize, usize),
        bias: bool,
        context: &BuildContext,
    ) -> Result<Self> {
        let mut add = |name: &str, shape: &[usize], role| {
            parameters.add(format!("{prefix}{name}"), shape, role, context)
        };
        let packed = Role::PackedWeight { blocks: 3 };
        let in_weight = add("in_proj_weight", &[3 * hidden_size, hidden_size], packed)?;
        let in_bias = bias.then(|| add("in_proj_bias", &[3 * hidden_size], Role::Zero));
        let in_bias = in_bias.transpose()?;
        let out_weight = add("out_proj.weight", &[hidden_size, hidden_size], Role::Weight)?;
        let out_bias = bias.then(|| add("out_proj.bias", &[hidden_size], Role::Zero));
        let out_bias = out_bias.transpose()?;
        Ok(Self { in_weight, in_bias, out_weight, out_bias, hidden_size, num_heads })
    }

    /// Queries, keys and values `(B, N, T, d)` of `x` `(B, T, H)`.
    pub(crate) fn split(&self, x: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let parts = self.project(x, 0, 3)?;
        Ok((parts.get(0)?, parts.get(1)?, parts.get(2)?))
    }

    /// Queries, keys and values of all heads `(B, T, 3H)`, as the fused attention reads them.
    pub(crate) fn packed(&self, x: &Tensor) -> Result<Tensor> {
        fused_linear(x, &self.in_weight, self.in_bias.as_ref())
    }

    /// Keys and values `(B, N, T, d)` as views of [`packed`](Self::packed).
    pub(crate) fn views(&self, packed: &Tensor) -> Result<(Tensor, Tensor)> {
        let (batch, seq_len, hidden) = packed.dims3()?;
        let head_size = hidden / (3 * self.num_heads);
        let parts = packed.reshape((batch, seq_len, 3, self.num_heads, head_size))?;
        let part = |index| parts.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2);
        Ok((part(1)?, part(2)?))
    }

    /// Queries alone.
    pub(crate) fn queries(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.project(x, 0, 1)?.get(0)?)
    }

    /// Keys and values alone.
    pub(crate) fn keys_and_values(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let parts = self.project(x, 1, 2)?;
        Ok((parts.get(0)?, parts.get(1)?))
    }

    /// `(parts, B, N, T, d)` from blocks `first..first + parts` of the packed projection.
    fn project(&self, x: &Tensor, first: usize, parts: usize) -> Result<Tensor> {
        let (batch, seq_len, hidden) = x.dims3()?;
        let (start, rows) = (first * hidden, parts * hidden);
        let weight = self.in_weight.narrow(0, start, rows)?;
        let bias = self.in_bias.as_ref().map(|b| b.narrow(0, start, rows)).transpose()?;
        let head_size = hidden / self.num_heads;
        let heads = ops::linear(x, &weight, bias.as_ref())?
            .reshape((batch, seq_len, parts, self.num_heads, head_size))?
            .permute((2, 0, 3, 1, 4))?;
        Ok(heads.contiguous()?)
    }

    /// Joins the heads of `(B, N, T, d)` to `(B, T, H)` and maps them through `out_proj`.
    pub(crate) fn merge(&self, heads: &Tensor) -> Result<Tensor> {
        let (batch, _, seq_len, _) = heads.dims4()?;
        let joined = heads.transpose(1, 2)?.reshape((batch, seq_len, self.hidden_size))?;
        ops::linear(&joined, &self.out_weight, self.out_bias.as_ref())
    }

    /// Maps what the fused attention gives, `(B, T, H)`, through `out_proj`.
    pub(crate) fn merge_packed(&self, joined: &Tensor) -> Result<Tensor> {
        fused_linear(joined, &self.out_weight, self.out_bias.as_ref())
    }

    /// Cost of the maps over `rows` steps.
    pub(crate) fn cost(rows: u64, hidden_size: u64, bias: bool) -> Cost {
        cost::linear(rows, hidden_size, 3 * hidden_size, bias)
            + cost::linear(rows, hidden_size, hidden_size, bias)
    }
}
