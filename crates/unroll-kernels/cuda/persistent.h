// A whole sequence in one launch. A team of blocks holds W_hh in its shared memory, each block the rows of
// its units, and carries `rows` sequences through time. Between steps blocks exchange what the others need:
// new hidden states forward, sums over their own gates backward. A team is a thread-block cluster, whose
// blocks write into each other's shared memory, or any blocks that run at once, which exchange through
// global memory. (The idea of keeping the weights on the chip: Diamos et al. 2016.)
#pragma once

#include "sequence.h"

/// Pairs of unit and sequence that a thread may have of one tile.
constexpr int PAIRS = 4;

DEVICE int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

/// In how many parts the warps of a block cut the depth of a product `width` wide.
DEVICE int slices_of(int width) {
    const int warps = blockDim.x / 32, groups = width / 32;
    return warps > groups ? warps / groups : 1;
}

/// Sums of products of `a` (depth x TILE) and `m` (depth x width, width a multiple of 32), for every row b of
/// the tile and column n, to `partial[slice][b][n]`. A thread has four columns and all rows; four parts of a
/// warp share the depth and hand each other what they do not keep.
template <int TILE>
DEVICE void product(const float *a, const float *m, float *partial, int depth, int width) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int groups = width / 32, slices = slices_of(width);
    const int quad = lane % 8, part = lane / 8;
    const int slice = warps > groups ? warp / groups : 0;
    if (slice >= slices) return;
    for (int group = warps > groups ? warp % groups : warp; group < groups; group += warps) {
        float sum[4 * TILE];
        UNROLL()
        for (int i = 0; i < 4 * TILE; i++) sum[i] = 0.0f;
        const float *columns = m + group * 32 + quad * 4;
        UNROLL(2)
        for (int k = slice * 4 + part; k < depth; k += slices * 4) {
            const float4 w = *reinterpret_cast<const float4 *>(columns + static_cast<size_t>(k) * width);
            UNROLL()
            for (int b = 0; b < TILE; b += 4) {
                const float4 x = *reinterpret_cast<const float4 *>(a + k * TILE + b);
                const float four[4] = {x.x, x.y, x.z, x.w};
                UNROLL()
                for (int i = 0; i < 4; i++) {
                    sum[0 * TILE + b + i] += w.x * four[i];
                    sum[1 * TILE + b + i] += w.y * four[i];
                    sum[2 * TILE + b + i] += w.z * four[i];
                    sum[3 * TILE + b + i] += w.w * four[i];
                }
            }
        }
        // Two columns each, then one.
        UNROLL()
        for (int i = 0; i < 2 * TILE; i++) {
            const float keep = part & 2 ? sum[i + 2 * TILE] : sum[i];
            const float give = part & 2 ? sum[i] : sum[i + 2 * TILE];
            sum[i] = keep + __shfl_xor_sync(0xffffffffu, give, 16);
        }
        UNROLL()
        for (int i = 0; i < TILE; i++) {
            const float keep = part & 1 ? sum[i + TILE] : sum[i];
            const float give = part & 1 ? sum[i] : sum[i + TILE];
            sum[i] = keep + __shfl_xor_sync(0xffffffffu, give, 8);
        }
        float *to = partial + static_cast<size_t>(slice) * TILE * width + group * 32 + quad * 4 + part;
        UNROLL()
        for (int b = 0; b < TILE; b++) to[b * width] = sum[b];
    }
}

/// A finished sum of `product`.
template <int TILE> DEVICE float finished(const float *partial, int row, int column, int width) {
    float sum = 0.0f;
    for (int slice = 0; slice < slices_of(width); slice++) sum += partial[(slice * TILE + row) * width + column];
    return sum;
}

/// Where a block is, and what of the layer is its own.
struct Own {
    int rank, team;
    int first_unit, units;  // fewer than p.units, even none, in the last blocks
    int first_row, rows;    // fewer than p.rows in the last team
    int tiles;

    DEVICE Own(const Sequence &p, int tile) {
        rank = blockIdx.x % p.ranks, team = blockIdx.x / p.ranks;
        first_unit = rank * p.units;
        units = p.hidden - first_unit < p.units ? p.hidden - first_unit : p.units;
        units = units < 0 ? 0 : units;
        first_row = p.first_row + team * p.rows;
        rows = p.batch - first_row < p.rows ? p.batch - first_row : p.rows;
        tiles = (p.rows + tile - 1) / tile;
    }
};

