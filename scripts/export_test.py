#!/usr/bin/env python3
"""Exports a results folder to a real MLflow server and to TensorBoard, and reads back what arrived.

    python3 -m venv venv && venv/bin/pip install mlflow tensorboard
    venv/bin/python scripts/export_test.py results/NAME [--program target/release/unroll]

The server listens on 127.0.0.1 alone, keeps its data in a temporary folder and ends with the script. Exits
with 1 when something that was exported is missing, doubled or another number.
"""

import argparse
import json
import math
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

failures = []


def check(holds, what):
    print("ok  " if holds else "FAIL", what)
    if not holds:
        failures.append(what)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def export(program, results, *options):
    command = [program, "export", results, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def records(program, results, folder):
    export(program, results, "--to", "json", "--out", folder)
    (path,) = pathlib.Path(folder).rglob("*.json")
    return json.loads(path.read_text())["trials"]


def wait_for(url, server):
    for _ in range(240):
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(url + "/health", timeout=1)
            return
        except OSError:
            time.sleep(0.5)
    sys.exit("the server does not answer")


def mlflow(program, results, trials, folder):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", f"{folder}/artifacts"]
    with open(f"{folder}/server.log", "w") as log:
        # A group of its own: the server has children, and all of them end with the script.
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        wait_for(url, server)
        export(program, results, "--to", "mlflow", "--url", url)
        # The second time nothing is new.
        export(program, results, "--to", "mlflow", "--url", url)
        client = MlflowClient(url)
        experiments = [e for e in client.search_experiments() if e.name != "Default"]
        check(len(experiments) == 1, "MLflow has one experiment")
        runs = client.search_runs([experiments[0].experiment_id], max_results=5000)
        check(len(runs) == len(trials), f"MLflow has each of the {len(trials)} trials once")
        by_trial = {run.data.tags["unroll.trial"]: run for run in runs}
        compare_runs(client, trials, by_trial)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def compare_runs(client, trials, by_trial):
    wrong = []
    for trial in trials:
        run = by_trial.get(trial["id"])
        if run is None:
            wrong.append(f"{trial['id']} is not there")
            continue
        if run.data.params["architecture"] != trial["cell"]["architecture"]:
            wrong.append(f"{trial['id']}: architecture {run.data.params}")
        quality = trial["quality"]
        if quality is None:
            continue
        # Names of metrics lose the characters that MLflow does not take.
        name = re.sub(r"[^A-Za-z0-9_. /-]", "_", quality["metric"])
        if math.isfinite(float(quality["test"])):
            test = run.data.metrics.get(f"test/{name}")
            if test != quality["test"]:
                wrong.append(f"{trial['id']}: test {test}, not {quality['test']}")
        curve = client.get_metric_history(run.info.run_id, f"validation/{name}")
        sent = sorted((point.step, point.value) for point in curve)
        points = [(p["step"], float(p["validation"])) for p in trial["curve"]]
        if sent != [point for point in points if math.isfinite(point[1])]:
            wrong.append(f"{trial['id']}: learning curve {sent}")
    check(not wrong, f"MLflow's runs have the trials' numbers {wrong[:3]}")


def tensorboard(program, results, trials, folder):
    export(program, results, "--to", "tensorboard", "--out", folder)
    files = sorted(pathlib.Path(folder).rglob("*tfevents*"))
    shown = [trial for trial in trials if "failed" not in str(trial["status"]).lower()]
    check(len(files) == len(shown), f"TensorBoard has {len(files)} event files for {len(shown)} trials")
    scalars = 0
    found = []
    for path in files:
        events = EventAccumulator(str(path.parent))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            values = [event.value for event in events.Scalars(tag)]
            scalars += len(values)
            found += values
    check(scalars > 0, f"TensorBoard reads {scalars} numbers")
    wrong = []
    for trial in shown:
        test = float((trial["quality"] or {}).get("test", "nan"))
        if math.isfinite(test) and not any(abs(value - test) <= 1e-6 * abs(test) for value in found):
            wrong.append(trial["id"])
    check(not wrong, f"TensorBoard has every test metric {wrong[:3]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results")
    parser.add_argument("--program", default="target/release/unroll")
    arguments = parser.parse_args()
    program, results = os.path.abspath(arguments.program), os.path.abspath(arguments.results)
    with tempfile.TemporaryDirectory() as folder:
        trials = records(program, results, f"{folder}/json")
        mlflow(program, results, trials, folder)
        tensorboard(program, results, trials, f"{folder}/tensorboard")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
