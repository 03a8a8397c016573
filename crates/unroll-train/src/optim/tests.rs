//! Three steps on fixed numbers against PyTorch's documented algorithms, computed apart from this
//! code in double precision.

use unroll_core::{BuildContext, Role};

use super::*;
use crate::Clip;

const START: [f64; 3] = [0.5, -1.25, 2.0];
const GRADIENTS: [[f64; 3]; 3] = [[0.1, -0.4, 0.0], [-0.3, 0.2, 1.5], [0.25, 0.05, -2.0]];

fn parameters(dtype: DType) -> ParameterSet {
    let context = BuildContext::cpu(dtype, 0);
    let mut parameters = ParameterSet::new(dtype, &Device::Cpu);
    parameters.add("p", 3, Role::Scale, &context).unwrap();
    let start = Tensor::new(&START, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    parameters.iter().next().unwrap().var.set(&start).unwrap();
    parameters
}

/// The gradient of `sum(p * g)` is `g`.
fn gradients(parameters: &ParameterSet, gradient: &[f64; 3]) -> GradStore {
    let p = parameters.get("p").unwrap();
    let gradient = Tensor::new(gradient, &Device::Cpu).unwrap().to_dtype(p.dtype()).unwrap();
    (p * gradient).unwrap().sum_all().unwrap().backward().unwrap()
}

fn values(parameters: &ParameterSet) -> Vec<f64> {
    parameters.get("p").unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn take_steps(optimizer: &mut Optimizer, parameters: &ParameterSet, rate: f64, which: &[usize]) {
    for &index in which {
        let gradients = gradients(parameters, &GRADIENTS[index]);
        optimizer.step(&gradients, rate, Bounds::NONE).unwrap();
    }
}

fn use_tensors(optimizer: &mut Optimizer) {
    for (parameter, state) in optimizer.parameters.iter().zip(&mut optimizer.state) {
        let count = optimizer.rule.slots().len();
        let zero = parameter.var.zeros_like().unwrap();
        *state = Slots::Tensors(vec![zero; count]);
    }
}

fn check(config: &TrainConfig, expected: [f64; 3]) {
    config.validate().unwrap();
    for (dtype, tensors, tolerance) in [
        (DType::F64, false, 1e-14),
        (DType::F64, true, 1e-14),
        (DType::F32, false, 1e-6),
        (DType::F32, true, 1e-6),
    ] {
        let parameters = parameters(dtype);
        let mut optimizer = Optimizer::new(config, &parameters).unwrap();
        if tensors {
            use_tensors(&mut optimizer);
        }
        take_steps(&mut optimizer, &parameters, config.learning_rate, &[0, 1, 2]);
        for (found, expected) in values(&parameters).iter().zip(expected) {
            assert!(
                (found - expected).abs() <= tolerance,
                "{config:?} {dtype:?} tensors={tensors}: {found} instead of {expected}"
            );
        }
    }
}

fn config(optimizer: OptimizerKind, learning_rate: f64) -> TrainConfig {
    TrainConfig { optimizer, learning_rate, ..TrainConfig::default() }
}

#[test]
fn sgd() {
    let plain = config(OptimizerKind::Sgd, 0.1);
    let decayed = TrainConfig { weight_decay: Some(0.2), ..plain.clone() };
    let momentum = TrainConfig { momentum: 0.9, ..decayed.clone() };
    let nesterov = TrainConfig { nesterov: true, ..momentum.clone() };
    check(&plain, [0.495, -1.235, 2.05]);
    check(&decayed, [0.465392, -1.162674, 1.935384]);
    check(&momentum, [0.449912, -1.049364, 1.697424]);
    check(&nesterov, [0.421540328, -0.988485066, 1.673386656]);
}

#[test]
fn rmsprop() {
    let decayed = TrainConfig { weight_decay: Some(0.1), ..config(OptimizerKind::RmsProp, 0.01) };
    check(&decayed, [0.41597083993218553, -1.1535121418032122, 1.8739011119476394]);
    let momentum = TrainConfig {
        alpha: 0.9,
        epsilon: 1e-6,
        momentum: 0.5,
        ..config(OptimizerKind::RmsProp, 0.01)
    };
    check(&momentum, [0.4695838913717461, -1.2206331152515193, 1.978332166958319]);
}

#[test]
fn adam() {
    let defaults = config(OptimizerKind::Adam, 0.1);
    check(&defaults, [0.43974903919120106, -1.1100103216113504, 1.9421984622691035]);
    let decayed = TrainConfig {
        betas: [0.8, 0.95],
        epsilon: 1e-3,
        weight_decay: Some(0.3),
        ..config(OptimizerKind::Adam, 0.1)
    };
    check(&decayed, [0.33908383453988594, -0.9965451173819238, 1.792477281840748]);
}

#[test]
fn adamw() {
    let defaults = config(OptimizerKind::AdamW, 0.1);
    check(&defaults, [0.438401019690091, -1.1064906040594766, 1.9362788739507588]);
    let strong = TrainConfig {
        betas: [0.5, 0.9],
        epsilon: 1e-2,
        weight_decay: Some(0.5),
        ..config(OptimizerKind::AdamW, 0.2)
    };
    check(&strong, [0.2851872026282021, -0.7752592218482235, 1.3892686853280198]);
}

/// Clipping by norm (here 3.25) and then by value happens while the gradient is read.
#[test]
fn clipping_is_part_of_the_step() {
    let clip = Clip { norm: Some(2.0), value: Some(0.7) };
    let bounds = clip.bounds(3.25);
    let gradient = [0.5, -1.0, 3.0];
    for tensors in [false, true] {
        let parameters = parameters(DType::F64);
        let mut optimizer = Optimizer::new(&config(OptimizerKind::Sgd, 1.0), &parameters).unwrap();
        if tensors {
            use_tensors(&mut optimizer);
        }
        optimizer.step(&gradients(&parameters, &gradient), 1.0, bounds).unwrap();
        let factor = 2.0 / (3.25 + 1e-6);
        let expected = [0.5 - factor * 0.5, -1.25 + factor, 2.0 - 0.7];
        for (found, expected) in values(&parameters).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15);
        }
    }
}