/// One thread's share of a tile: pair number `i` of it.
struct Pair {
    int unit, row, slot;  // within the block; within the tile; of the tile's units x rows
    bool exists, real;    // part of the tile; part of the layer

    DEVICE Pair(const Sequence &p, const Own &own, int tile_rows, int tile, int i) {
        const int index = threadIdx.x + i * blockDim.x;
        exists = index < p.units * tile_rows;
        unit = index % p.units, row = index / p.units;
        slot = unit * tile_rows + row;
        real = exists && unit < own.units && tile * tile_rows + row < own.rows;
    }
};

/// Forward. Shared memory, in floats: H * width weights, `CLUSTER ? 2 * tiles : 1` times H * TILE states,
/// slices * TILE * width sums, twice tiles * U * TILE own states; width = G * U rounded up to 32.
/// `exchange` without clusters: 2 * teams * tiles * H * TILE.
template <int CELL, int TILE, bool CLUSTER> DEVICE void sequence_forward(const Sequence &p) {
    constexpr int GATES = Gates<CELL>::count;
    const Own own(p, TILE);
    const int width = round_up(GATES * p.units, 32), state = p.hidden * TILE, slab = p.units * TILE;
    float *weights = shared_memory();
    float *states = weights + static_cast<size_t>(p.hidden) * width;
    float *partial = states + (CLUSTER ? 2 * own.tiles : 1) * state;
    float *hidden = partial + slices_of(width) * TILE * width;
    float *cell = hidden + own.tiles * slab;
    float *exchange = CLUSTER ? nullptr : p.exchange + static_cast<size_t>(own.team) * own.tiles * state;
    const size_t exchange_size = static_cast<size_t>(gridDim.x / p.ranks) * own.tiles * state;

    // Eight columns by four places in depth: both ends of the copy are only partly in order.
    for (int index = threadIdx.x; index < round_up(p.hidden, 4) * width; index += blockDim.x) {
        const int k = index / (4 * width) * 4 + index / 8 % 4, n = index % (4 * width) / 32 * 8 + index % 8;
        const int gate = n / p.units, unit = n % p.units;
        if (k < p.hidden) {
            weights[k * width + n] =
                gate < GATES && unit < own.units
                    ? p.weight_hh[(static_cast<size_t>(gate) * p.hidden + own.first_unit + unit) * p.hidden + k]
                    : 0.0f;
        }
    }
    auto load_first = [&](float *to, int tile) {
        for (int index = threadIdx.x; index < state; index += blockDim.x) {
            const int k = index % p.hidden, b = index / p.hidden, row = tile * TILE + b;
            to[k * TILE + b] =
                row < own.rows ? p.hidden_0[static_cast<size_t>(own.first_row + row) * p.hidden + k] : 0.0f;
        }
    };
    for (int tile = 0; tile < own.tiles; tile++) {
        if (CLUSTER) load_first(states + tile * state, tile);
        UNROLL()
        for (int i = 0; i < PAIRS; i++) {
            const Pair pair(p, own, TILE, tile, i);
            if (!pair.exists) continue;
            const size_t from = static_cast<size_t>(own.first_row + tile * TILE + pair.row) * p.hidden +
                                own.first_unit + pair.unit;
            hidden[tile * slab + pair.slot] = pair.real ? p.hidden_0[from] : 0.0f;
            cell[tile * slab + pair.slot] = pair.real && CELL == LSTM ? p.cell_0[from] : 0.0f;
        }
    }
    // Nothing may be written into a block that has not begun.
    if (CLUSTER) cluster_barrier();

    for (int step = 0; step < p.steps; step++) {
        for (int tile = 0; tile < own.tiles; tile++) {
            // Needed after the product: on its way during it.
            float input[PAIRS][GATES];
            UNROLL()
            for (int i = 0; i < PAIRS; i++) {
                const Pair pair(p, own, TILE, tile, i);
                if (!pair.real) continue;
                const int row = own.first_row + tile * TILE + pair.row, length = length_of(p, row);
                load_projected<CELL>(p, row, time_of(p, step, length), own.first_unit + pair.unit, input[i]);
            }
            const float *before = states + (CLUSTER ? (step % 2 * own.tiles + tile) * state : 0);
            if (!CLUSTER && step == 0) load_first(states, tile);
            if (!CLUSTER && step > 0) {
                const float4 *from =
                    reinterpret_cast<const float4 *>(exchange + step % 2 * exchange_size + tile * state);
                for (int i = threadIdx.x; i < state / 4; i += blockDim.x) {
                    reinterpret_cast<float4 *>(states)[i] = read_shared_with_others(from + i);
                }
            }
            __syncthreads();
            product<TILE>(before, weights, partial, p.hidden, width);
            __syncthreads();
            UNROLL()
            for (int i = 0; i < PAIRS; i++) {
                const Pair pair(p, own, TILE, tile, i);
                if (!pair.real) continue;
                float recurrent[GATES];
                UNROLL()
                for (int gate = 0; gate < GATES; gate++) {
                    recurrent[gate] = finished<TILE>(partial, pair.row, gate * p.units + pair.unit, width);
                }
                const int row = own.first_row + tile * TILE + pair.row, at = tile * slab + pair.slot;
                unit_forward<CELL>(p, row, step, own.first_unit + pair.unit, input[i], recurrent, hidden[at], cell[at]);
            }
        }
        if (step + 1 == p.steps) break;
        __syncthreads();
        // The slab of a tile is in one piece at both ends.
        const int mine = own.units * TILE / 4, next = (step + 1) % 2;
        for (int index = threadIdx.x; index < own.tiles * mine; index += blockDim.x) {
            const int tile = index / mine, i = index % mine;
            const float4 value = reinterpret_cast<const float4 *>(hidden + tile * slab)[i];
            const int at = tile * state + own.first_unit * TILE;
            if (CLUSTER) {
                for (int rank = 0; rank < p.ranks; rank++) {
                    float *to = shared_of(states + next * own.tiles * state + at, rank);
                    reinterpret_cast<float4 *>(to)[i] = value;
                }
            } else {
                reinterpret_cast<float4 *>(exchange + next * exchange_size + at)[i] = value;
            }
        }
        if (CLUSTER) {
            cluster_barrier();
        } else {
            team_barrier(p.arrived + own.team, static_cast<unsigned>(p.ranks) * (step + 1));
        }
    }

    for (int tile = 0; tile < own.tiles; tile++) {
        UNROLL()
        for (int i = 0; i < PAIRS; i++) {
            const Pair pair(p, own, TILE, tile, i);
            if (!pair.real) continue;
            const size_t to = static_cast<size_t>(own.first_row + tile * TILE + pair.row) * p.hidden +
                              own.first_unit + pair.unit;
            p.last_hidden[to] = hidden[tile * slab + pair.slot];
            if (CELL == LSTM) p.last_cell[to] = cell[tile * slab + pair.slot];
        }
    }
}

