//! Forward and backward.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::MutexGuard;

use super::{
    Any, BAD_PARAM, Data, Handle, KEPT, NOT_SUPPORTED, Rnn, SUCCESS, Status, Tensor, object, refuse,
};
use crate::driver::{StreamHandle, unless_recording};
use crate::memory;
use crate::work::alone;

/// Numbers in the device's memory.
#[derive(Clone, Copy)]
struct Numbers(*mut f32);

impl Numbers {
    /// `len` numbers from an address on; `None` when they are not the device's, or not aligned to a number.
    fn at(address: *const c_void, len: usize) -> Option<Self> {
        let known =
            memory::contains(address as usize, 4 * len) && (address as usize).is_multiple_of(4);
        (!address.is_null() && known).then_some(Self(address.cast_mut().cast()))
    }

    fn get(self, index: usize) -> f64 {
        // SAFETY: callers stay within what was checked.
        f64::from(unsafe { self.0.add(index).read() })
    }

    fn set(self, index: usize, value: f64) {
        // SAFETY: as above.
        unsafe { self.0.add(index).write(value as f32) };
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One call's sizes and memory.
struct Call<'a> {
    rnn: &'a Rnn,
    steps: usize,
    batch: usize,
    state: Option<Numbers>,
    cell: Option<Numbers>,
    _alone: MutexGuard<'static, ()>,
}

impl<'a> Call<'a> {
    /// Checks what all three calls are given.
    ///
    /// # Safety
    /// Objects that are there.
    unsafe fn new(
        handle: Any,
        rnn: Any,
        lengths: *const i32,
        (x, y): (Any, Any),
        state: (Any, *const c_void),
        cell: *const c_void,
        (weight_bytes, work): (usize, (usize, *const c_void)),
    ) -> Result<Self, Status> {
        // SAFETY: the caller's promise.
        let (handle, rnn, x, y, tensor) = unsafe {
            (
                object::<Handle>(handle),
                object::<Rnn>(rnn),
                object::<Data>(x),
                object::<Data>(y),
                object::<Tensor>(state.0),
            )
        };
        if unless_recording(handle.stream as StreamHandle, "cuDNN") != 0 {
            return Err(refuse(NOT_SUPPORTED, "a stream that records"));
        }
        let (batch, steps, hidden) = (x.batch, x.steps, rnn.hidden);
        let whole = [1, batch as c_int, hidden as c_int];
        let agree = (y.batch, y.steps, y.width, x.width) == (batch, steps, hidden, rnn.inputs);
        let packed = [(batch * hidden) as c_int, hidden as c_int, 1];
        if !rnn.check(weight_bytes) || !agree || tensor.dims != whole || tensor.strides != packed {
            return Err(refuse(BAD_PARAM, "sizes that do not agree"));
        }
        // Older versions read lengths on the device.
        if !lengths.is_null() {
            if !memory::contains(lengths as usize, 4 * batch) {
                return Err(refuse(BAD_PARAM, "lengths that are not the device's"));
            }
            // SAFETY: so many integers of the device's.
            let found = unsafe { std::slice::from_raw_parts(lengths, batch) };
            if found.iter().any(|&length| length as usize != steps) {
                return Err(refuse(BAD_PARAM, "lengths on the device that are others"));
            }
        }
        if work.0 < 64 || Numbers::at(work.1, 16).is_none() {
            return Err(refuse(BAD_PARAM, "no memory to work in"));
        }
        let mut call = Self { rnn, steps, batch, state: None, cell: None, _alone: alone() };
        call.state = call.given(state.1)?;
        call.cell = call.given(cell)?;
        Ok(call)
    }

    /// A state, or none.
    fn given(&self, address: *const c_void) -> Result<Option<Numbers>, Status> {
        match Numbers::at(address, self.batch * self.rnn.hidden) {
            None if !address.is_null() => {
                Err(refuse(BAD_PARAM, "a state that is not the device's"))
            }
            found => Ok(found),
        }
    }

    fn numbers(address: *const c_void, len: usize, what: &str) -> Result<Numbers, Status> {
        Numbers::at(address, len).ok_or_else(|| refuse(BAD_PARAM, what))
    }

    fn kept(&self, (bytes, address): (usize, *const c_void)) -> Result<Numbers, Status> {
        let len = KEPT * self.batch * self.steps * self.rnn.hidden;
        // An algorithm cannot read what another kept.
        let data = Data { steps: self.steps, batch: self.batch, width: self.rnn.inputs };
        if bytes != self.rnn.kept_bytes(&data) {
            return Err(refuse(BAD_PARAM, "what is kept for backward is not of this layer"));
        }
        Self::numbers(address, len, "what is kept for backward is not the device's")
    }

