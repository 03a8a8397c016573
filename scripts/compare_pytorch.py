#!/usr/bin/env python3
"""Times layers of Unroll and of PyTorch on this machine, in turns, and compares.

    python3 -m venv ~/venv-torch && ~/venv-torch/bin/pip install torch
    cargo build --release
    ~/venv-torch/bin/python scripts/compare_pytorch.py                # everything, about 15 minutes
    ~/venv-torch/bin/python scripts/compare_pytorch.py --quick        # the first shapes alone

The virtual environment lies outside the repository; PyTorch comes from its ordinary package. Without
PyTorch the script says so and compares with candle_nn's own recurrent layers alone (`--no-torch`).

Both sides do the same: training is forward, sum of the outputs, backward to parameters and input;
inference is forward without a graph. float32, the same number of threads, standard normal input. Each
side is timed for `--seconds` in each of `--rounds` rounds, by turns; a side's time is the median of its
rounds' medians. A ratio is the other side's time over ours: above 1, Unroll is faster.

On a GPU, after `scripts/build_cuda.sh`:

    python3 scripts/compare_pytorch.py --device cuda --program target/cuda/unroll          # everything
    python3 scripts/compare_pytorch.py --device cuda --precision fp32,bf16 --budget 120    # what 2 minutes allow

There the other side is cuDNN (and cuBLAS), in the same rounding: `fp32` with TF32 switched off on both sides,
`tf32` with it switched on, `bf16` with all weights and inputs in bf16. Both sides are timed alike: from an idle
device to an idle device, by the host's clock, after warming up; `torch_events_s` is what CUDA events say
of the same iterations, `torch_steps_first_s` what recurrent layers take with steps first (cuDNN's own order; both
sides are otherwise given sequences first). The first shapes are run by candle's operations as well. One process of Unroll serves all cases, so that opening the GPU costs once.

Nothing else should run meanwhile. Writes `compare_pytorch.csv` and `compare_pytorch.md` into `--out`.
"""

import argparse
import csv
import json
import math
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# batch, steps, inputs, hidden
BASE = [(32, 128, 128, 256), (16, 64, 32, 64), (64, 256, 128, 512), (1, 512, 128, 256), (32, 512, 16, 128)]
GRID = (
    [(32, 64, hidden, hidden) for hidden in (32, 64, 128, 256, 512, 1024)]
    + [(batch, 64, 128, 128) for batch in (1, 4, 8, 16, 64, 128)]
    + [(8, steps, 64, 64) for steps in (32, 256, 1024, 2048)]
)
# Hidden sizes, batches and lengths of a GPU.
GPU_GRID = [
    (batch, steps, hidden, hidden)
    for hidden in (64, 128, 256, 512, 1024)
    for batch in (1, 16, 64)
    for steps in (128, 512)
]
# batch, steps, size, heads
ATTENTION = [(8, 512, 256, 4), (2, 2048, 256, 4), (32, 128, 256, 4), (16, 64, 64, 2), (1, 512, 256, 8)]
ATTENTION_GRID = [(64, 256, 512, 8), (128, 32, 128, 4), (4, 1024, 32, 1), (1, 32, 1024, 16)]
# Least geometric mean and least single ratio to PyTorch.
TARGETS = {
    ("lstm", "train"): (1.5, 1.0),
    ("gru", "train"): (3.0, 1.5),
    ("rnn", "train"): (3.0, 1.5),
    ("lstm", "infer"): (1.2, 0.9),
    ("gru", "infer"): (2.5, 1.2),
    ("rnn", "infer"): (2.5, 1.2),
    ("attention", "train"): (1.3, 1.0),
    ("attention", "infer"): (1.1, 0.9),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="fp32", help="fp32, tf32, bf16, by comma; tf32 on a GPU alone")
    parser.add_argument("--budget", type=float, default=math.inf, help="begin no case after so many seconds")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="time of one side in one round")
    parser.add_argument("--only", default="rnn,gru,lstm,mha,sdpa", help="layers, by comma")
    parser.add_argument("--modes", default="train,infer")
    parser.add_argument("--quick", action="store_true", help="the first shapes alone")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--no-candle", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "compare_pytorch")
    parser.add_argument("--program", type=pathlib.Path, default=None)
    return parser.parse_args()


def is_gpu(options):
    return options.device.startswith("cuda")


