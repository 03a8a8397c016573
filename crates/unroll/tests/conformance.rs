//! The laws of `SequenceModel`, over every registered architecture.
//!
//! All in f64, where exactness is the point. A new architecture is tested the moment it is listed in
//! the registry.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{Case, assert_close, cases, max_difference, random, relative_error};
use unroll_core::weights::{TensorFile, export, import};
use unroll_core::{
    BuildContext, Error, Form, ForwardArgs, Init, Lengths, Mode, ParameterSet, SequenceModel,
    Stream,
};

const BATCH: usize = 3;
const STEPS: usize = 7;

fn input(case: &Case) -> Tensor {
    random(&[BATCH, STEPS, case.inputs], 11)
}

fn each(law: impl Fn(&Case, &dyn SequenceModel)) {
    let mut count = 0;
    for case in cases() {
        law(&case, case.build(DType::F64).as_ref());
        count += 1;
    }
    assert!(count >= unroll::registry::names().len(), "every architecture has a case");
}

#[test]
fn forward_equals_the_unrolled_step() {
    each(|case, model| {
        let x = input(case);
        if !model.is_causal() {
            let state = model.zero_state(BATCH).unwrap();
            let step = model.step(&x.get_on_dim(1, 0).unwrap(), &state);
            assert!(matches!(step, Err(Error::Unsupported(_))), "{case}");
            return;
        }
        let unrolled =
            model.forward(&ForwardArgs { form: Form::Unrolled, ..ForwardArgs::new(&x) }).unwrap();
        assert_eq!(unrolled.form, "unrolled");
        for form in [Form::Auto, Form::Reference] {
            let whole = model.forward(&ForwardArgs { form, ..ForwardArgs::new(&x) }).unwrap();
            assert_close(&whole.output, &unrolled.output, 1e-12, &format!("{case} {form:?}"));
            for (a, b) in whole.state.tensors().iter().zip(unrolled.state.tensors()) {
                assert_close(&a.tensor, &b.tensor, 1e-12, &format!("{case} {form:?} {}", a.name));
            }
            assert_eq!(whole.state.steps(), STEPS, "{case}");
        }
    });
}

#[test]
fn carrying_the_state_over_a_split_changes_nothing() {
    each(|case, model| {
        if !model.is_causal() {
            return;
        }
        let x = input(case);
        let whole = model.forward(&ForwardArgs::new(&x)).unwrap();
        for split in [1, 4, STEPS - 1] {
            let head = x.narrow(1, 0, split).unwrap();
            let tail = x.narrow(1, split, STEPS - split).unwrap();
            let first = model.forward(&ForwardArgs::new(&head)).unwrap();
            let second = model
                .forward(&ForwardArgs { state: Some(&first.state), ..ForwardArgs::new(&tail) })
                .unwrap();
            let joined = Tensor::cat(&[&first.output, &second.output], 1).unwrap();
            assert_close(&whole.output, &joined, 1e-12, &format!("{case} at {split}"));
            for (a, b) in whole.state.tensors().iter().zip(second.state.tensors()) {
                assert_close(&a.tensor, &b.tensor, 1e-12, &format!("{case} {}", a.name));
            }
        }
    });
}

#[test]
fn causal_outputs_do_not_depend_on_later_inputs() {
    each(|case, model| {
        let x = input(case);
        let before = model.forward(&ForwardArgs::new(&x)).unwrap().output;
        let at = 4;
        let bump = Tensor::cat(
            &[
                Tensor::zeros((BATCH, at, case.inputs), DType::F64, &Device::Cpu).unwrap(),
                random(&[BATCH, STEPS - at, case.inputs], 12),
            ],
            1,
        )
        .unwrap();
        let after = model.forward(&ForwardArgs::new(&(x + bump).unwrap())).unwrap().output;
        let part = |t: &Tensor, from, len| t.narrow(1, from, len).unwrap();
        let earlier = max_difference(&part(&before, 0, at), &part(&after, 0, at));
        let later = max_difference(&part(&before, at, STEPS - at), &part(&after, at, STEPS - at));
        assert!(later > 1e-6, "{case}: the output does not depend on its input");
        assert_eq!(model.is_causal(), earlier == 0.0, "{case}: earlier outputs moved {earlier}");
    });
}

