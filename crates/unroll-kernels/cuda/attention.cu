// Attention in tiles (Dao et al. 2022): scores are never stored. Backward computes them again, once for the
// gradient of the queries and once for those of keys and values, so that every sum has one order.
//
// A block has 64 rows of its own, 16 a warp, and reads the other rows in tiles. Products are those of tensor
// cores, of numbers with 10 bits of mantissa: each factor as it is rounded to them (`TERMS` 1), or as the sum of
// two such numbers, three products for one (`TERMS` 3), which leaves an error of 2^-21, about that of f32.
#include "device.h"

/// Where (B, N, rows, features) lie: features one after the other, the rest at these distances.
struct Rows {
    float *data;
    long long batch, head, row;
};

/// What the kernels are given.
struct Attention {
    Rows queries, keys, values, out, grad_out, grad_queries, grad_keys, grad_values;
    /// (B, N, T): logarithm (base 2) of the sum of each query's exponentials; infinite where it sees no key.
    float *log_sums;
    /// (B, N, T): inner product of the output and its gradient.
    float *dots;
    /// (B) keys of each sequence, or null.
    const int *lengths;
    int heads, query_count, key_count, size, value_size;
    /// Whether a query sees no later keys, and how many before; 0: all.
    int causal, window, groups;
    /// What scores are multiplied by, and the same over ln 2.
    float scale, scale_2;
};

constexpr int ATTENTION_WARPS = 4;
constexpr int ATTENTION_THREADS = 32 * ATTENTION_WARPS;
/// Rows of a block.
constexpr int OWN = 16 * ATTENTION_WARPS;

/// Rows of the tiles that are read one after the other.
template <int D> constexpr int OTHER = D <= 64 ? 64 : 32;
/// Numbers from row to row of a tile: 4 more than there are, so that the lanes of a warp meet 32 banks.
template <int D> constexpr int STRIDE = D + 4;

/// A head of a sequence, and a tile of it: blocks with the most work first where masks are causal.
struct Part {
    int batch, head, group, first;

    DEVICE Part(const Attention &p, int rows) {
        const int tiles = (rows + OWN - 1) / OWN;
        group = blockIdx.x / tiles, batch = group / p.heads, head = group % p.heads;
        first = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * OWN;
    }

    DEVICE float *of(const Rows &rows) const { return rows.data + batch * rows.batch + head * rows.head; }
};

DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE int larger(int a, int b) { return a > b ? a : b; }

/// Keys that a query sees: from `from` up to `to`.
struct Visible {
    int from, to;

    DEVICE Visible(const Attention &p, int batch, int query) {
        const int own = query + p.key_count - p.query_count + 1;
        to = p.lengths == nullptr ? p.key_count : p.lengths[batch];
        if (p.causal) to = smaller(to, own);
        from = p.window > 0 ? larger(own - p.window, 0) : 0;
    }

    DEVICE bool sees(int key) const { return from <= key && key < to; }
};

/// Copies `count` rows from `first` on, of `all`, into a tile: zeros beyond the last row and the last feature.
template <int D>
DEVICE void load_tile(float *tile, const Part &part, const Rows &rows, int first, int count, int all, int width) {
    constexpr int QUADS = D / 4;
    const float *from = part.of(rows);
    const bool whole = (reinterpret_cast<size_t>(from) % 16 == 0) && rows.row % 4 == 0;
    for (int i = threadIdx.x; i < count * QUADS; i += ATTENTION_THREADS) {
        const int row = i / QUADS, column = i % QUADS * 4;
        float4 quad = {0.0f, 0.0f, 0.0f, 0.0f};
        if (first + row < all && column < width) {
            const float *at = from + (first + row) * rows.row + column;
            if (whole && column + 4 <= width) {
                quad = *reinterpret_cast<const float4 *>(at);
            } else {
                quad.x = at[0];
                if (column + 1 < width) quad.y = at[1];
                if (column + 2 < width) quad.z = at[2];
                if (column + 3 < width) quad.w = at[3];
            }
        }
        *reinterpret_cast<float4 *>(tile + row * STRIDE<D> + column) = quad;
    }
}

/// `N` numbers as the products take them.
template <int TERMS, int N> struct Factor {
    float high[N], low[N];

    template <class... Numbers> DEVICE Factor(Numbers... numbers) : high{numbers...} {
        UNROLL()
        for (int i = 0; i < N; i++) {
            const float value = high[i];
            high[i] = to_tf32(value);
            low[i] = TERMS == 3 ? to_tf32(value - high[i]) : 0.0f;
        }
    }
};