/// Going on from an exported state gives the same bits as never stopping.
#[test]
fn state_can_be_carried_over() {
    for kind in
        [OptimizerKind::Sgd, OptimizerKind::RmsProp, OptimizerKind::Adam, OptimizerKind::AdamW]
    {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let config = TrainConfig { momentum: 0.9, ..config(kind, 0.1) };
            let whole = parameters(dtype);
            take_steps(&mut Optimizer::new(&config, &whole).unwrap(), &whole, 0.1, &[0, 1, 2]);

            let split = parameters(dtype);
            let mut first = Optimizer::new(&config, &split).unwrap();
            take_steps(&mut first, &split, 0.1, &[0, 1]);
            let mut second = Optimizer::new(&config, &split).unwrap();
            second.restore(&first.state().unwrap()).unwrap();
            take_steps(&mut second, &split, 0.1, &[2]);
            assert_eq!(values(&whole), values(&split), "{kind:?}");
            assert_eq!(second.steps(), 3);
        }
    }
}

/// Steps of a thousandth at 2, where 16-bit numbers lie 1/128 apart: each one alone would be rounded away.
#[test]
fn steps_below_the_spacing_of_16_bit_weights_add_up() {
    let parameters = parameters(DType::BF16);
    let mut optimizer = Optimizer::new(&config(OptimizerKind::Sgd, 0.001), &parameters).unwrap();
    for _ in 0..100 {
        optimizer.step(&gradients(&parameters, &[1.0; 3]), 0.001, Bounds::NONE).unwrap();
    }
    for (found, expected) in values(&parameters).iter().zip([0.4, -1.35, 1.9]) {
        assert!((found - expected).abs() < 0.004, "{found} instead of {expected}");
    }
}

#[test]
fn foreign_states_are_refused() {
    let parameters = parameters(DType::F32);
    let adam = Optimizer::new(&config(OptimizerKind::Adam, 0.1), &parameters).unwrap();
    let mut rmsprop = Optimizer::new(&config(OptimizerKind::RmsProp, 0.1), &parameters).unwrap();
    let error = rmsprop.restore(&adam.state().unwrap()).unwrap_err();
    assert!(error.to_string().contains("p.square_avg"), "{error}");
}

/// NaN is not turned into a bound by clipping.
#[test]
fn nan_stays_nan() {
    assert!(f32::NAN.bounded(1.0).is_nan());
    assert_eq!([5.0f64, -5.0, 0.5].map(|x| x.bounded(1.0)), [1.0, -1.0, 0.5]);
}