#[test]
fn a_padded_batch_equals_its_sequences_alone() {
    let lengths = Lengths::new(vec![7, 3, 1], BATCH, STEPS).unwrap();
    each(|case, model| {
        let x = Var::from_tensor(&input(case)).unwrap();
        let weight = random(&[BATCH, STEPS, model.output_size()], 13);
        let real = lengths.mask(STEPS, DType::F64, &Device::Cpu).unwrap().unsqueeze(2).unwrap();
        for form in [Form::Auto, Form::Reference] {
            let what = format!("{case} {form:?}");
            let args =
                ForwardArgs { lengths: Some(&lengths), form, ..ForwardArgs::new(x.as_tensor()) };
            let padded = model.forward(&args).unwrap();
            let answer = padded.output.broadcast_mul(&real).unwrap();
            let grads = (&answer * &weight).unwrap().sum_all().unwrap().backward().unwrap();
            let last = model.forward_last(&args).unwrap();
            let mut totals: Vec<Option<Tensor>> = vec![None; model.parameters().len()];
            for (row, &length) in lengths.as_slice().iter().enumerate() {
                let cut = |t: &Tensor| {
                    t.narrow(0, row, 1).unwrap().narrow(1, 0, length).unwrap().contiguous().unwrap()
                };
                let alone = Var::from_tensor(&cut(x.as_tensor())).unwrap();
                let result = model
                    .forward(&ForwardArgs { form, ..ForwardArgs::new(alone.as_tensor()) })
                    .unwrap();
                assert_close(&cut(&padded.output), &result.output, 1e-12, &what);
                let at = result.output.narrow(1, length - 1, 1).unwrap().squeeze(1).unwrap();
                assert_close(&last.narrow(0, row, 1).unwrap(), &at, 1e-12, &format!("{what} last"));
                for (a, b) in padded.state.tensors().iter().zip(result.state.tensors()) {
                    if a.time_axis.is_none() {
                        let a_row = a.tensor.narrow(a.batch_axis, row, 1).unwrap();
                        assert_close(&a_row, &b.tensor, 1e-12, &format!("{what} {}", a.name));
                    }
                }
                let alone_grads =
                    (result.output * cut(&weight)).unwrap().sum_all().unwrap().backward().unwrap();
                let padded_dx = cut(grads.get(x.as_tensor()).unwrap());
                let alone_dx = alone_grads.get(alone.as_tensor()).unwrap();
                assert_close(&padded_dx, alone_dx, 1e-12, &format!("{what} dx"));
                for (total, parameter) in totals.iter_mut().zip(model.parameters().iter()) {
                    let grad = alone_grads.get(parameter.var.as_tensor()).cloned();
                    *total = match (total.take(), grad) {
                        (Some(a), Some(b)) => Some((a + b).unwrap()),
                        (a, b) => a.or(b),
                    };
                }
            }
            for (total, parameter) in totals.iter().zip(model.parameters().iter()) {
                let grad = grads.get(parameter.var.as_tensor()).unwrap();
                let total = total.as_ref().unwrap();
                assert_close(grad, total, 1e-11, &format!("{what} {}", parameter.name));
            }
            // Padding carries no gradient.
            let dx =
                grads.get(x.as_tensor()).unwrap().broadcast_mul(&real.affine(-1.0, 1.0).unwrap());
            let leak = dx.unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert_eq!(leak, 0.0, "{what}: gradient at padding");
        }
    });
}

