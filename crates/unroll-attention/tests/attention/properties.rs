//! The laws over random sizes, 1 included.

use candle_core::Tensor;
use proptest::prelude::*;
use serde_json::json;
use unroll_attention::ARCHITECTURES;
use unroll_core::{Form, ForwardArgs};

use crate::common::{Case, input, largest_difference, lengths, values};

fn case() -> impl Strategy<Value = Case> {
    (0..ARCHITECTURES.len(), 1..4usize, 1..4usize, 1..3usize, 1..6usize).prop_map(
        |(index, inputs, heads, half, window)| {
            let architecture = ARCHITECTURES[index];
            let options = json!({"input_size": inputs, "hidden_size": 2 * heads * half});
            let mut case = Case::new(architecture.name(), options);
            for (doc, _) in architecture.options() {
                case = match doc.name {
                    "num_heads" => case.with("num_heads", heads),
                    "window" => case.with("window", window),
                    "num_layers" => case.with("num_layers", half),
                    "causal" => case.with("causal", true),
                    _ => case,
                };
            }
            case
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn steps_halves_and_whole_agree(
        case in case(), batch in 1..4usize, seq_len in 1..12usize, cut in 0..12usize,
    ) {
        let model = case.build();
        let x = input(&*model, batch, seq_len);
        let whole = model.forward(&ForwardArgs::new(&x)).unwrap();
        let args = ForwardArgs { form: Form::Unrolled, ..ForwardArgs::new(&x) };
        let steps = model.forward(&args).unwrap();
        prop_assert!(largest_difference(&whole.output, &steps.output) < 1e-10);
        prop_assert_eq!(
            model.cost(batch, seq_len).state_elements,
            whole.state.elements() as u64
        );
        if (1..seq_len).contains(&cut) {
            let left = x.narrow(1, 0, cut).unwrap();
            let right = x.narrow(1, cut, seq_len - cut).unwrap();
            let first = model.forward(&ForwardArgs::new(&left)).unwrap();
            let args = ForwardArgs { state: Some(&first.state), ..ForwardArgs::new(&right) };
            let second = model.forward(&args).unwrap();
            let joined = Tensor::cat(&[&first.output, &second.output], 1).unwrap();
            prop_assert!(largest_difference(&whole.output, &joined) < 1e-10);
        }
    }

    #[test]
    fn padding_changes_nothing(
        case in case(), real in prop::collection::vec(1..8usize, 1..4), extra in 0..3usize,
    ) {
        let model = case.build();
        let seq_len = real.iter().max().copied().unwrap() + extra;
        let x = input(&*model, real.len(), seq_len);
        let lengths = lengths(&real, seq_len);
        let args = ForwardArgs { lengths: Some(&lengths), ..ForwardArgs::new(&x) };
        let output = model.forward(&args).unwrap().output;
        let last = model.forward_last(&args).unwrap();
        prop_assert!(values(&output).into_iter().all(f64::is_finite));
        for (b, &length) in real.iter().enumerate() {
            let cut = |t: &Tensor| t.narrow(0, b, 1).unwrap().narrow(1, 0, length).unwrap();
            let alone = model.forward(&ForwardArgs::new(&cut(&x))).unwrap().output;
            prop_assert!(largest_difference(&cut(&output), &alone) < 1e-10);
            let end = alone.get(0).unwrap().get(length - 1).unwrap();
            prop_assert!(largest_difference(&last.get(b).unwrap(), &end) < 1e-10);
        }
    }
}