def cases(options):
    only, modes = options.only.split(","), options.modes.split(",")
    recurrent, attention = BASE, ATTENTION
    if not options.quick:
        recurrent = recurrent + (GPU_GRID if is_gpu(options) else GRID)
        attention = attention + ATTENTION_GRID
    all_cases = []
    for shape in recurrent:
        for cell in ("rnn", "gru", "lstm"):
            for mode in ("train", "infer"):
                if cell in only and mode in modes:
                    all_cases.append({"layer": cell, "mode": mode, "shape": shape, "causal": False})
    for shape in attention:
        for layer in ("mha", "sdpa"):
            for causal in (False, True):
                for mode in ("train", "infer"):
                    if layer in only and mode in modes:
                        all_cases.append({"layer": layer, "mode": mode, "shape": shape, "causal": causal})
    if math.isfinite(options.budget):
        # In an order that leaves no shape, layer or mode to the end.
        random.Random(1).shuffle(all_cases)
    for case in all_cases:
        for precision in options.precision.split(","):
            yield {**case, "precision": precision}


class Unroll:
    """Our side: on a GPU one process, asked line by line; on the processor a fresh one each time."""

    def __init__(self, program):
        self.program = str(program)
        self.process = None

    def ask(self, line, keep):
        if self.process is None or self.process.poll() is not None:
            command = [self.program, "bench", "layers"]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not keep or not answer:
            self.process.stdin.close()
            self.process.wait()
            self.process = None
        return answer

    def __call__(self, case, layer, options, further=()):
        batch, steps, inputs, hidden = sizes(case)
        words = ["--arch", layer, "--batch", batch, "--seq-len", steps, "--hidden", hidden]
        words += ["--input", inputs, "--mode", case["mode"], "--device", options.device]
        words += ["--threads", options.threads, "--min-seconds", options.seconds]
        words += {"fp32": [], "tf32": ["--precision", "tf32"], "bf16": ["--dtype", "bf16"]}[case["precision"]]
        if case["layer"] in ("mha", "sdpa"):
            words += ["--heads", case["shape"][3]]
        if case["causal"]:
            words.append("--causal")
        words += further
        line = self.ask(" ".join(map(str, words)), is_gpu(options))
        answer = json.loads(line) if line else {"error": "the program has ended"}
        if "error" in answer:
            raise Failed(f"{' '.join(map(str, words))}: {answer['error'].splitlines()[0]}")
        return answer


class Failed(Exception):
    """A case that one side cannot run."""


def sizes(case):
    """Batch, steps, inputs and hidden size of a case."""
    if case["layer"] in ("mha", "sdpa"):
        batch, steps, size, _ = case["shape"]
        return batch, steps, size, size
    return case["shape"]