/// Not even what is no number. (`mha` answers padded steps, as PyTorch's layer does.)
#[test]
fn what_stands_on_padding_matters_to_nothing() {
    let lengths = Lengths::new(vec![7, 3, 1], BATCH, STEPS).unwrap();
    let real = lengths.mask(STEPS, DType::U8, &Device::Cpu).unwrap().unsqueeze(2).unwrap();
    each(|case, model| {
        if case.architecture.name() == "mha" {
            return;
        }
        let x = input(case);
        let real = real.broadcast_as(x.shape()).unwrap();
        let with = |value: f64| {
            let other = (x.ones_like().unwrap() * value).unwrap();
            Var::from_tensor(&real.where_cond(&x, &other).unwrap()).unwrap()
        };
        let weight = random(&[BATCH, STEPS, model.output_size()], 13);
        for form in [Form::Auto, Form::Reference] {
            let run = |x: &Var| {
                let lengths = Some(&lengths);
                let args = ForwardArgs { lengths, form, ..ForwardArgs::new(x.as_tensor()) };
                let output = model.forward(&args).unwrap().output;
                let last = model.forward_last(&args).unwrap();
                let loss = (&output * &weight).unwrap().sum_all().unwrap();
                let grads = (loss + last.sum_all().unwrap()).unwrap().backward().unwrap();
                let of = |tensor: &Tensor| grads.get(tensor).unwrap().clone();
                let mut found = vec![output.detach(), last.detach(), of(x.as_tensor())];
                found.extend(model.parameters().iter().map(|p| of(p.var.as_tensor())));
                found
            };
            let expected = run(&with(0.0));
            for value in [7.0, f64::NAN, f64::INFINITY] {
                for (place, (a, b)) in expected.iter().zip(run(&with(value))).enumerate() {
                    let bits = |x: &Tensor| -> Vec<u64> {
                        let all = x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                        // Both zeros are the same number.
                        all.iter().map(|x| (x + 0.0).to_bits()).collect()
                    };
                    assert_eq!(bits(a), bits(&b), "{case} {form:?} {value} {place}");
                }
            }
        }
    });
}

#[test]
fn every_parameter_gets_a_gradient() {
    each(|case, model| {
        let x = input(case);
        let weight = random(&[BATCH, STEPS, model.output_size()], 14);
        for form in [Form::Auto, Form::Reference] {
            let output =
                model.forward(&ForwardArgs { form, ..ForwardArgs::new(&x) }).unwrap().output;
            let grads = (output * &weight).unwrap().sum_all().unwrap().backward().unwrap();
            for parameter in model.parameters().iter() {
                let grad = grads.get(parameter.var.as_tensor());
                let grad = grad.unwrap_or_else(|| panic!("{case}: {} has none", parameter.name));
                let norm =
                    grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
                let allowed_zero = case.zero_gradients.contains(&parameter.name.as_str());
                assert!(norm.is_finite(), "{case}: {}", parameter.name);
                assert_eq!(norm < 1e-14, allowed_zero, "{case}: {} {norm}", parameter.name);
            }
        }
    });
}

#[test]
fn gradients_match_finite_differences() {
    each(|case, model| {
        let x = Var::from_tensor(&input(case)).unwrap();
        let weight = random(&[BATCH, STEPS, model.output_size()], 15);
        let loss = || -> Tensor {
            let output = model.forward(&ForwardArgs::new(x.as_tensor())).unwrap().output;
            (output * &weight).unwrap().sum_all().unwrap()
        };
        let grads = loss().backward().unwrap();
        let check = |name: &str, var: &Var| {
            let grad: Vec<f64> = match grads.get(var.as_tensor()) {
                Some(grad) => grad.flatten_all().unwrap().to_vec1().unwrap(),
                None => vec![0.0; var.elem_count()],
            };
            let values: Vec<f64> = var.flatten_all().unwrap().to_vec1().unwrap();
            // A few entries of each tensor, spread over it.
            let stride = (values.len() / 5).max(1);
            for index in (0..values.len()).step_by(stride) {
                let at = |delta: f64| -> f64 {
                    let mut moved = values.clone();
                    moved[index] += delta;
                    var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap()).unwrap();
                    loss().to_scalar().unwrap()
                };
                let h = 1e-5;
                // Fourth order: the error is far below the tolerance.
                let slope = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
                var.set(&Tensor::from_vec(values.clone(), var.shape(), &Device::Cpu).unwrap())
                    .unwrap();
                let error = (slope - grad[index]).abs() / (1.0 + slope.abs());
                assert!(error < 1e-7, "{case} {name}[{index}]: {} vs {slope}", grad[index]);
            }
        };
        check("x", &x);
        for parameter in model.parameters().iter() {
            check(&parameter.name, &parameter.var);
        }
    });
}

