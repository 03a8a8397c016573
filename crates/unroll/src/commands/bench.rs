//! Benchmarks.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use candle_core::Device;
use clap::Parser;
use miette::{IntoDiagnostic, miette};
use serde_json::{Value, json};
use unroll_core::{Architecture, Form};
use unroll_kernels::gpu;
use unroll_results::ab::Criteria;
use unroll_results::files;

use crate::bench::ab::{self, Effort};
use crate::bench::cases::{self, Case, CaseFile};
use crate::bench::programs::{self, Program, ProgramError};
use crate::bench::{counts, outputs};
use crate::cli::{
    AbArgs, BenchArgs, BenchCommand, Cli, Command, CountsArgs, LayerArgs, ModeArg, ProfileArg,
};
use crate::experiment::Precision;
use crate::{bench, device, environment, exit, registry};

use super::{Failure, OrExit, Outcome, into_report, print, print_json, thread_pool};

pub(super) fn bench_layer(args: &LayerArgs) -> Outcome {
    let value = time_layer(args, &mut HashMap::new())?;
    if args.json {
        print(&(value.to_string() + "\n"))?;
    } else {
        for (key, field) in value.as_object().into_iter().flatten() {
            print(&format!("{key:<15} {field}\n"))?;
        }
    }
    Ok(exit::OK)
}

