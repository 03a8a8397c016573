// What the kernels are given, and where things are.
#pragma once

#include "cells.h"

/// The same fields in the same order as `Sequence` in src/gpu/recurrent/launch.rs. B sequences of T steps,
/// H units, G gates, K kept numbers; everything row-major.
struct Sequence {
    const float *weight_hh;     // (G*H, H)
    const float *bias_ih;       // (G*H), or null with the other
    const float *bias_hh;       // (G*H)
    const float *hidden_0;      // (B, H)
    const float *cell_0;        // (B, H)
    const float *probe_hidden;  // (B, T, H) or null
    const float *probe_cell;    // (B, T, H) or null
    float *gates;               // (B, T, K*H): the projected input in its first G*H; then what is kept; then gradients
    float *output;              // (B, T, H)
    float *cells;               // (B, T, H)
    float *last_hidden;         // (B, H); backward: the gradient that arrives, or null
    float *last_cell;           // (B, H); likewise
    const float *grad_output;   // (B, T, H)
    float *grad_hidden_0;       // (B, H)
    float *grad_cell_0;         // (B, H)
    float *grad_probe_hidden;   // (B, T, H) or null
    float *grad_probe_cell;     // (B, T, H) or null
    const int *lengths;         // (B), or null: all T
    float *exchange;            // what blocks tell each other
    unsigned *arrived;          // one counter per team, zero at first
    float *recurrent;           // (B, G*H): the recurrent products of one step, or their gradients
    int batch, steps, hidden, reverse, variant;
    int ranks;                  // blocks in a team
    int units;                  // units of a block
    int rows;                   // sequences of a team
    int first_row;              // first sequence of the launch
    int step;                   // of kernels that do one step
};

DEVICE int length_of(const Sequence &p, int row) { return p.lengths ? p.lengths[row] : p.steps; }

/// Position in time of a step: from the end where a sequence is read backwards; padding stays where it is.
DEVICE int time_of(const Sequence &p, int step, int length) {
    return p.reverse && step < length ? length - 1 - step : step;
}

/// Index of the first unit of a row at a time, in an array of `(B, T, width)`.
DEVICE size_t place(const Sequence &p, int row, int time, size_t width) {
    return (static_cast<size_t>(row) * p.steps + time) * width;
}

/// Bias of a gate's input and of its recurrent product.
DEVICE void load_biases(const Sequence &p, int gates, int unit, float *input, float *recurrent) {
    for (int gate = 0; gate < gates; gate++) {
        const size_t at = static_cast<size_t>(gate) * p.hidden + unit;
        input[gate] = p.bias_ih ? p.bias_ih[at] : 0.0f;
        recurrent[gate] = p.bias_hh ? p.bias_hh[at] : 0.0f;
    }
}

/// Reads the projected input of one unit.
template <int CELL> DEVICE void load_projected(const Sequence &p, int row, int time, int unit, float *input) {
    const float *from = p.gates + place(p, row, time, static_cast<size_t>(Kept<CELL>::count) * p.hidden) + unit;
    UNROLL()
    for (int gate = 0; gate < Gates<CELL>::count; gate++) input[gate] = from[static_cast<size_t>(gate) * p.hidden];
}

/// One step of one unit forward, and everything that is written of it. `input` and `recurrent` are without biases.
template <int CELL>
DEVICE void unit_forward(const Sequence &p, int row, int step, int unit, float *input, float *recurrent,
                         float &hidden, float &cell) {
    const int length = length_of(p, row), time = time_of(p, step, length);
    const size_t state = place(p, row, time, p.hidden) + unit;
    if (step >= length) {
        p.output[state] = 0.0f;
        return;
    }
    float bias_input[4], bias_recurrent[4], kept[4];
    load_biases(p, Gates<CELL>::count, unit, bias_input, bias_recurrent);
    UNROLL()
    for (int gate = 0; gate < Gates<CELL>::count; gate++) {
        input[gate] += bias_input[gate];
        recurrent[gate] += bias_recurrent[gate];
    }
    cell_forward<CELL>(p.variant, input, recurrent, p.probe_cell ? p.probe_cell[state] : 0.0f, hidden, cell, kept);
    if (p.probe_hidden) hidden += p.probe_hidden[state];
    p.output[state] = hidden;
    if (CELL == LSTM) p.cells[state] = cell;
    float *to = p.gates + place(p, row, time, static_cast<size_t>(Kept<CELL>::count) * p.hidden) + unit;
    UNROLL()
    for (int i = 0; i < Kept<CELL>::count; i++) to[static_cast<size_t>(i) * p.hidden] = kept[i];
}

/// What backward reads of one step of one unit.
template <int CELL> struct Loaded {
    float kept[4];
    float hidden_before, cell_before, cell, grad_output;
};

template <int CELL> DEVICE void load_backward(const Sequence &p, int row, int step, int unit, Loaded<CELL> &loaded) {
    const int length = length_of(p, row);
    if (step >= length) return;
    const int time = time_of(p, step, length);
    const size_t state = place(p, row, time, p.hidden) + unit, first = static_cast<size_t>(row) * p.hidden + unit;
    const size_t before = step > 0 ? place(p, row, time_of(p, step - 1, length), p.hidden) + unit : 0;
    const float *from = p.gates + place(p, row, time, static_cast<size_t>(Kept<CELL>::count) * p.hidden) + unit;
    UNROLL()
    for (int i = 0; i < Kept<CELL>::count; i++) loaded.kept[i] = from[static_cast<size_t>(i) * p.hidden];
    loaded.grad_output = p.grad_output[state];
    if (CELL == GRU) loaded.hidden_before = step > 0 ? p.output[before] : p.hidden_0[first];
    if (CELL == LSTM) {
        loaded.cell = p.cells[state];
        loaded.cell_before = step > 0 ? p.cells[before] : p.cell_0[first];
    }
}

/// One step of one unit backward. `recurrent` becomes the gradients of the recurrent products.
template <int CELL>
DEVICE void unit_backward(const Sequence &p, int row, int step, int unit, Loaded<CELL> &loaded, float &grad_hidden,
                          float &grad_cell, float *recurrent) {
    const int length = length_of(p, row), time = time_of(p, step, length);
    const size_t state = place(p, row, time, p.hidden) + unit;
    float probe_hidden = 0.0f, probe_cell = 0.0f;
    if (step < length) {
        grad_hidden += loaded.grad_output;
        probe_hidden = grad_hidden;
        cell_backward<CELL>(p.variant, loaded.kept, loaded.hidden_before, loaded.cell_before, loaded.cell, grad_hidden,
                            grad_cell, probe_cell);
    } else {
        UNROLL()
        for (int i = 0; i < Kept<CELL>::count; i++) loaded.kept[i] = 0.0f;
    }
    if (p.grad_probe_hidden) p.grad_probe_hidden[state] = probe_hidden;
    if (CELL == LSTM && p.grad_probe_cell) p.grad_probe_cell[state] = probe_cell;
    float *to = p.gates + place(p, row, time, static_cast<size_t>(Kept<CELL>::count) * p.hidden) + unit;
    UNROLL()
    for (int i = 0; i < Kept<CELL>::count; i++) to[static_cast<size_t>(i) * p.hidden] = loaded.kept[i];
    UNROLL()
    for (int gate = 0; gate < Gates<CELL>::count; gate++) {
        recurrent[gate] = loaded.kept[recurrent_gradient<CELL>(gate)];
    }
}