#[test]
fn the_last_step_is_what_forward_gives_there() {
    each(|case, model| {
        let x = input(case);
        let whole = model.forward(&ForwardArgs::new(&x)).unwrap().output;
        let last = model.forward_last(&ForwardArgs::new(&x)).unwrap();
        let expected = whole.narrow(1, STEPS - 1, 1).unwrap().squeeze(1).unwrap();
        assert_close(&last, &expected, 1e-12, &case.to_string());
    });
}

#[test]
fn costs_are_the_real_sizes() {
    each(|case, model| {
        let x = input(case);
        let cost = model.cost(BATCH, STEPS);
        let predicted = case.cost(BATCH, STEPS);
        assert_eq!(cost, predicted, "{case}: cost of the model and of its options");
        assert_eq!(cost.parameters, model.parameters().elements() as u64, "{case}: parameters");
        let state = model.forward(&ForwardArgs::new(&x)).unwrap().state;
        assert_eq!(cost.state_elements, state.elements() as u64, "{case}: state");
        assert!(cost.forward_flops > 0 && cost.backward_flops >= cost.forward_flops, "{case}");
    });
}

#[test]
fn export_and_import_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    each(|case, model| {
        let path = folder.path().join("weights.safetensors");
        std::fs::write(&path, export(model.parameters()).unwrap().to_bytes().unwrap()).unwrap();
        let other = case.build_with_seed(DType::F64, 99);
        let x = input(case);
        let mine = model.forward(&ForwardArgs::new(&x)).unwrap().output;
        let theirs = other.forward(&ForwardArgs::new(&x)).unwrap().output;
        assert!(max_difference(&mine, &theirs) > 0.0, "{case}: seeds do not differ");
        import(other.parameters(), &TensorFile::read(&path).unwrap()).unwrap();
        let theirs = other.forward(&ForwardArgs::new(&x)).unwrap().output;
        assert_eq!(max_difference(&mine, &theirs), 0.0, "{case}");
    });
}

#[test]
fn without_a_graph_a_model_gives_the_same_bits_and_follows_its_parameters() {
    for dtype in [DType::F64, DType::F32] {
        for case in cases() {
            let model = case.build(dtype);
            let frozen = case.frozen(model.as_ref());
            let names = |model: &dyn SequenceModel| -> Vec<String> {
                model.parameters().iter().map(|p| p.name.clone()).collect()
            };
            assert_eq!(names(model.as_ref()), names(frozen.as_ref()));
            let x = input(&case).to_dtype(dtype).unwrap();
            let lengths = Lengths::new(vec![STEPS, 1, 4], BATCH, STEPS).unwrap();
            for lengths in [None, Some(&lengths)] {
                for form in [Form::Auto, Form::Reference] {
                    let args = ForwardArgs { lengths, form, ..ForwardArgs::new(&x) };
                    let with = model.forward(&args).unwrap();
                    let without = frozen.forward(&args).unwrap();
                    assert!(with.output.track_op() && !without.output.track_op(), "{case}");
                    let off = max_difference(&with.output, &without.output);
                    assert_eq!(off, 0.0, "{case} {form:?}");
                    for (a, b) in with.state.tensors().iter().zip(without.state.tensors()) {
                        assert!(!b.tensor.track_op(), "{case} {}", a.name);
                        assert_eq!(max_difference(&a.tensor, &b.tensor), 0.0, "{case} {}", a.name);
                    }
                    let last = frozen.forward_last(&args).unwrap();
                    assert!(!last.track_op(), "{case}");
                    let off = max_difference(&model.forward_last(&args).unwrap(), &last);
                    assert_eq!(off, 0.0, "{case} {form:?}");
                }
            }
            let before = frozen.forward(&ForwardArgs::new(&x)).unwrap().output;
            for parameter in model.parameters().iter() {
                parameter.var.set(&(parameter.var.as_tensor() * 1.5).unwrap()).unwrap();
            }
            let after = frozen.forward(&ForwardArgs::new(&x)).unwrap().output;
            assert!(max_difference(&before, &after) > 0.0, "{case}: what was learned is not seen");
            let expected = model.forward(&ForwardArgs::new(&x)).unwrap().output;
            assert_eq!(max_difference(&expected, &after), 0.0, "{case}");
        }
    }
}

