//! Single models, data, lists.

use std::io::Write;
use std::path::Path;

use miette::{WrapErr, miette};
use serde_json::{Map, Value, json};
use unroll_core::Form;
use unroll_core::weights::TensorFile;
use unroll_results::files;

use crate::cli::{DataFetchArgs, EvalArgs, ListArgs, SampleArgs};
use crate::{device, environment, eval, exit, fetch, list, sample};

use super::{OrExit, Outcome, into_report, print, print_json, thread_pool};

pub(super) fn sample(args: &SampleArgs) -> Outcome {
    let writer = sample::Writer::open(&args.dir, args.trial.as_deref()).usage()?;
    let threads = args.threads.map_or_else(environment::cores, |threads| threads as usize);
    let request = sample::Request {
        prompt: &args.prompt,
        length: args.length,
        temperature: args.temperature,
        top_p: args.top_p,
        context: args.context,
    };
    writer.check(&request).usage()?;
    let mut texts = Vec::new();
    for number in 0..args.count {
        let mut tell = |text: &str| {
            // Shown while it is written; a closed pipe shows in the next print.
            if !args.json && std::io::stdout().write_all(text.as_bytes()).is_ok() {
                std::io::stdout().flush().ok();
            }
        };
        tell(&args.prompt);
        let seed = (args.seed, number);
        let pool = thread_pool(threads)?;
        let text = pool.install(|| writer.write(&request, seed, &mut tell)).usage()?;
        tell(if number + 1 < args.count { "\n\n" } else { "\n" });
        texts.push(text);
    }
    if args.json {
        print_json(&json!({ "trial": writer.trial(), "prompt": args.prompt, "texts": texts }))?;
    }
    Ok(exit::OK)
}

fn parse_config(text: &str) -> miette::Result<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(miette!("--config is not a JSON object")),
        Err(error) => Err(miette!("--config is not JSON: {error}")),
    }
}

pub(super) fn evaluate(args: &EvalArgs) -> Outcome {
    let config = args.config.as_deref().map(parse_config).transpose().usage()?;
    let read = |path: &Path| TensorFile::read(path).map_err(into_report).usage();
    let weights = read(&args.weights)?;
    let same = args.input == args.weights;
    let input = if same { None } else { Some(read(&args.input)?) };
    let request = eval::EvalRequest {
        arch: args.arch.clone(),
        prefix: args.prefix.clone(),
        config,
        dtype: args.dtype.dtype(),
        device: device::open_in(&args.device, args.dtype.dtype(), args.precision.precision())
            .map_err(|e| miette!("{e}"))
            .usage()?,
        form: if args.reference { Form::Reference } else { Form::Auto },
        grad: args.grad,
        probe_last: args.probe.is_some(),
    };
    let result = eval::run(&request, &weights, input.as_ref().unwrap_or(&weights));
    let out = result.map_err(into_report).usage()?;
    let bytes = out.to_bytes().map_err(into_report).failure()?;
    files::write(&args.output, &bytes)
        .map_err(into_report)
        .wrap_err("the output cannot be written")
        .usage()?;
    Ok(exit::OK)
}

pub(super) fn fetch_data(args: &DataFetchArgs) -> Outcome {
    let from = args.from.as_deref();
    let wanted = fetch::wanted(&args.names, from).map_err(into_report).usage()?;
    let home = unroll_tasks::data::home();
    let (mut failed, mut printed) = (false, Ok(()));
    fetch::fetch(&wanted, &home, from, &mut |set, outcome| match outcome {
        Ok(fetched) if printed.is_ok() => printed = print(&fetch::line(set, &fetched)),
        Ok(_) => {}
        Err(error) => {
            failed = true;
            eprintln!("{}: not fetched. {error}", set.name);
        }
    })
    .map_err(into_report)
    .failure()?;
    printed?;
    Ok(if failed { exit::FAILURE } else { exit::OK })
}

pub(super) fn list_all(args: &ListArgs) -> Outcome {
    let name = args.name.as_deref();
    if args.json {
        print_json(&list::json(name).map_err(|e| miette!("{e}")).usage()?)?;
    } else {
        print(&list::text(name).map_err(|e| miette!("{e}")).usage()?)?;
    }
    Ok(exit::OK)
}
