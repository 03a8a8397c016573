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

Nothing else should run meanwhile. Writes `compare_pytorch.csv` and `compare_pytorch.md` into `--out`.
"""

import argparse
import csv
import json
import math
import os
import pathlib
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


def cases(options):
    only, modes = options.only.split(","), options.modes.split(",")
    for shape in BASE + ([] if options.quick else GRID):
        for cell in ("rnn", "gru", "lstm"):
            for mode in ("train", "infer"):
                if cell in only and mode in modes:
                    yield {"layer": cell, "mode": mode, "shape": shape, "causal": False}
    for shape in ATTENTION + ([] if options.quick else ATTENTION_GRID):
        for layer in ("mha", "sdpa"):
            for causal in (False, True):
                for mode in ("train", "infer"):
                    if layer in only and mode in modes:
                        yield {"layer": layer, "mode": mode, "shape": shape, "causal": causal}


def unroll(program, case, layer, options):
    batch, steps, inputs, hidden = sizes(case)
    command = [program, "bench", "layer", "--arch", layer, "--batch", batch, "--seq-len", steps]
    command += ["--hidden", hidden, "--input", inputs, "--mode", case["mode"], "--json"]
    command += ["--threads", options.threads, "--min-seconds", options.seconds]
    if case["layer"] in ("mha", "sdpa"):
        command += ["--heads", case["shape"][3]]
    if case["causal"]:
        command.append("--causal")
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stderr}")
    return json.loads(result.stdout)["median_s"]


def sizes(case):
    """Batch, steps, inputs and hidden size of a case."""
    if case["layer"] in ("mha", "sdpa"):
        batch, steps, size, _ = case["shape"]
        return batch, steps, size, size
    return case["shape"]


def torch_step(torch, case):
    """A function that does one iteration in PyTorch."""
    torch.manual_seed(0)
    batch, steps, inputs, hidden = sizes(case)
    train = case["mode"] == "train"
    if case["layer"] == "sdpa":
        heads = case["shape"][3]
        tensors = [torch.randn(batch, heads, steps, hidden // heads) for _ in range(3)]
        parameters = [tensor.requires_grad_(train) for tensor in tensors]
        causal = case["causal"]

        def forward():
            return torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=causal)
    else:
        x = torch.randn(batch, steps, inputs, requires_grad=train)
        if case["layer"] == "mha":
            module = torch.nn.MultiheadAttention(hidden, case["shape"][3], batch_first=True)
            mask = None
            if case["causal"]:
                mask = torch.nn.Transformer.generate_square_subsequent_mask(steps)

            def forward():
                causal = case["causal"]
                return module(x, x, x, need_weights=False, attn_mask=mask, is_causal=causal)[0]
        else:
            kinds = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
            module = kinds[case["layer"]](inputs, hidden, batch_first=True)

            def forward():
                return module(x)[0]
        module.train(train)
        parameters = [x, *module.parameters()]

    def step():
        if not train:
            with torch.inference_mode():
                return forward()
        for parameter in parameters:
            parameter.grad = None
        forward().sum().backward()

    return step


def torch_time(step, seconds):
    """Median seconds of an iteration, after a warm-up of a quarter of the time."""
    end = time.perf_counter() + seconds / 4
    while True:
        step()
        if time.perf_counter() >= end:
            break
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(case, program, torch, options):
    """Median seconds of each side."""
    step = torch_step(torch, case) if torch else None
    compare_candle = (
        not options.no_candle and case["layer"] in ("gru", "lstm") and case["shape"] in BASE
    )
    ours, theirs, candle = [], [], []
    for number in range(options.rounds):
        # PyTorch's threads go on spinning for a moment.
        time.sleep(0.05)
        ours.append(unroll(program, case, case["layer"], options))
        if step:
            theirs.append(torch_time(step, options.seconds))
        if compare_candle and number == 0:
            candle.append(unroll(program, case, "candle_" + case["layer"], options))
    middle = lambda values: statistics.median(values) if values else None
    return middle(ours), middle(theirs), middle(candle)


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def name(case):
    return case["layer"] + (" causal" if case["causal"] else "")


def summary(rows, key):
    """Lines about ratios: geometric mean, worst shape, and the targets."""
    groups = {}
    for row in rows:
        if row[key]:
            kind = "attention" if row["layer"] in ("mha", "sdpa") else row["layer"]
            groups.setdefault((kind, row["mode"]), []).append(row)
    lines = []
    for group, members in sorted(groups.items()):
        ratios = [row[key] for row in members]
        worst = min(members, key=lambda row: row[key])
        mean = geometric_mean(ratios)
        line = f"| {group[0]} | {group[1]} | {len(ratios)} | {mean:.2f} | {min(ratios):.2f} | "
        line += f"{worst['name']} {worst['shape']} |"
        if key == "torch_ratio":
            least_mean, least = TARGETS[group]
            met = "met" if mean >= least_mean and min(ratios) >= least else "missed"
            line += f" {least_mean} / {least} | {met} |"
        else:
            line += f" 10 on each | {'met' if min(ratios) >= 10 else 'missed'} |"
        lines.append(line)
    head = "| layer | mode | shapes | geometric mean | worst | at | target | |\n|" + "---|" * 8
    return "\n".join([head, *lines]) if lines else ""


def milliseconds(seconds):
    return f"{1000 * seconds:.3g}" if seconds else "-"


def main():
    options = arguments()
    program = options.program
    if program is None:
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        program = target / "release" / "unroll"
    if not program.exists():
        sys.exit(f"{program} is not there: cargo build --release")
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
    rows = []
    for case in cases(options):
        ours, theirs, candle = measure(case, program, torch, options)
        row = {"name": name(case), **case, "ours_s": ours, "torch_s": theirs, "candle_s": candle}
        row["torch_ratio"] = theirs / ours if theirs else None
        row["candle_ratio"] = candle / ours if candle else None
        rows.append(row)
        ratio = f"{row['torch_ratio']:.2f}" if theirs else "-"
        over = f"  candle_nn {milliseconds(candle)} ({row['candle_ratio']:.0f})" if candle else ""
        shape = ",".join(map(str, case["shape"]))
        print(
            f"{row['name']:<12} {case['mode']:<6} {shape:<18} "
            f"{milliseconds(ours):>8} ms, PyTorch {milliseconds(theirs):>8} ms: {ratio}{over}",
            flush=True,
        )

    options.out.mkdir(parents=True, exist_ok=True)
    columns = ["name", "mode", "shape", "ours_s", "torch_s", "torch_ratio", "candle_s", "candle_ratio"]
    with open(options.out / "compare_pytorch.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "shape": " ".join(map(str, row["shape"]))})
    version = f"PyTorch {torch.__version__}" if torch else "no PyTorch"
    text = f"# Unroll beside {version}, {options.threads} threads, float32\n\n"
    text += "Shapes are batch, steps, inputs, hidden size; of attention batch, steps, size, heads.\n"
    for title, key in (("PyTorch", "torch_ratio"), ("candle_nn", "candle_ratio")):
        lines = summary(rows, key)
        if lines:
            text += f"\n## Times of {title} over ours\n\n{lines}\n"
    text += "\n## All shapes (ms)\n\n| layer | mode | shape | ours | PyTorch | ratio | candle_nn |\n"
    text += "|" + "---|" * 7 + "\n"
    for row in rows:
        ratio = f"{row['torch_ratio']:.2f}" if row["torch_ratio"] else "-"
        shape = ", ".join(map(str, row["shape"]))
        cells = [row["name"], row["mode"], shape, milliseconds(row["ours_s"])]
        cells += [milliseconds(row["torch_s"]), ratio, milliseconds(row["candle_s"])]
        text += "| " + " | ".join(cells) + " |\n"
    (options.out / "compare_pytorch.md").write_text(text)
    print("\n" + text.split("\n## All shapes")[0])
    print(f"Tables: {options.out}/compare_pytorch.csv, .md")


if __name__ == "__main__":
    main()