#[test]
fn parameters_that_are_shared_must_fit() {
    for case in cases() {
        let model = case.build(DType::F64);
        let none = ParameterSet::new(DType::F64, &Device::Cpu);
        let build =
            |context: &BuildContext| case.architecture.build(&case.options, context).map(|_| ());
        let context = BuildContext::cpu(DType::F64, 0);
        let missing = build(&context.frozen(&none));
        assert!(matches!(missing, Err(Error::MissingTensor { .. })), "{case}: {missing:?}");
        let mut options = case.options.clone();
        options.insert("hidden_size".into(), 24.into());
        let other = case.architecture.build(&options, &context).unwrap();
        let wrong = build(&context.frozen(other.parameters()));
        assert!(matches!(wrong, Err(Error::Shape { .. })), "{case}: {wrong:?}");
        assert!(build(&context.frozen(model.parameters())).is_ok());
        let single = BuildContext::cpu(DType::F32, 0).frozen(model.parameters());
        assert!(matches!(build(&single), Err(Error::Type { .. })), "{case}");
        // One layer of two.
        let mut options = case.options.clone();
        if options.insert("num_layers".into(), 2.into()).is_some()
            || case.architecture.resolve(&options).is_err()
        {
            continue;
        }
        let deep = case.architecture.build(&options, &context).unwrap();
        options.insert("num_layers".into(), 1.into());
        let shallow = case.architecture.build(&options, &context.frozen(deep.parameters()));
        let error = shallow.unwrap_err();
        assert!(matches!(error, Error::NotTaken { .. }), "{case}: {error}");
    }
}

#[test]
fn states_and_probes_that_do_not_fit_are_typed_errors() {
    each(|case, model| {
        let x = input(case);
        if model.is_causal() {
            let twin = case.build(DType::F32);
            let narrow = x.to_dtype(DType::F32).unwrap();
            let state = twin.forward(&ForwardArgs::new(&narrow)).unwrap().state;
            for form in [Form::Auto, Form::Reference] {
                let args = ForwardArgs { state: Some(&state), form, ..ForwardArgs::new(&x) };
                let error = model.forward(&args).unwrap_err();
                assert!(matches!(error, Error::Type { .. }), "{case}: {error}");
            }
        }
        let layout = model.probe_layout();
        if layout.hidden == 0 {
            return;
        }
        let zeros = |steps: usize, dtype| layout.zeros(BATCH, steps, dtype, &Device::Cpu).unwrap();
        let mut few = zeros(STEPS, DType::F64);
        few.hidden.push(few.hidden[0].clone());
        let wrong = [few, zeros(STEPS - 1, DType::F64), zeros(STEPS, DType::F32)];
        for (probe, form) in wrong.iter().flat_map(|p| [(p, Form::Auto), (p, Form::Reference)]) {
            let args = ForwardArgs { probe: Some(probe), form, ..ForwardArgs::new(&x) };
            let error = model.forward(&args).unwrap_err();
            let typed = matches!(error, Error::Shape { .. } | Error::Type { .. });
            assert!(typed, "{case} {form:?}: {error}");
        }
    });
}