    /// The hidden state that a step begins with.
    fn before(&self, y: Numbers, b: usize, t: usize, unit: usize) -> f64 {
        let hidden = self.rnn.hidden;
        match t {
            0 => self.state.map_or(0.0, |state| state.get(b * hidden + unit)),
            _ => y.get((b * self.steps + t - 1) * hidden + unit),
        }
    }

    fn cell_before(
        &self,
        kept: &dyn Fn(usize, usize, usize) -> f64,
        b: usize,
        t: usize,
        unit: usize,
    ) -> f64 {
        match t {
            0 => self.cell.map_or(0.0, |cell| cell.get(b * self.rnn.hidden + unit)),
            _ => kept(b, t - 1, unit),
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnRNNForward(
    handle: Any,
    rnn: Any,
    mode: c_uint,
    lengths: *const i32,
    x_data: Any,
    x: *const c_void,
    y_data: Any,
    y: Any,
    h_tensor: Any,
    hx: *const c_void,
    hy: Any,
    _c_tensor: Any,
    cx: *const c_void,
    cy: Any,
    weight_bytes: usize,
    weights: *const c_void,
    work_bytes: usize,
    work: Any,
    reserve_bytes: usize,
    reserve: Any,
) -> Status {
    let call = unsafe {
        let rest = (weight_bytes, (work_bytes, work.cast_const()));
        Call::new(handle, rnn, lengths, (x_data, y_data), (h_tensor, hx), cx, rest)
    };
    let run = || -> Result<(), Status> {
        let call = call?;
        let (rnn, batch, steps) = (call.rnn, call.batch, call.steps);
        let (inputs, hidden, gates) = (rnn.inputs, rnn.hidden, rnn.gates());
        let x = Call::numbers(x, batch * steps * inputs, "the input is not the device's")?;
        let y = Call::numbers(y, batch * steps * hidden, "the output is not the device's")?;
        let weights =
            Call::numbers(weights, rnn.weight_count(), "the weights are not the device's")?;
        let kept = if mode == 1 { Some(call.kept((reserve_bytes, reserve))?) } else { None };
        let mut cells = vec![0.0; batch * hidden];
        for (b, t) in (0..batch).flat_map(|b| (0..steps).map(move |t| (b, t))) {
            for unit in 0..hidden {
                let sum = |id: usize| -> f64 {
                    let (matrix, bias) = rnn.place(id);
                    let product: f64 = if id < gates {
                        (0..inputs)
                            .map(|i| {
                                rnn.read(weights.get(matrix + unit * inputs + i))
                                    * rnn.read(x.get((b * steps + t) * inputs + i))
                            })
                            .sum()
                    } else {
                        (0..hidden)
                            .map(|k| {
                                rnn.read(weights.get(matrix + unit * hidden + k))
                                    * rnn.read(call.before(y, b, t, k))
                            })
                            .sum()
                    };
                    product + if rnn.biases { weights.get(bias + unit) } else { 0.0 }
                };
                let gate = |gate: usize| sum(gate) + sum(gates + gate);
                let mut keep = [0.0; 5];
                let new = match rnn.mode {
                    0 => gate(0).max(0.0),
                    1 => gate(0).tanh(),
                    2 => {
                        let before = if t == 0 {
                            call.cell.map_or(0.0, |cell| cell.get(b * hidden + unit))
                        } else {
                            cells[b * hidden + unit]
                        };
                        let [i, f, o] = [0, 1, 3].map(|g| sigmoid(gate(g)));
                        let g = gate(2).tanh();
                        let cell = f * before + i * g;
                        keep = [i, f, g, o, cell];
                        cells[b * hidden + unit] = cell;
                        o * cell.tanh()
                    }
                    _ => {
                        let [r, z] = [0, 1].map(|g| sigmoid(gate(g)));
                        let recurrent = sum(gates + 2);
                        let n = (sum(2) + r * recurrent).tanh();
                        keep = [r, z, n, recurrent, 0.0];
                        (1.0 - z) * n + z * call.before(y, b, t, unit)
                    }
                };
                if let Some(kept) = kept {
                    for (slot, value) in keep.into_iter().enumerate() {
                        kept.set(((b * steps + t) * hidden + unit) * KEPT + slot, value);
                    }
                }
                y.set((b * steps + t) * hidden + unit, new);
            }
        }
        for (to, is_cell) in [(hy, false), (cy, rnn.mode == 2)] {
            if to.is_null() {
                continue;
            }
            let to = Call::numbers(to, batch * hidden, "the last state is not the device's")?;
            for (index, &cell) in cells.iter().enumerate() {
                let (b, unit) = (index / hidden, index % hidden);
                let last = y.get((b * steps + steps - 1) * hidden + unit);
                to.set(index, if is_cell { cell } else { last });
            }
        }
        Ok(())
    };
    run().err().unwrap_or(SUCCESS)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnRNNBackwardData_v8(
    handle: Any,
    rnn: Any,
    lengths: *const i32,
    y_data: Any,
    y: *const c_void,
    dy: *const c_void,
    x_data: Any,
    dx: Any,
    h_tensor: Any,
    hx: *const c_void,
    dhy: *const c_void,
    dhx: Any,
    _c_tensor: Any,
    cx: *const c_void,
    dcy: *const c_void,
    dcx: Any,
    weight_bytes: usize,
    weights: *const c_void,
    work_bytes: usize,
    work: Any,
    reserve_bytes: usize,
    reserve: Any,
) -> Status {
    let call = unsafe {
        let rest = (weight_bytes, (work_bytes, work.cast_const()));
        Call::new(handle, rnn, lengths, (x_data, y_data), (h_tensor, hx), cx, rest)
    };
    let run = || -> Result<(), Status> {
        let call = call?;
        let (rnn, batch, steps) = (call.rnn, call.batch, call.steps);
        let (inputs, hidden, gates) = (rnn.inputs, rnn.hidden, rnn.gates());
        let all = batch * steps * hidden;
        let y = Call::numbers(y, all, "the output is not the device's")?;
        let dy = Call::numbers(dy, all, "the output's gradient is not the device's")?;
        let dx =
            Call::numbers(dx, batch * steps * inputs, "the input's gradient is not the device's")?;
        let weights =
            Call::numbers(weights, rnn.weight_count(), "the weights are not the device's")?;
        let kept = call.kept((reserve_bytes, reserve))?;
        let at = |b: usize, t: usize, unit: usize| ((b * steps + t) * hidden + unit) * KEPT;
        let (grad_hidden, grad_cell) = (call.given(dhy)?, call.given(dcy)?);
        let arriving = |from: Option<Numbers>, index| from.map_or(0.0, |from| from.get(index));
        for b in 0..batch {
            let states = b * hidden..(b + 1) * hidden;
            let mut grad_h: Vec<f64> =
                states.clone().map(|index| arriving(grad_hidden, index)).collect();
            let mut grad_c: Vec<f64> = states.map(|index| arriving(grad_cell, index)).collect();
            for t in (0..steps).rev() {
                let mut passed = vec![0.0; hidden];
                for unit in 0..hidden {
                    let saved = |slot: usize| kept.get(at(b, t, unit) + slot);
                    let grad = grad_h[unit] + dy.get((b * steps + t) * hidden + unit);
                    let h = y.get((b * steps + t) * hidden + unit);
                    let before = call.before(y, b, t, unit);
                    // Gradients of the gates' sums; of a GRU's last gate the fourth is that of its recurrent part.
                    let found = match rnn.mode {
                        0 => [if h > 0.0 { grad } else { 0.0 }, 0.0, 0.0, 0.0],
                        1 => [grad * (1.0 - h * h), 0.0, 0.0, 0.0],
                        2 => {
                            let [i, f, g, o, cell] = [0, 1, 2, 3, 4].map(saved);
                            let cells = |b, t, unit| kept.get(at(b, t, unit) + 4);
                            let cell_before = call.cell_before(&cells, b, t, unit);
                            let tanh = cell.tanh();
                            let of_cell = grad_c[unit] + grad * o * (1.0 - tanh * tanh);
                            grad_c[unit] = of_cell * f;
                            [
                                of_cell * g * i * (1.0 - i),
                                of_cell * cell_before * f * (1.0 - f),
                                of_cell * i * (1.0 - g * g),
                                grad * tanh * o * (1.0 - o),
                            ]
                        }
                        _ => {
                            let [r, z, n, recurrent] = [0, 1, 2, 3].map(saved);
                            let of_n = grad * (1.0 - z) * (1.0 - n * n);
                            passed[unit] = grad * z;
                            [
                                of_n * recurrent * r * (1.0 - r),
                                grad * (before - n) * z * (1.0 - z),
                                of_n,
                                of_n * r,
                            ]
                        }
                    };
                    for (gate, value) in found.into_iter().enumerate() {
                        kept.set(at(b, t, unit) + 5 + gate, value);
                    }
                }
                let of_gate = |unit: usize, gate: usize| kept.get(at(b, t, unit) + 5 + gate);
                for i in 0..inputs {
                    let mut sum = 0.0;
                    for (gate, unit) in
                        (0..gates).flat_map(|gate| (0..hidden).map(move |unit| (gate, unit)))
                    {
                        sum += rnn.read(of_gate(unit, gate))
                            * rnn.read(weights.get(rnn.place(gate).0 + unit * inputs + i));
                    }
                    dx.set((b * steps + t) * inputs + i, sum);
                }
                for (k, passed) in passed.iter_mut().enumerate() {
                    for (gate, unit) in
                        (0..gates).flat_map(|gate| (0..hidden).map(move |unit| (gate, unit)))
                    {
                        let slot = if rnn.mode == 3 && gate == 2 { 3 } else { gate };
                        *passed += rnn.read(of_gate(unit, slot))
                            * rnn.read(weights.get(rnn.place(gates + gate).0 + unit * hidden + k));
                    }
                }
                grad_h = passed;
            }
            for (to, grads) in [(dhx, &grad_h), (dcx, &grad_c)] {
                if !to.is_null() {
                    let to = Call::numbers(
                        to,
                        batch * hidden,
                        "a state's gradient is not the device's",
                    )?;
                    for (unit, &grad) in grads.iter().enumerate() {
                        to.set(b * hidden + unit, grad);
                    }
                }
            }
        }
        Ok(())
    };
    run().err().unwrap_or(SUCCESS)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnRNNBackwardWeights_v8(
    handle: Any,
    rnn: Any,
    add: c_uint,
    lengths: *const i32,
    x_data: Any,
    x: *const c_void,
    h_tensor: Any,
    hx: *const c_void,
    y_data: Any,
    y: *const c_void,
    weight_bytes: usize,
    grad_weights: Any,
    work_bytes: usize,
    work: Any,
    reserve_bytes: usize,
    reserve: Any,
) -> Status {
    if add != 0 {
        return refuse(NOT_SUPPORTED, "weights' gradients that are not added");
    }
    let call = unsafe {
        let rest = (weight_bytes, (work_bytes, work.cast_const()));
        Call::new(handle, rnn, lengths, (x_data, y_data), (h_tensor, hx), std::ptr::null(), rest)
    };
    let run = || -> Result<(), Status> {
        let call = call?;
        let (rnn, batch, steps) = (call.rnn, call.batch, call.steps);
        let (inputs, hidden, gates) = (rnn.inputs, rnn.hidden, rnn.gates());
        let x = Call::numbers(x, batch * steps * inputs, "the input is not the device's")?;
        let y = Call::numbers(y, batch * steps * hidden, "the output is not the device's")?;
        let to = Call::numbers(
            grad_weights,
            rnn.weight_count(),
            "the weights' gradients are not the device's",
        )?;
        let kept = call.kept((reserve_bytes, reserve))?;
        for id in 0..2 * gates {
            let (matrix, bias) = rnn.place(id);
            let (gate, of_input) = (id % gates, id < gates);
            let slot = 5 + if !of_input && rnn.mode == 3 && gate == 2 { 3 } else { gate };
            let columns = if of_input { inputs } else { hidden };
            for unit in 0..hidden {
                let sum = |read: &dyn Fn(usize, usize) -> f64| -> f64 {
                    let pairs = (0..batch).flat_map(|b| (0..steps).map(move |t| (b, t)));
                    let kept = |b, t| kept.get(((b * steps + t) * hidden + unit) * KEPT + slot);
                    pairs.map(|(b, t)| rnn.read(kept(b, t)) * rnn.read(read(b, t))).sum()
                };
                for column in 0..columns {
                    let found = sum(&|b, t| match of_input {
                        true => x.get((b * steps + t) * inputs + column),
                        false => call.before(y, b, t, column),
                    });
                    let at = matrix + unit * columns + column;
                    to.set(at, to.get(at) + found);
                }
                if rnn.biases {
                    to.set(bias + unit, to.get(bias + unit) + sum(&|_, _| 1.0));
                }
            }
        }
        Ok(())
    };
    run().err().unwrap_or(SUCCESS)
}