/// Backward. Shared memory, in floats: G * U * width weights, G * U * TILE gradients of gates, slices * TILE *
/// width sums, twice tiles * U * TILE own states, and with clusters 2 * ranks * tiles * TILE * U sums from the
/// team; width = H rounded up to 32. `exchange` without clusters: 2 * teams * ranks * ranks * tiles * TILE * U.
template <int CELL, int TILE, bool CLUSTER> DEVICE void sequence_backward(const Sequence &p) {
    constexpr int GATES = Gates<CELL>::count;
    const Own own(p, TILE);
    const int width = round_up(p.hidden, 32), depth = GATES * p.units, slab = p.units * TILE;
    float *weights = shared_memory();
    float *gradients = weights + static_cast<size_t>(depth) * width;
    float *partial = gradients + depth * TILE;
    float *hidden = partial + slices_of(width) * TILE * width;
    float *cell = hidden + own.tiles * slab;
    // Sums from the team: [step % 2][of rank][tile][row][unit].
    const size_t from_rank = static_cast<size_t>(own.tiles) * slab, inbox_size = p.ranks * from_rank;
    const size_t exchange_size = gridDim.x * inbox_size;
    float *inbox = CLUSTER ? cell + own.tiles * slab : p.exchange + blockIdx.x * inbox_size;
    const size_t other_half = CLUSTER ? inbox_size : exchange_size;

    for (int index = threadIdx.x; index < depth * width; index += blockDim.x) {
        const int n = index % width, gate = index / width / p.units, unit = index / width % p.units;
        weights[index] =
            unit < own.units && n < p.hidden
                ? p.weight_hh[(static_cast<size_t>(gate) * p.hidden + own.first_unit + unit) * p.hidden + n]
                : 0.0f;
    }
    for (int tile = 0; tile < own.tiles; tile++) {
        UNROLL()
        for (int i = 0; i < PAIRS; i++) {
            const Pair pair(p, own, TILE, tile, i);
            if (!pair.exists) continue;
            const size_t from = static_cast<size_t>(own.first_row + tile * TILE + pair.row) * p.hidden +
                                own.first_unit + pair.unit;
            hidden[tile * slab + pair.slot] = pair.real && p.last_hidden ? p.last_hidden[from] : 0.0f;
            cell[tile * slab + pair.slot] = pair.real && CELL == LSTM && p.last_cell ? p.last_cell[from] : 0.0f;
        }
    }
    if (CLUSTER) cluster_barrier();

    // What the next tile needs is on its way during the product before it.
    Loaded<CELL> loaded[PAIRS];
    auto load = [&](int step, int tile) {
        UNROLL()
        for (int i = 0; i < PAIRS; i++) {
            const Pair pair(p, own, TILE, tile, i);
            if (!pair.real) continue;
            load_backward<CELL>(p, own.first_row + tile * TILE + pair.row, step, own.first_unit + pair.unit, loaded[i]);
        }
    };
    /// Adds what the team has found, always in the same order.
    auto received = [&](int step, int tile, const Pair &pair) {
        const float *from = inbox + step % 2 * other_half + tile * slab + pair.row * p.units + pair.unit;
        float sum = 0.0f;
        UNROLL(8)
        for (int rank = 0; rank < p.ranks; rank++) {
            sum += CLUSTER ? from[rank * from_rank] : read_shared_with_others(from + rank * from_rank);
        }
        return sum;
    };
    load(p.steps - 1, 0);
    for (int step = p.steps - 1; step >= 0; step--) {
        for (int tile = 0; tile < own.tiles; tile++) {
            UNROLL()
            for (int i = 0; i < PAIRS; i++) {
                const Pair pair(p, own, TILE, tile, i);
                if (!pair.exists) continue;
                float recurrent[GATES];
                UNROLL()
                for (int gate = 0; gate < GATES; gate++) recurrent[gate] = 0.0f;
                if (pair.real) {
                    float &grad_hidden = hidden[tile * slab + pair.slot], &grad_cell = cell[tile * slab + pair.slot];
                    if (step + 1 < p.steps) grad_hidden += received(step + 1, tile, pair);
                    unit_backward<CELL>(p, own.first_row + tile * TILE + pair.row, step, own.first_unit + pair.unit,
                                        loaded[i], grad_hidden, grad_cell, recurrent);
                }
                UNROLL()
                for (int gate = 0; gate < GATES; gate++) {
                    gradients[(gate * p.units + pair.unit) * TILE + pair.row] = recurrent[gate];
                }
            }
            const bool next_tile = tile + 1 < own.tiles;
            if (next_tile || step > 0) load(next_tile ? step : step - 1, next_tile ? tile + 1 : 0);
            __syncthreads();
            product<TILE>(gradients, weights, partial, depth, width);
            __syncthreads();
            for (int index = threadIdx.x; index < TILE * p.hidden; index += blockDim.x) {
                const int n = index % p.hidden, b = index / p.hidden, rank = n / p.units;
                const size_t at = step % 2 * other_half + own.rank * from_rank + tile * slab + b * p.units + n % p.units;
                const float sum = finished<TILE>(partial, b, n, width);
                if (CLUSTER) {
                    *shared_of(inbox + at, rank) = sum;
                } else {
                    p.exchange[(static_cast<size_t>(own.team) * p.ranks + rank) * inbox_size + at] = sum;
                }
            }
        }
        if (CLUSTER) {
            cluster_barrier();
        } else {
            team_barrier(p.arrived + own.team, static_cast<unsigned>(p.ranks) * (p.steps - step));
        }
    }

    for (int tile = 0; tile < own.tiles; tile++) {
        UNROLL()
        for (int i = 0; i < PAIRS; i++) {
            const Pair pair(p, own, TILE, tile, i);
            if (!pair.real) continue;
            const size_t to = static_cast<size_t>(own.first_row + tile * TILE + pair.row) * p.hidden +
                              own.first_unit + pair.unit;
            p.grad_hidden_0[to] = hidden[tile * slab + pair.slot] + received(0, tile, pair);
            if (CELL == LSTM) p.grad_cell_0[to] = cell[tile * slab + pair.slot];
        }
    }
}