#[test]
fn initialisers_and_weights_that_are_no_numbers_are_refused() {
    for case in cases() {
        let init = Init { gain: f64::NAN, ..Init::default() };
        let context = BuildContext { init, ..BuildContext::cpu(DType::F64, 0) };
        let built = case.architecture.build(&case.options, &context);
        assert!(matches!(built.unwrap_err(), Error::Option { .. }), "{case}");
        let built = case.architecture.build(&case.options, &BuildContext::cpu(DType::U32, 0));
        assert!(matches!(built.unwrap_err(), Error::Type { .. }), "{case}");
        // Finite in f64, and not in f32.
        let (wide, narrow) = (case.build(DType::F64), case.build(DType::F32));
        let first = &wide.parameters().iter().next().unwrap().var;
        first.set(&first.ones_like().unwrap().affine(1e300, 0.0).unwrap()).unwrap();
        let file = export(wide.parameters()).unwrap();
        let error = import(narrow.parameters(), &file).unwrap_err();
        assert!(matches!(error, Error::NotFinite { .. }), "{case}: {error}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_and_dropout_follows_its_stream() {
    each(|case, model| {
        let twin = case.build(DType::F64);
        let x = input(case);
        let stream = Stream::new(5, "dropout");
        let run = |model: &dyn SequenceModel, step| {
            let stream = stream.at(step);
            let args = ForwardArgs { mode: Mode::Train(&stream), ..ForwardArgs::new(&x) };
            model.forward(&args).unwrap().output
        };
        assert_eq!(max_difference(&run(model, 1), &run(twin.as_ref(), 1)), 0.0, "{case}");
        let moved = max_difference(&run(model, 1), &run(model, 2));
        assert_eq!(moved > 0.0, case.has_dropout, "{case}: dropout moved outputs by {moved}");
    });
}

#[test]
fn wrong_inputs_are_typed_errors() {
    each(|case, model| {
        let wrong = random(&[BATCH, STEPS, case.inputs + 1], 16);
        assert!(
            matches!(model.forward(&ForwardArgs::new(&wrong)), Err(Error::Shape { .. })),
            "{case}"
        );
        let flat = random(&[BATCH, case.inputs], 16);
        assert!(
            matches!(model.forward(&ForwardArgs::new(&flat)), Err(Error::Shape { .. })),
            "{case}"
        );
        let x = input(case);
        let short = Lengths::new(vec![1; BATCH - 1], BATCH - 1, STEPS).unwrap();
        let args = ForwardArgs { lengths: Some(&short), ..ForwardArgs::new(&x) };
        assert!(model.forward(&args).is_err(), "{case}");
    });
}

/// In 16 bits outputs and gradients are those of f64 up to a few roundings of 2^-9 each.
#[test]
fn sixteen_bits_give_the_same_up_to_their_rounding() {
    for case in cases() {
        let (exact, rounded) = (case.build(DType::F64), case.build(DType::BF16));
        let bf16 = |tensor: &Tensor| tensor.to_dtype(DType::BF16).unwrap();
        // The same numbers on both sides: what is compared is the arithmetic.
        for (parameter, rounded) in exact.parameters().iter().zip(rounded.parameters().iter()) {
            let value = bf16(parameter.var.as_tensor());
            rounded.var.set(&value).unwrap();
            parameter.var.set(&value.to_dtype(DType::F64).unwrap()).unwrap();
        }
        let input = bf16(&input(&case));
        let weight = bf16(&random(&[BATCH, STEPS, exact.output_size()], 13));
        let run = |model: &dyn SequenceModel| {
            let dtype = model.parameters().dtype();
            let x = Var::from_tensor(&input.to_dtype(dtype).unwrap()).unwrap();
            let output = model.forward(&ForwardArgs::new(x.as_tensor())).unwrap().output;
            assert_eq!(output.dtype(), dtype, "{case}");
            let loss = (&output * weight.to_dtype(dtype).unwrap()).unwrap().sum_all().unwrap();
            let gradient = loss.backward().unwrap().get(x.as_tensor()).unwrap().clone();
            (output.detach(), gradient)
        };
        let ((output, gradient), (output16, gradient16)) =
            (run(exact.as_ref()), run(rounded.as_ref()));
        let forward = relative_error(&output16, &output);
        let backward = relative_error(&gradient16, &gradient);
        assert!(forward < 0.02 && backward < 0.05, "{case}: {forward:.4} {backward:.4}");
        assert!(forward > 1e-5, "{case}: nothing was rounded");
    }
}