/// `c += a b`, the small products first. Tensor cores cut off what does not fit into a sum, towards zero: with
/// three products, only within one tile, so that errors do not add up over thousands of keys.
template <int TERMS> DEVICE void multiply(float (&c)[4], const Factor<TERMS, 4> &a, const Factor<TERMS, 2> &b) {
    if (TERMS == 1) {
        multiply_tiles(c, a.high, b.high);
        return;
    }
    float part[4] = {};
    multiply_tiles(part, a.low, b.high);
    multiply_tiles(part, a.high, b.low);
    multiply_tiles(part, a.high, b.high);
    UNROLL()
    for (int i = 0; i < 4; i++) c[i] += part[i];
}

/// A warp's 16 rows times `8 N` other rows, feature by feature: `(16, 8 N)`.
template <int D, int TERMS, int N> DEVICE void scores(float (&c)[N][4], const float *own, const float *other) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    own += (threadIdx.x / 32 * 16 + g) * STRIDE<D> + t, other += g * STRIDE<D> + t;
    UNROLL()
    for (int n = 0; n < N; n++) c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0.0f;
    UNROLL(2)
    for (int k = 0; k < D; k += 8) {
        const float *below = own + 8 * STRIDE<D>;
        const Factor<TERMS, 4> a(own[k], below[k], own[k + 4], below[k + 4]);
        UNROLL()
        for (int n = 0; n < N; n++) {
            const float *row = other + n * 8 * STRIDE<D>;
            multiply<TERMS>(c[n], a, Factor<TERMS, 2>(row[k], row[k + 4]));
        }
    }
}

/// `sum += weights other`: weights `(16, 8 N)` as they come from `scores`, `8 N` other rows. The sum over rows
/// takes them in another order, `2 t` for `t` and `2 t + 1` for `t + 4`, in both factors: then no lane needs
/// what another has.
template <int D, int TERMS, int N>
DEVICE void weigh(float (&sum)[D / 8][4], const float (&weights)[N][4], const float *other) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    other += 2 * t * STRIDE<D> + g;
    UNROLL()
    for (int n = 0; n < N; n++) {
        const Factor<TERMS, 4> a(weights[n][0], weights[n][2], weights[n][1], weights[n][3]);
        const float *row = other + n * 8 * STRIDE<D>;
        UNROLL()
        for (int f = 0; f < D / 8; f++) {
            multiply<TERMS>(sum[f], a, Factor<TERMS, 2>(row[8 * f], row[STRIDE<D> + 8 * f]));
        }
    }
}

/// Writes a warp's rows, of all `all`.
template <int D>
DEVICE void store(const float (&sum)[D / 8][4], const Part &part, const Rows &rows, int all, int width) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    UNROLL()
    for (int half = 0; half < 2; half++) {
        const int row = part.first + threadIdx.x / 32 * 16 + g + 8 * half;
        if (row >= all) continue;
        float *to = part.of(rows) + row * rows.row;
        UNROLL()
        for (int f = 0; f < D / 8; f++) {
            const int column = 8 * f + 2 * t;
            if (column < width) to[column] = sum[f][2 * half];
            if (column + 1 < width) to[column + 1] = sum[f][2 * half + 1];
        }
    }
}

