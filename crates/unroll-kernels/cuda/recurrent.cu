// Entry points of the recurrent kernels. Names: pass, cell, and for persistent kernels the rows of a tile and
// what their teams are.

#include "persistent.h"

/// One block on a multiprocessor: persistent kernels fill it.
#define RECURRENT_KERNEL(name) KERNEL(256, 1, name, Sequence p)

/// One step forward of the whole batch, from the recurrent products. Any grid.
template <int CELL> DEVICE void step_forward(const Sequence &p) {
    constexpr int GATES = Gates<CELL>::count;
    const int size = p.batch * p.hidden;
    for (int index = blockIdx.x * blockDim.x + threadIdx.x; index < size; index += gridDim.x * blockDim.x) {
        const int unit = index % p.hidden, row = index / p.hidden;
        float input[GATES], recurrent[GATES], hidden = p.last_hidden[index], cell = CELL == LSTM ? p.last_cell[index] : 0;
        load_projected<CELL>(p, row, time_of(p, p.step, length_of(p, row)), unit, input);
        UNROLL()
        for (int gate = 0; gate < GATES; gate++) {
            recurrent[gate] = p.recurrent[(static_cast<size_t>(row) * GATES + gate) * p.hidden + unit];
        }
        unit_forward<CELL>(p, row, p.step, unit, input, recurrent, hidden, cell);
        p.last_hidden[index] = hidden;
        if (CELL == LSTM) p.last_cell[index] = cell;
    }
}

/// One step backward: from the gradient of the state in `grad_hidden_0`, `grad_cell_0` to its part that does
/// not pass through the weights, and to the gradients of the recurrent products.
template <int CELL> DEVICE void step_backward(const Sequence &p) {
    constexpr int GATES = Gates<CELL>::count;
    const int size = p.batch * p.hidden;
    for (int index = blockIdx.x * blockDim.x + threadIdx.x; index < size; index += gridDim.x * blockDim.x) {
        const int unit = index % p.hidden, row = index / p.hidden;
        float recurrent[GATES], hidden = p.grad_hidden_0[index], cell = CELL == LSTM ? p.grad_cell_0[index] : 0;
        Loaded<CELL> loaded;
        load_backward<CELL>(p, row, p.step, unit, loaded);
        unit_backward<CELL>(p, row, p.step, unit, loaded, hidden, cell, recurrent);
        UNROLL()
        for (int gate = 0; gate < GATES; gate++) {
            p.recurrent[(static_cast<size_t>(row) * GATES + gate) * p.hidden + unit] = recurrent[gate];
        }
        p.grad_hidden_0[index] = hidden;
        if (CELL == LSTM) p.grad_cell_0[index] = cell;
    }
}

#define STEPS(cell, name)                                            \
    RECURRENT_KERNEL(step_forward_##name) { step_forward<cell>(p); } \
    RECURRENT_KERNEL(step_backward_##name) { step_backward<cell>(p); }

STEPS(RNN, rnn)
STEPS(GRU, gru)
STEPS(LSTM, lstm)

#define PERSISTENT(cell, name, tile)                                                                 \
    RECURRENT_KERNEL(forward_##name##_##tile##_cluster) { sequence_forward<cell, tile, true>(p); }   \
    RECURRENT_KERNEL(forward_##name##_##tile##_grid) { sequence_forward<cell, tile, false>(p); }     \
    RECURRENT_KERNEL(backward_##name##_##tile##_cluster) { sequence_backward<cell, tile, true>(p); } \
    RECURRENT_KERNEL(backward_##name##_##tile##_grid) { sequence_backward<cell, tile, false>(p); }

#define TILES(cell, name)     \
    PERSISTENT(cell, name, 4) \
    PERSISTENT(cell, name, 8) \
    PERSISTENT(cell, name, 16)

TILES(RNN, rnn)
TILES(GRU, gru)
TILES(LSTM, lstm)

/// The states that each step began with, `(B, T, H)`, zero on padding, into `exchange`. Any grid.
RECURRENT_KERNEL(states_before) {
    const size_t size = static_cast<size_t>(p.batch) * p.steps * p.hidden;
    for (size_t index = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; index < size;
         index += static_cast<size_t>(gridDim.x) * blockDim.x) {
        const int unit = index % p.hidden, step = index / p.hidden % p.steps, row = index / p.hidden / p.steps;
        const int length = length_of(p, row);
        float value = 0.0f;
        if (step < length) {
            value = step == 0 ? p.hidden_0[static_cast<size_t>(row) * p.hidden + unit]
                              : p.output[place(p, row, time_of(p, step - 1, length), p.hidden) + unit];
        }
        p.exchange[place(p, row, time_of(p, step, length), p.hidden) + unit] = value;
    }
}

/// Sums over rows: `exchange` (rows / `rows` of them, hidden) of `gates` (steps, hidden), `rows` rows to one sum.
/// 32 columns a block in x, one sum in y.
RECURRENT_KERNEL(column_sums) {
    float *sums = shared_memory();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int column = blockIdx.x * 32 + lane;
    const int first = blockIdx.y * p.rows, last = first + p.rows < p.steps ? first + p.rows : p.steps;
    float sum = 0.0f;
    if (column < p.hidden) {
        for (int row = first + warp; row < last; row += warps) {
            sum += p.gates[static_cast<size_t>(row) * p.hidden + column];
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (warp == 0 && column < p.hidden) {
        for (int other = 1; other < warps; other++) sum += sums[other * 32 + lane];
        p.exchange[static_cast<size_t>(blockIdx.y) * p.hidden + column] = sum;
    }
}
