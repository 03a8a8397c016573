//! Tensors for tests.

use candle_core::{DType, Device, Tensor, Var};

/// A variable of numbers in `[-1, 1)` that look random.
pub(crate) fn draw(shape: &[usize], seed: usize, dtype: DType) -> Var {
    let count = shape.iter().product::<usize>();
    let values: Vec<f64> = (0..count)
        .map(|i| 2.0 * ((i * 7919 + seed) as f64 * 0.618_033_988_7).fract() - 1.0)
        .collect();
    let values = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    Var::from_tensor(&values.to_dtype(dtype).unwrap()).unwrap()
}

/// All elements.
pub(crate) fn list(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}