/// Layers that another program asks for, line by line: opening a GPU for each would take longer than timing.
pub(super) fn bench_layers() -> Outcome {
    let mut devices = HashMap::new();
    for line in std::io::stdin().lines() {
        let line = line.into_diagnostic().failure()?;
        let words = ["unroll", "bench", "layer"].into_iter().chain(line.split_whitespace());
        let answer = match Cli::try_parse_from(words).map(|cli| cli.command) {
            Ok(Command::Bench(BenchArgs { command: BenchCommand::Layer(args) })) => {
                time_layer(&args, &mut devices).map_err(|failure| failure.1.to_string())
            }
            Ok(_) => Err("options of `bench layer` are expected".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let answer = answer.unwrap_or_else(|error| json!({ "error": error.trim() }));
        print(&(answer.to_string() + "\n"))?;
        // The one who asked waits for it.
        std::io::stdout().flush().into_diagnostic().failure()?;
    }
    Ok(exit::OK)
}

/// Devices that are open, by name.
type Devices = HashMap<String, Device>;

fn time_layer(args: &LayerArgs, devices: &mut Devices) -> Result<Value, Failure> {
    let threads = args.threads.map_or_else(environment::cores, |threads| threads as usize);
    let pool = thread_pool(threads)?;
    let (dtype, precision) = (args.dtype.dtype(), args.precision.precision());
    let device = match devices.get(&args.device) {
        Some(device) => {
            precision.check(dtype, &args.device).map_err(|e| miette!("{e}")).usage()?;
            gpu::set_tf32(precision == Precision::Tf32);
            device.clone()
        }
        None => {
            device::open_in(&args.device, dtype, precision).map_err(|e| miette!("{e}")).usage()?
        }
    };
    devices.insert(args.device.clone(), device.clone());
    let request = bench::LayerRequest {
        arch: args.arch.clone(),
        batch: args.batch,
        seq_len: args.seq_len,
        input: args.input.unwrap_or(args.hidden),
        hidden: args.hidden,
        layers: args.layers,
        heads: args.heads,
        causal: args.causal,
        train: matches!(args.mode, ModeArg::Train),
        dtype,
        device,
        form: if args.reference { Form::Reference } else { Form::Auto },
        min_seconds: args.min_seconds,
        iterations: args.iterations.map(|iterations| iterations as usize),
    };
    let result = pool.install(|| bench::layer(&request)).map_err(into_report).usage()?;
    let mut value = serde_json::to_value(&result).into_diagnostic().failure()?;
    let gpu = environment::gpu_name(&args.device);
    for (key, field) in [
        ("arch", json!(args.arch)),
        ("batch", json!(args.batch)),
        ("seq_len", json!(args.seq_len)),
        ("input", json!(request.input)),
        ("hidden", json!(args.hidden)),
        ("layers", json!(args.layers.unwrap_or_else(|| default_layers(&args.arch)))),
        ("mode", json!(if request.train { "train" } else { "infer" })),
        ("threads", json!(threads)),
        ("dtype", json!(dtype.as_str())),
        ("device", json!(args.device)),
        ("precision", json!(precision.name())),
        ("driver", json!(gpu.as_ref().and_then(|_| environment::driver()))),
        ("gpu", json!(gpu)),
        ("s_per_step", json!(result.median_s / args.seq_len as f64)),
    ] {
        value[key] = field;
    }
    // Products of what is stored in 16 bits round as TF32 does.
    let rounds = precision == Precision::Tf32 || dtype.size_in_bytes() == 2;
    let ways = measured_ways(&request, rounds);
    if !ways.is_empty() {
        value["ways"] = json!(ways);
    }
    Ok(value)
}

/// Layers of an architecture that was not told how many.
fn default_layers(arch: &str) -> usize {
    let options = registry::find(arch).map(Architecture::options).unwrap_or_default();
    let given = options.iter().find(|(doc, _)| doc.name == "num_layers");
    given.and_then(|(_, value)| value.as_u64()).map_or(1, |layers| layers as usize)
}

/// What tuning found of a layer, or of attention over its shape.
fn measured_ways(request: &bench::LayerRequest, rounds: bool) -> Vec<String> {
    let bench::LayerRequest { arch, batch, seq_len, hidden, train, .. } = request;
    let tail = if rounds { " tf32:" } else { ":" };
    let of = |pass| format!("{arch} {pass} B={batch} H={hidden}{tail}");
    let mut heads = ["forward", "backward", "inference", "training"].map(of).to_vec();
    let pass = if *train { "training" } else { "inference" };
    let attention = format!("attention {pass} B={batch} ");
    let rounding = |line: &str| line.contains(" tf32:") == rounds;
    let mut ways = gpu::ways();
    heads.extend(["device: ", "lists of steps"].map(String::from));
    ways.retain(|line| {
        heads.iter().any(|head| line.starts_with(head.as_str()))
            || line.starts_with(&attention)
                && line.contains(&format!(" T={seq_len} "))
                && rounding(line)
    });
    ways
}

fn read_cases(args: &AbArgs) -> miette::Result<Vec<Case>> {
    let file = match (&args.cases, args.profile) {
        (Some(path), _) => CaseFile::read(path).map_err(miette::Report::new)?,
        (None, ProfileArg::Fast) => CaseFile::parse("fast.toml", cases::FAST).map_err(|e| *e)?,
        (None, ProfileArg::Full) => CaseFile::parse("full.toml", cases::FULL).map_err(|e| *e)?,
    };
    let filter = args.filter.as_deref().unwrap_or_default();
    let cases: Vec<Case> = file.case.into_iter().filter(|c| c.id().contains(filter)).collect();
    if cases.is_empty() {
        return Err(miette!("no case has `{filter}` in its name"));
    }
    Ok(cases)
}

/// A program by its name. One that does not compile is no wrong command.
fn resolve(name: &str, cache: &Path) -> Result<Program, Failure> {
    let program = Program::resolve(name, cache).map_err(|error| {
        let code = match error {
            ProgramError::Build { .. } => exit::FAILURE,
            _ => exit::USAGE,
        };
        Failure(code, miette!("{error}"))
    })?;
    if program.commit.as_deref().is_some_and(programs::leaves_changes_out) {
        eprintln!("{name} is the commit: changes that are not committed are left out.");
    }
    Ok(program)
}

pub(super) fn bench_ab(args: &AbArgs) -> Outcome {
    let cases = read_cases(args).usage()?;
    let base = resolve(&args.base, &args.cache)?;
    let candidate = resolve(&args.candidate, &args.cache)?;
    let criteria = Criteria {
        alpha: args.alpha,
        least_effect: args.least_effect / 100.0,
        same_within: args.same_within / 100.0,
    };
    let effort = Effort {
        blocks: args.blocks as usize,
        rounds: args.rounds as usize,
        seconds: args.seconds.as_secs_f64(),
        threads: args.threads as usize,
        summary: if args.median { ab::Summary::Median } else { ab::Summary::Fastest },
    };
    let bar = indicatif::ProgressBar::new(0);
    let mut progress = |round: &str, done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_message(round.to_owned());
        bar.set_position(done as u64);
    };
    let report = ab::compare(&base, &candidate, &cases, criteria, effort, &mut progress)
        .map_err(|e| miette!("{e}"))
        .failure()?;
    bar.finish_and_clear();
    let value = serde_json::to_value(&report).into_diagnostic().failure()?;
    let pretty = |value: &Value| serde_json::to_string_pretty(value).map(|text| text + "\n");
    let files_of = [
        (&args.out, pretty(&value)),
        (&args.markdown, Ok(outputs::markdown(&report))),
        (&args.bmf, pretty(&outputs::bencher(&report))),
        (&args.github_benchmark, pretty(&outputs::github_benchmark(&report))),
    ];
    for (path, text) in files_of {
        if let Some(path) = path {
            let text = text.into_diagnostic().failure()?;
            files::write(path, text.as_bytes()).into_diagnostic().failure()?;
        }
    }
    if args.json {
        print_json(&value)?;
    } else {
        print(&outputs::terminal(&report))?;
    }
    Ok(match report.verdict {
        ab::Verdict::Slower => exit::REGRESSION,
        ab::Verdict::Inconclusive => exit::INCONCLUSIVE,
        ab::Verdict::Same | ab::Verdict::Faster => exit::OK,
    })
}

pub(super) fn bench_counts(args: &CountsArgs) -> Outcome {
    let mut file = CaseFile::read(&args.file).map_err(miette::Report::new).usage()?;
    let program = match &args.program {
        Some(path) => path.clone(),
        None => std::env::current_exe().into_diagnostic().failure()?,
    };
    let bar = indicatif::ProgressBar::new(file.case.len() as u64);
    let tolerance = args.tolerance / 100.0;
    let progress = |done: usize| bar.set_position(done as u64);
    let report = counts::count(&program, &file.case, tolerance, progress)
        .map_err(|e| miette!("{e}"))
        .failure()?;
    bar.finish_and_clear();
    if args.update {
        for (case, count) in file.case.iter_mut().zip(&report.cases) {
            case.instructions = Some(count.instructions);
        }
        let head = "# Instructions per iteration, at most: portable kernels, one thread. Written by\n\
                    # `unroll bench counts FILE --update`.\n\n";
        let text = head.to_owned() + &toml::to_string(&file).into_diagnostic().failure()?;
        files::write(&args.file, text.as_bytes()).into_diagnostic().failure()?;
    }
    if args.json {
        print_json(&serde_json::to_value(&report).into_diagnostic().failure()?)?;
    } else {
        print(&report.terminal())?;
    }
    if let Some(path) = &args.markdown {
        files::write(path, report.markdown().as_bytes()).into_diagnostic().failure()?;
    }
    Ok(if args.update {
        exit::OK
    } else if !report.kept() {
        exit::REGRESSION
    } else if report.without_limit() > 0 {
        exit::INCONCLUSIVE
    } else {
        exit::OK
    })
}
