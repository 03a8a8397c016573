// The cells' equations, one unit of one sequence at a time. Gates in PyTorch's order.
#pragma once

#include "device.h"

enum Cell { RNN, GRU, LSTM };

/// Values of `variant`: a vanilla RNN's activation, a GRU's update gate.
enum { TANH = 0, RELU = 1, IDENTITY = 2, KEEP_OLD = 0, TAKE_NEW = 1 };

/// Gates: blocks of rows in the weights.
template <int CELL> struct Gates { static constexpr int count = CELL == RNN ? 1 : CELL == GRU ? 3 : 4; };

/// Numbers per unit that backward needs of forward: the RNN's new state without what a probe adds; the
/// GRU's r, z, n and `U_n h + b_hn`; the LSTM's i, f, g, o. Backward puts the gradients of the gates'
/// inputs in their place; the GRU's fourth is that of `U_n h + b_hn`.
template <int CELL> struct Kept { static constexpr int count = CELL == RNN ? 1 : 4; };

/// Which of the kept numbers is the gradient of a gate's recurrent product.
template <int CELL> DEVICE int recurrent_gradient(int gate) { return CELL == GRU && gate == 2 ? 3 : gate; }

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// From the gates' projected inputs and recurrent products, biases included, to the new state.
template <int CELL>
DEVICE void cell_forward(int variant, const float *input, const float *recurrent, float probe_cell,
                         float &hidden, float &cell, float *kept) {
    if (CELL == RNN) {
        const float sum = input[0] + recurrent[0];
        hidden = variant == TANH ? tanhf(sum) : variant == RELU ? fmaxf(sum, 0.0f) : sum;
        kept[0] = hidden;
    } else if (CELL == GRU) {
        const float r = sigmoid(input[0] + recurrent[0]);
        const float z = sigmoid(input[1] + recurrent[1]);
        const float n = tanhf(input[2] + r * recurrent[2]);
        hidden = variant == KEEP_OLD ? (1.0f - z) * n + z * hidden : (1.0f - z) * hidden + z * n;
        kept[0] = r, kept[1] = z, kept[2] = n, kept[3] = recurrent[2];
    } else {
        const float i = sigmoid(input[0] + recurrent[0]);
        const float f = sigmoid(input[1] + recurrent[1]);
        const float g = tanhf(input[2] + recurrent[2]);
        const float o = sigmoid(input[3] + recurrent[3]);
        cell = f * cell + i * g + probe_cell;
        hidden = o * tanhf(cell);
        kept[0] = i, kept[1] = f, kept[2] = g, kept[3] = o;
    }
}

/// From the gradients of the new state to those of the gates, in the place of `kept`, and those of the old
/// state: `grad_hidden` becomes the part that does not pass through the weights. `grad_probe` is what a
/// probe of the cell state sees.
template <int CELL>
DEVICE void cell_backward(int variant, float *kept, float hidden_before, float cell_before, float cell,
                          float &grad_hidden, float &grad_cell, float &grad_probe) {
    if (CELL == RNN) {
        const float h = kept[0];
        const float slope = variant == TANH ? 1.0f - h * h : variant == RELU ? (h > 0.0f ? 1.0f : 0.0f) : 1.0f;
        kept[0] = grad_hidden * slope;
        grad_hidden = 0.0f;
    } else if (CELL == GRU) {
        const float r = kept[0], z = kept[1], n = kept[2], product = kept[3];
        const float share = variant == KEEP_OLD ? 1.0f - z : z;
        const float moved = variant == KEEP_OLD ? hidden_before - n : n - hidden_before;
        const float grad_n = grad_hidden * share * (1.0f - n * n);
        kept[0] = grad_n * product * r * (1.0f - r);
        kept[1] = grad_hidden * moved * z * (1.0f - z);
        kept[2] = grad_n;
        kept[3] = grad_n * r;
        grad_hidden *= 1.0f - share;
    } else {
        const float i = kept[0], f = kept[1], g = kept[2], o = kept[3];
        const float t = tanhf(cell);
        const float grad = grad_cell + grad_hidden * o * (1.0f - t * t);
        kept[0] = grad * g * i * (1.0f - i);
        kept[1] = grad * cell_before * f * (1.0f - f);
        kept[2] = grad * i * (1.0f - g * g);
        kept[3] = grad_hidden * t * o * (1.0f - o);
        grad_probe = grad;
        grad_cell = grad * f;
        grad_hidden = 0.0f;
    }
}
