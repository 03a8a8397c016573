//! The fused form against the reference form, over every registered architecture.

use candle_core::{DType, Var};
use unroll_core::{Form, ForwardArgs, Lengths, Mode, Stream};

use crate::common::{Case, assert_close, cases, gradient, gradients, input, lengths, normal};

/// Outputs, states and all gradients of both forms.
fn compare(case: &Case, batch: usize, seq_len: usize, lengths: Option<&Lengths>) {
    let model = case.build();
    let what = format!("{case:?}, T = {seq_len}, {lengths:?}");
    let x = Var::from_tensor(&input(&*model, batch, seq_len)).unwrap();
    let args = ForwardArgs { lengths, ..ForwardArgs::new(x.as_tensor()) };
    let fused = model.forward(&args).unwrap();
    let reference = model.forward(&ForwardArgs { form: Form::Reference, ..args }).unwrap();
    assert_eq!(reference.form, "reference", "{what}");
    let expected = if case.name == "linear" { "reference" } else { "fused" };
    assert_eq!(fused.form, expected, "{what}");
    assert_close(&fused.output, &reference.output, 1e-11, &what);
    for (fused, reference) in fused.state.tensors().iter().zip(reference.state.tensors()) {
        assert_close(&fused.tensor, &reference.tensor, 1e-11, &what);
    }
    let weights = normal("weights", fused.output.dims());
    let (found, expected) =
        (gradients(&fused.output, &weights), gradients(&reference.output, &weights));
    assert_close(&gradient(&found, &x), &gradient(&expected, &x), 1e-10, &what);
    for parameter in model.parameters().iter() {
        let (found, expected) =
            (gradient(&found, &parameter.var), gradient(&expected, &parameter.var));
        // Gradients of parameters are sums over all steps.
        assert_close(&found, &expected, 1e-9, &format!("{what}: {}", parameter.name));
    }
    let last = model.forward_last(&args).unwrap();
    let args = ForwardArgs { form: Form::Reference, ..args };
    assert_close(&last, &model.forward_last(&args).unwrap(), 1e-11, &format!("{what}: last"));
}

#[test]
fn both_forms_give_the_same_numbers() {
    for case in cases() {
        compare(&case, 2, 1, None);
        compare(&case, 2, 7, None);
        compare(&case, 1, 131, None);
        compare(&case, 3, 9, Some(&lengths(&[9, 1, 4], 9)));
        compare(&case, 2, 9, Some(&lengths(&[5, 5], 9)));
    }
}

#[test]
fn a_carried_state_is_seen_in_both_forms() {
    for case in cases().into_iter().filter(|case| case.build().is_causal()) {
        let model = case.build();
        let x = input(&*model, 2, 11);
        let (left, right) = (x.narrow(1, 0, 6).unwrap(), x.narrow(1, 6, 5).unwrap());
        let state = model.forward(&ForwardArgs::new(&left)).unwrap().state;
        let lengths = lengths(&[5, 2], 5);
        let args = ForwardArgs {
            state: Some(&state),
            lengths: Some(&lengths),
            ..ForwardArgs::new(&right)
        };
        let reference = ForwardArgs { form: Form::Reference, ..args };
        let (found, expected) =
            (model.forward(&args).unwrap().output, model.forward(&reference).unwrap().output);
        assert_close(&found, &expected, 1e-11, &format!("{case:?}"));
        let (found, expected) =
            (model.forward_last(&args).unwrap(), model.forward_last(&reference).unwrap());
        assert_close(&found, &expected, 1e-11, &format!("{case:?}: last"));
    }
}

#[test]
fn weights_and_their_dropout_take_the_reference_form() {
    let mha = cases().into_iter().find(|case| case.name == "mha").unwrap();
    let x = input(&*mha.build(), 2, 5);
    let form = |case: &Case, attention, mode| {
        let args = ForwardArgs { attention, mode, ..ForwardArgs::new(&x) };
        case.build().forward(&args).unwrap().form
    };
    let (stream, dropping) = (Stream::new(3, "train"), mha.with("attention_dropout", 0.5));
    assert_eq!(form(&mha, false, Mode::Train(&stream)), "fused");
    assert_eq!(form(&mha, true, Mode::Eval), "reference");
    assert_eq!(form(&dropping, false, Mode::Eval), "fused");
    assert_eq!(form(&dropping, false, Mode::Train(&stream)), "reference");
}

#[test]
fn single_precision_agrees() {
    for case in cases() {
        let model = case.build_as(DType::F32);
        let x = input(&*model, 2, 70).to_dtype(DType::F32).unwrap();
        let args = ForwardArgs::new(&x);
        let fused = model.forward(&args).unwrap().output;
        let args = ForwardArgs { form: Form::Reference, ..args };
        let reference = model.forward(&args).unwrap().output;
        assert_close(&fused, &reference, 1e-4, &format!("{case:?}"));
    }
}