def set_precision(torch, precision):
    """What products of float32 round to: the same switch as on our side."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    # Off, it keeps bf16 from tensor cores too, which is nobody's default.
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


def torch_step(torch, case, device, batch_first=True):
    """A function that does one iteration in PyTorch. Steps first is cuDNN's own order: sequences first costs copies."""
    torch.manual_seed(0)
    set_precision(torch, case["precision"])
    kind = {"device": device, "dtype": torch.bfloat16 if case["precision"] == "bf16" else torch.float32}
    batch, steps, inputs, hidden = sizes(case)
    train = case["mode"] == "train"
    if case["layer"] == "sdpa":
        heads = case["shape"][3]
        tensors = [torch.randn(batch, heads, steps, hidden // heads, **kind) for _ in range(3)]
        parameters = [tensor.requires_grad_(train) for tensor in tensors]
        causal = case["causal"]

        def forward():
            return torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=causal)
    else:
        x = torch.randn(*((batch, steps) if batch_first else (steps, batch)), inputs, **kind).requires_grad_(train)
        if case["layer"] == "mha":
            module = torch.nn.MultiheadAttention(hidden, case["shape"][3], batch_first=True, **kind)
            mask = None
            if case["causal"]:
                mask = torch.nn.Transformer.generate_square_subsequent_mask(steps, **kind)

            def forward():
                causal = case["causal"]
                return module(x, x, x, need_weights=False, attn_mask=mask, is_causal=causal)[0]
        else:
            kinds = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
            module = kinds[case["layer"]](inputs, hidden, batch_first=batch_first, **kind)

            def forward():
                return module(x)[0]
        module.train(train)
        parameters = [x, *module.parameters()]

    def forget():
        for parameter in parameters:
            parameter.grad = None

    def step():
        if not train:
            with torch.inference_mode():
                return forward()
        forget()
        forward().sum().backward()

    # Gradients of the iteration before are no part of what the next one needs.
    step.forget = forget
    return step


def torch_time(torch, step, seconds, gpu):
    """Median seconds of an iteration, after a warm-up of a quarter of the time; by CUDA events too."""
    synchronize = torch.cuda.synchronize if gpu else lambda: None
    end = time.perf_counter() + seconds / 4
    while True:
        step()
        synchronize()
        if time.perf_counter() >= end:
            break
    times, events = [], []
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if gpu else None
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        synchronize()
        begin = time.perf_counter()
        step()
        synchronize()
        times.append(time.perf_counter() - begin)
        # Iterations of their own: asking for events takes time too.
        if gpu and len(times) % 4 == 1:
            marks[0].record()
            step()
            marks[1].record()
            synchronize()
            events.append(marks[0].elapsed_time(marks[1]) / 1000)
    return statistics.median(times), statistics.median(events) if events else None


def measure(case, unroll, torch, options):
    """Medians of each side."""
    step = torch_step(torch, case, options.device) if torch else None
    # On the processor candle's own layers, on a GPU its operations in the place of our kernels.
    compare_candle = not options.no_candle and (
        case["shape"] in BASE + ATTENTION
        if is_gpu(options)
        else case["precision"] == "fp32" and case["layer"] in ("gru", "lstm") and case["shape"] in BASE
    )
    ours, theirs, events, candle, steps_first = [], [], [], [], []
    for number in range(options.rounds):
        # PyTorch's threads go on spinning for a moment.
        time.sleep(0 if is_gpu(options) else 0.05)
        ours.append(unroll(case, case["layer"], options))
        if step:
            seconds, by_events = torch_time(torch, step, options.seconds, is_gpu(options))
            theirs.append(seconds)
            events += [by_events] if by_events else []
            if is_gpu(options) and number == 0 and case["layer"] in ("rnn", "gru", "lstm"):
                other = torch_step(torch, case, options.device, batch_first=False)
                steps_first.append(torch_time(torch, other, options.seconds, True)[0])
                del other
        if compare_candle and number == 0:
            if is_gpu(options):
                answer = unroll(case, case["layer"], options, ["--reference"])
            else:
                answer = unroll(case, "candle_" + case["layer"], options)
            candle.append(answer["median_s"])
    middle = lambda values: statistics.median(values) if values else None
    torch_peak = None
    if step and is_gpu(options):
        # A further iteration, above what was in use before it, as Unroll counts.
        step.forget()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        kept = step()
        torch.cuda.synchronize()
        torch_peak = torch.cuda.max_memory_allocated() - before
        del kept
    return {
        "ours_s": middle([one["median_s"] for one in ours]), "torch_s": middle(theirs),
        "torch_events_s": middle(events), "torch_steps_first_s": middle(steps_first), "candle_s": middle(candle), "form": ours[0]["form"],
        "ours_peak_bytes": ours[0]["peak_bytes"], "torch_peak_bytes": torch_peak,
        "gpu": ours[0]["gpu"], "driver": ours[0]["driver"],
        "ways": [line for one in ours for line in one.get("ways", [])],
    }


def torch_rounding(torch, device, precision):
    """How far PyTorch's LSTM is from float64 in a precision: whether its switches do what they say."""
    torch.manual_seed(0)
    set_precision(torch, precision)
    exact = torch.nn.LSTM(256, 256, batch_first=True, dtype=torch.float64)
    x = torch.randn(16, 32, 256, dtype=torch.float64)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    other = torch.nn.LSTM(256, 256, batch_first=True).to(device, dtype)
    other.load_state_dict(exact.state_dict())
    with torch.inference_mode():
        expected, found = exact(x)[0], other(x.to(device, dtype))[0].cpu().double()
    return ((found - expected).norm() / expected.norm()).item()


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def name(case):
    return case["layer"] + (" causal" if case["causal"] else "")


def summary(rows, key, gpu):
    """Lines about ratios: geometric mean, worst shape, and the targets."""
    groups = {}
    for row in rows:
        if row[key]:
            kind = "attention" if row["layer"] in ("mha", "sdpa") else row["layer"]
            groups.setdefault((kind, row["mode"], row["precision"]), []).append(row)
    lines = []
    for group, members in sorted(groups.items()):
        ratios = [row[key] for row in members]
        worst = min(members, key=lambda row: row[key])
        mean = geometric_mean(ratios)
        line = f"| {group[0]} | {group[1]} | {group[2]} | {len(ratios)} | {mean:.2f} | {min(ratios):.2f} | "
        line += f"{worst['name']} {worst['shape']} |"
        if gpu:
            pass
        elif key == "torch_ratio":
            least_mean, least = TARGETS[group[:2]]
            met = "met" if mean >= least_mean and min(ratios) >= least else "missed"
            line += f" {least_mean} / {least} | {met} |"
        else:
            line += f" 10 on each | {'met' if min(ratios) >= 10 else 'missed'} |"
        lines.append(line)
    head = "| layer | mode | precision | shapes | geometric mean | worst | at |"
    head += "\n|" + "---|" * 7 if gpu else " target | |\n|" + "---|" * 9
    return "\n".join([head, *lines]) if lines else ""


def chosen(row):
    """Which way tuning chose for what a row timed."""
    rounding = "" if row["precision"] == "fp32" else " tf32"
    batch, hidden = sizes(row)[0], sizes(row)[3]

    def of(title):
        """What was chosen, without what it was chosen from."""
        lines = [line for line in row["ways"] if line.startswith(title)]
        return re.split(r", of | at T=|; ", lines[0].split(": ", 1)[1])[0] if lines else None

    what = "training" if row["mode"] == "train" else "inference"
    if row["layer"] in ("mha", "sdpa"):
        return of(f"attention {what} ") or "-"
    shape = f"B={batch} H={hidden}{rounding}:"
    library = of(f"{row['layer']} {what} {shape}")
    if library not in (None, "ours"):
        return library
    passes = ("forward", "backward") if row["mode"] == "train" else ("forward",)
    ways = [of(f"{row['layer']} {direction} {shape}") for direction in passes]
    return " / ".join(way or "-" for way in ways) if any(ways) else "-"


WAY = re.compile(r"(\S+) (forward|backward) B=(\d+) H=(\d+)( tf32)?: (.*?), of (.*)")


def floors(lines):
    """Rows about the ways that tuning chose, with what a step cannot be faster than in them."""
    table = []
    for line in lines:
        if not (found := WAY.fullmatch(line)):
            continue
        cell, direction, batch, hidden, rounding, best, tried = found.groups()
        took = re.search(re.escape(best) + r" ([\d.]+) us \(at least ([\d.]+): (.*?)\)", tried)
        if took:
            took, least, parts = took.groups()
            ratio = f"{float(took) / float(least):.1f}" if float(least) else "-"
            cells = [cell + (rounding or ""), direction, batch, hidden, best, took, least, parts, ratio]
            table.append("| " + " | ".join(cells) + " |")
    head = "| layer | pass | B | H | way | us per step | at least | of it | ratio |\n|" + "---|" * 9
    return "\n".join([head, *table]) if table else ""


def milliseconds(seconds):
    return f"{1000 * seconds:.3g}" if seconds else "-"


def main():
    begin = time.monotonic()
    options = arguments()
    program = options.program
    if program is None:
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        program = target / ("cuda" if is_gpu(options) else "release") / "unroll"
    if not program.exists():
        how = "scripts/build_cuda.sh" if is_gpu(options) else "cargo build --release"
        sys.exit(f"{program} is not there: {how}")
    precisions = options.precision.split(",")
    if wrong := set(precisions) - {"fp32", "tf32", "bf16"}:
        sys.exit(f"--precision: {', '.join(sorted(wrong))}? There are fp32, tf32 and bf16.")
    if "tf32" in precisions and not is_gpu(options):
        sys.exit("--precision tf32 is how GPUs multiply: add --device cuda")
    torch = None
    if not options.no_torch:
        try:
            import torch
        except ImportError:
            sys.exit(
                "PyTorch is not installed for this Python.\n"
                "  python3 -m venv ~/venv-torch && ~/venv-torch/bin/pip install torch\n"
                f"  ~/venv-torch/bin/python {sys.argv[0]}\n"
                "or --no-torch to compare with candle_nn alone."
            )
        torch.set_num_threads(options.threads)
        torch.set_flush_denormal(False)
        if is_gpu(options) and not torch.cuda.is_available():
            sys.exit(f"PyTorch {torch.__version__} sees no GPU here")
    unroll = Unroll(program)
    rows, failed, left = [], [], 0
    options.out.mkdir(parents=True, exist_ok=True)
    columns = ["name", "mode", "precision", "shape", "form", "ours_s", "torch_s", "torch_events_s"]
    columns += ["torch_steps_first_s", "torch_ratio", "torch_steps_first_ratio", "ours_peak_bytes"]
    columns += ["torch_peak_bytes", "candle_s", "candle_ratio", "way", "gpu", "driver"]
    # Row by row: what was measured stays, whatever ends this.
    file = open(options.out / "compare_pytorch.csv", "w", newline="", buffering=1)
    writer = csv.DictWriter(file, columns, extrasaction="ignore")
    writer.writeheader()
    for case in cases(options):
        if time.monotonic() - begin > options.budget:
            left += 1
            continue
        try:
            row = {"name": name(case), **case, **measure(case, unroll, torch, options)}
        except (Failed, RuntimeError) as error:
            failed.append(f"{name(case)} {case['mode']} {case['precision']} {case['shape']}: {error}")
            print(f"FAILED {failed[-1]}", flush=True)
            if not is_gpu(options):
                sys.exit(1)
            continue
        ours, theirs, candle = row["ours_s"], row["torch_s"], row["candle_s"]
        row["torch_ratio"] = theirs / ours if theirs else None
        steps_first = row["torch_steps_first_s"]
        row["torch_steps_first_ratio"] = steps_first / ours if steps_first else None
        row["candle_ratio"] = candle / ours if candle else None
        row["way"] = chosen(row)
        rows.append(row)
        writer.writerow({**row, "shape": " ".join(map(str, row["shape"]))})
        ratio = f"{row['torch_ratio']:.2f}" if theirs else "-"
        over = f"  candle {milliseconds(candle)} ({row['candle_ratio']:.0f})" if candle else ""
        shape = ",".join(map(str, case["shape"]))
        print(
            f"{row['name']:<12} {case['mode']:<6} {case['precision']} {shape:<18} "
            f"{milliseconds(ours):>8} ms, PyTorch {milliseconds(theirs):>8} ms: {ratio}{over}",
            flush=True,
        )

    version = f"PyTorch {torch.__version__}" if torch else "no PyTorch"
    if torch and is_gpu(options):
        version += f" (cuDNN {torch.backends.cudnn.version()})"
    place = f"{options.threads} threads"
    if is_gpu(options):
        place = f"{rows[0]['gpu']}, {rows[0]['driver']}" if rows else options.device
    text = f"# Unroll beside {version}, {place}, {', '.join(precisions)}\n\n"
    text += "Shapes are batch, steps, inputs, hidden size; of attention batch, steps, size, heads.\n"
    if torch and is_gpu(options):
        found = [f"{p} {torch_rounding(torch, options.device, p):.1e}" for p in precisions]
        text += f"PyTorch's LSTM deviates from float64 by: {', '.join(found)}.\n"
    if left:
        text += f"After {options.budget:g} s, {left} cases were left out.\n"
    candle_title = "candle's operations" if is_gpu(options) else "candle_nn"
    steps_first_title = "PyTorch with steps first, cuDNN's own order,"
    for title, key in (
        ("PyTorch", "torch_ratio"),
        (steps_first_title, "torch_steps_first_ratio"),
        (candle_title, "candle_ratio"),
    ):
        lines = summary(rows, key, is_gpu(options))
        if lines:
            text += f"\n## Times of {title} over ours\n\n{lines}\n"
    if failed:
        text += "\n## Failed\n\n" + "".join(f"- {line}\n" for line in failed)
    text += "\n## All shapes (ms)\n\n"
    head = ["layer", "mode", "precision", "shape", "form", "ours", "PyTorch", "ratio", "candle"]
    if is_gpu(options):
        head += ["PyTorch, steps first", "way, forward / backward"]
    text += "| " + " | ".join(head) + " |\n|" + "---|" * len(head) + "\n"
    for row in rows:
        ratio = f"{row['torch_ratio']:.2f}" if row["torch_ratio"] else "-"
        shape = ", ".join(map(str, row["shape"]))
        cells = [row["name"], row["mode"], row["precision"], shape, row["form"], milliseconds(row["ours_s"])]
        cells += [milliseconds(row["torch_s"]), ratio, milliseconds(row["candle_s"])]
        if is_gpu(options):
            cells += [milliseconds(row["torch_steps_first_s"]), row["way"]]
        text += "| " + " | ".join(cells) + " |\n"
    # With UNROLL_GPU_RECURRENT=tuned, of attention with UNROLL_GPU_ATTENTION=tuned.
    ways = sorted({line for row in rows for line in row["ways"]})
    if table := floors(ways):
        text += "\n## Steps beside what nothing can be faster than, in microseconds\n\n" + table + "\n"
    if ways:
        text += "\n## Ways that were tried, in microseconds: per step of recurrent layers, of a whole attention\n\n"
        text += "".join(f"- {line}\n" for line in ways)
    (options.out / "compare_pytorch.md").write_text(text)
    print("\n" + text.split("\n## All shapes")[0])
    print(f"Tables: {options.out}/compare_pytorch.csv, .md")
    if failed or not rows:
        sys.exit(1)


if __name__ == "__main__":
    main()