/// Among the four lanes that have a row.
DEVICE float largest_of_row(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}
DEVICE float sum_of_row(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

/// Reads the keys that any of a block's queries sees, and their values, tile by tile, and calls `with` with the
/// first key of each.
template <int D, class With>
DEVICE void over_keys(const Attention &p, const Part &part, float *keys, float *values, With with) {
    constexpr int TILE = OTHER<D>;
    const int last_row = smaller(part.first + OWN, p.query_count) - 1;
    const int begin = Visible(p, part.batch, part.first).from / TILE * TILE, end = Visible(p, part.batch, last_row).to;
    for (int first = begin; first < end; first += TILE) {
        __syncthreads();
        load_tile<D>(keys, part, p.keys, first, TILE, p.key_count, p.size);
        load_tile<D>(values, part, p.values, first, TILE, p.key_count, p.value_size);
        __syncthreads();
        with(first);
    }
}

template <int D, int TERMS> DEVICE void attention_forward(const Attention &p) {
    constexpr int TILE = OTHER<D>, N = TILE / 8;
    float *queries = shared_memory(), *keys = queries + OWN * STRIDE<D>, *values = keys + TILE * STRIDE<D>;
    const Part part(p, p.query_count);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int row = part.first + threadIdx.x / 32 * 16 + g;
    load_tile<D>(queries, part, p.queries, part.first, OWN, p.query_count, p.size);

    float out[D / 8][4] = {}, peak[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    const Visible visible[2] = {{p, part.batch, row}, {p, part.batch, row + 8}};
    over_keys<D>(p, part, keys, values, [&](int first) {
        float weights[N][4];
        scores<D, TERMS>(weights, queries, keys);
        UNROLL()
        for (int half = 0; half < 2; half++) {
            float most = -INFINITY;
            UNROLL()
            for (int n = 0; n < N; n++) {
                UNROLL()
                for (int i = 0; i < 2; i++) {
                    float &score = weights[n][2 * half + i];
                    score = visible[half].sees(first + 8 * n + 2 * t + i) ? score * p.scale_2 : -INFINITY;
                    most = fmaxf(most, score);
                }
            }
            most = fmaxf(peak[half], largest_of_row(most));
            // A row that has seen nothing yet: everything is exp(-inf).
            const float safe = most == -INFINITY ? 0.0f : most;
            const float shrink = exp2f(peak[half] - safe);
            peak[half] = most, total[half] *= shrink;
            UNROLL()
            for (int f = 0; f < D / 8; f++) out[f][2 * half] *= shrink, out[f][2 * half + 1] *= shrink;
            UNROLL()
            for (int n = 0; n < N; n++) {
                UNROLL()
                for (int i = 0; i < 2; i++) {
                    float &weight = weights[n][2 * half + i];
                    weight = exp2f(weight - safe);
                    total[half] += weight;
                }
            }
        }
        weigh<D, TERMS>(out, weights, values);
    });
    UNROLL()
    for (int half = 0; half < 2; half++) {
        const float sum = sum_of_row(total[half]), over = sum > 0.0f ? 1.0f / sum : 0.0f;
        UNROLL()
        for (int f = 0; f < D / 8; f++) out[f][2 * half] *= over, out[f][2 * half + 1] *= over;
        if (t == 0 && row + 8 * half < p.query_count) {
            const float log_sum = sum > 0.0f ? peak[half] + log2f(sum) : INFINITY;
            p.log_sums[static_cast<size_t>(part.group) * p.query_count + row + 8 * half] = log_sum;
        }
    }
    store<D>(out, part, p.out, p.query_count, p.value_size);
}

/// The gradient of the queries.
template <int D, int TERMS> DEVICE void attention_backward_queries(const Attention &p) {
    constexpr int TILE = OTHER<D>, N = TILE / 8;
    float *queries = shared_memory(), *gradients = queries + OWN * STRIDE<D>;
    float *keys = gradients + OWN * STRIDE<D>, *values = keys + TILE * STRIDE<D>;
    const Part part(p, p.query_count);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int row = part.first + threadIdx.x / 32 * 16 + g;
    load_tile<D>(queries, part, p.queries, part.first, OWN, p.query_count, p.size);
    load_tile<D>(gradients, part, p.grad_out, part.first, OWN, p.query_count, p.value_size);
    float log_sum[2], dot[2];
    UNROLL()
    for (int half = 0; half < 2; half++) {
        const bool real = row + 8 * half < p.query_count;
        const size_t at = static_cast<size_t>(part.group) * p.query_count + row + 8 * half;
        log_sum[half] = real ? p.log_sums[at] : INFINITY, dot[half] = real ? p.dots[at] : 0.0f;
    }

    float sum[D / 8][4] = {};
    const Visible visible[2] = {{p, part.batch, row}, {p, part.batch, row + 8}};
    over_keys<D>(p, part, keys, values, [&](int first) {
        float weights[N][4], along[N][4];
        scores<D, TERMS>(weights, queries, keys);
        scores<D, TERMS>(along, gradients, values);
        UNROLL()
        for (int n = 0; n < N; n++) {
            UNROLL()
            for (int i = 0; i < 4; i++) {
                const int half = i / 2, key = first + 8 * n + 2 * t + i % 2;
                const float weight = exp2f(weights[n][i] * p.scale_2 - log_sum[half]);
                weights[n][i] = visible[half].sees(key) ? weight * (along[n][i] - dot[half]) * p.scale : 0.0f;
            }
        }
        weigh<D, TERMS>(sum, weights, keys);
    });
    store<D>(sum, part, p.grad_queries, p.query_count, p.size);
}

/// The gradients of keys and values.
template <int D, int TERMS> DEVICE void attention_backward_keys(const Attention &p) {
    constexpr int TILE = OTHER<D>, N = TILE / 8;
    float *keys = shared_memory(), *values = keys + OWN * STRIDE<D>;
    float *queries = values + OWN * STRIDE<D>, *gradients = queries + TILE * STRIDE<D>;
    float *log_sums = gradients + TILE * STRIDE<D>, *dots = log_sums + TILE;
    const Part part(p, p.key_count);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int row = part.first + threadIdx.x / 32 * 16 + g;
    load_tile<D>(keys, part, p.keys, part.first, OWN, p.key_count, p.size);
    load_tile<D>(values, part, p.values, part.first, OWN, p.key_count, p.value_size);

    float grad_keys[D / 8][4] = {}, grad_values[D / 8][4] = {};
    // Queries that see any of the block's keys.
    const int shift = p.key_count - p.query_count;
    int begin = 0, end = p.query_count;
    if (p.causal) begin = larger(part.first - shift, 0) / TILE * TILE;
    if (p.window > 0) end = smaller(end, part.first + OWN - 1 + p.window - shift);
    if (p.lengths != nullptr && part.first >= p.lengths[part.batch]) end = begin;
    for (int first = begin; first < end; first += TILE) {
        __syncthreads();
        load_tile<D>(queries, part, p.queries, first, TILE, p.query_count, p.size);
        load_tile<D>(gradients, part, p.grad_out, first, TILE, p.query_count, p.value_size);
        for (int i = threadIdx.x; i < TILE; i += ATTENTION_THREADS) {
            const bool real = first + i < p.query_count;
            const size_t at = static_cast<size_t>(part.group) * p.query_count + first + i;
            log_sums[i] = real ? p.log_sums[at] : INFINITY, dots[i] = real ? p.dots[at] : 0.0f;
        }
        __syncthreads();
        float weights[N][4], along[N][4];
        scores<D, TERMS>(weights, keys, queries);
        UNROLL()
        for (int n = 0; n < N; n++) {
            UNROLL()
            for (int i = 0; i < 4; i++) {
                const int at = 8 * n + 2 * t + i % 2, key = row + i / 2 * 8;
                const bool sees = Visible(p, part.batch, first + at).sees(key);
                weights[n][i] = sees ? exp2f(weights[n][i] * p.scale_2 - log_sums[at]) : 0.0f;
            }
        }
        weigh<D, TERMS>(grad_values, weights, gradients);
        scores<D, TERMS>(along, values, gradients);
        UNROLL()
        for (int n = 0; n < N; n++) {
            UNROLL()
            for (int i = 0; i < 4; i++) weights[n][i] *= (along[n][i] - dots[8 * n + 2 * t + i % 2]) * p.scale;
        }
        weigh<D, TERMS>(grad_keys, weights, queries);
    }
    store<D>(grad_keys, part, p.grad_keys, p.key_count, p.size);
    store<D>(grad_values, part, p.grad_values, p.key_count, p.value_size);
}

#define ATTENTION(size, terms, blocks)                                                                    \
    KERNEL(128, blocks, attention_forward_##size##_##terms, Attention p) {                                \
        attention_forward<size, terms>(p);                                                                \
    }                                                                                                     \
    KERNEL(128, blocks, attention_backward_queries_##size##_##terms, Attention p) {                       \
        attention_backward_queries<size, terms>(p);                                                       \
    }                                                                                                     \
    KERNEL(128, blocks, attention_backward_keys_##size##_##terms, Attention p) {                          \
        attention_backward_keys<size, terms>(p);                                                          \
    }

/// As many blocks on a multiprocessor as leave registers for all that a thread holds: three products for one need
/// more.
#define ATTENTIONS(size, blocks, blocks_exact) \
    ATTENTION(size, 1, blocks)                 \
    ATTENTION(size, 3, blocks_exact)

ATTENTIONS(16, 3, 2)
ATTENTIONS(32, 3, 2)
ATTENTIONS(64, 3, 2)
ATTENTIONS(128, 2, 2)

/// `dots`: a warp for each query of each head. Any grid.
KERNEL(128, 4, attention_dots, Attention p) {
    const int lane = threadIdx.x % 32, warps = gridDim.x * (blockDim.x / 32);
    const long long all = static_cast<long long>(p.groups) * p.query_count;
    for (long long at = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; at < all; at += warps) {
        const int group = at / p.query_count, query = at % p.query_count;
        const int batch = group / p.heads, head = group % p.heads;
        const float *out = p.out.data + batch * p.out.batch + head * p.out.head + query * p.out.row;
        const float *grad = p.grad_out.data + batch * p.grad_out.batch + head * p.grad_out.head + query * p.grad_out.row;
        float sum = 0.0f;
        for (int i = lane; i < p.value_size; i += 32) sum += out[i] * grad[i];
        UNROLL()
        for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
        if (lane == 0) p.dots[at] = sum;
    }
}
