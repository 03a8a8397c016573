#!/usr/bin/env python3
"""Writes crates/unroll-results/tests/vectors/statistics.json: samples and what rliable and scipy say of
them, which tests/statistics.rs holds Unroll's own statistics to.

    python3 -m venv venv && venv/bin/pip install rliable scipy "pandas<3"
    venv/bin/python scripts/statistics_vectors.py
"""

import itertools
import json
import pathlib

import numpy as np
import scipy
from rliable import library, metrics
from scipy import stats

RESAMPLES = 20_000
rng = np.random.default_rng(20261123)


def floats(array):
    return [float(value) for value in np.asarray(array).ravel()]


def rows(array):
    return [floats(row) for row in array]


cases = {"iqm": [], "improvement": [], "rank_sum": [], "signed_rank": [], "holm": [], "friedman": [], "profile": []}

for runs, tasks in [(5, 1), (3, 4), (7, 3), (10, 2), (1, 6)]:
    scores = rng.normal(size=(runs, tasks)) + np.arange(tasks)
    _, intervals = library.get_interval_estimates(
        {"a": scores}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=RESAMPLES, random_state=np.random.RandomState(1))
    cases["iqm"].append({
        "tasks": rows(scores.T), "iqm": float(metrics.aggregate_iqm(scores)), "interval": floats(intervals["a"])})

for runs, tasks, shift, digits in [(5, 1, 0.5, 9), (10, 3, 0.3, 9), (8, 2, 0.0, 9), (6, 2, 1.0, 0), (5, 1, 9.0, 9)]:
    x = np.round(rng.normal(size=(runs, tasks)) + shift, digits)
    y = np.round(rng.normal(size=(runs + 2, tasks)), digits)
    point, intervals = library.get_interval_estimates(
        {"x,y": (x, y)}, metrics.probability_of_improvement, reps=2_000, random_state=np.random.RandomState(1))
    cases["improvement"].append({
        "x": rows(x.T), "y": rows(y.T), "probability": float(np.ravel(point["x,y"])[0]),
        "interval": floats(intervals["x,y"])})

for n, m, shift in [(3, 3, 9), (5, 5, 1), (8, 6, 0.5), (30, 30, 0.3)]:
    x, y = rng.normal(size=n) + shift, rng.normal(size=m)
    cases["rank_sum"].append({"x": floats(x), "y": floats(y),
                              "p": float(stats.mannwhitneyu(x, y, method="exact").pvalue)})
for n, m, shift in [(40, 50, 0.3), (200, 100, 0.1)]:  # beyond exactness, with ties
    x, y = np.round(rng.normal(size=n) + shift, 1), np.round(rng.normal(size=m), 1)
    cases["rank_sum"].append({"x": floats(x), "y": floats(y), "p": float(
        stats.mannwhitneyu(x, y, method="asymptotic", use_continuity=False).pvalue)})
for n, m in [(4, 4), (5, 3)]:  # exact with ties: all permutations
    x, y = rng.integers(0, 4, size=n) + 1.0, rng.integers(0, 4, size=m) * 1.0
    ranks = stats.rankdata(np.concatenate([x, y]))
    sums = np.array([sum(chosen) for chosen in itertools.combinations(ranks, n)])
    observed = ranks[:n].sum()
    tail = min(np.mean(sums <= observed + 1e-9), np.mean(sums >= observed - 1e-9))
    cases["rank_sum"].append({"x": floats(x), "y": floats(y), "p": float(min(1.0, 2 * tail))})

for n, shift in [(5, 2), (9, 0.4), (25, 0.2)]:
    d = rng.normal(size=n) + shift
    cases["signed_rank"].append({"differences": floats(d), "p": float(stats.wilcoxon(d, method="exact").pvalue)})
d = np.round(rng.normal(size=80) + 0.2, 1)  # zeros and ties
cases["signed_rank"].append({"differences": floats(d),
                             "p": float(stats.wilcoxon(d, method="approx", correction=False).pvalue)})

p = floats(rng.uniform(size=8) ** 3)
order = np.argsort(p)
adjusted = np.maximum.accumulate((len(p) - np.arange(len(p))) * np.array(p)[order])
holm = np.empty(len(p))
holm[order] = np.minimum(adjusted, 1)
cases["holm"].append({"p": p, "adjusted": floats(holm)})

for tasks, series, digits in [(6, 3, 9), (12, 5, 0)]:
    scores = np.round(rng.normal(size=(tasks, series)) * 2 + np.arange(series) * 0.4, digits)
    cases["friedman"].append({
        "scores": rows(scores),
        "average": floats(np.mean([stats.rankdata(-row) for row in scores], axis=0)),
        "p": float(stats.friedmanchisquare(*scores.T).pvalue)})

scores, taus = rng.uniform(size=(6, 3)), np.linspace(0, 1, 11)
profiles, bands = library.create_performance_profile({"a": scores}, taus, reps=2_000)
cases["profile"].append({"tasks": rows(scores.T), "taus": floats(taus), "profile": floats(profiles["a"]),
                         "band": rows(bands["a"])})

cases["made_with"] = {"scipy": scipy.__version__, "numpy": np.__version__, "resamples": RESAMPLES}
path = pathlib.Path(__file__).parent.parent / "crates/unroll-results/tests/vectors/statistics.json"
path.write_text(json.dumps(cases, indent=1) + "\n")
print(path, path.stat().st_size, "bytes")
