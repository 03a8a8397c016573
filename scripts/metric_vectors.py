#!/usr/bin/env python3
"""Writes what sacreBLEU and jiwer say of made-up sentences, and scikit-learn of made-up answers, for the
tests of unroll-tasks and unroll-train.

    python3 -m venv venv && venv/bin/pip install sacrebleu==2.6.0 jiwer==4.0.0 scikit-learn==1.9.1
    venv/bin/python scripts/metric_vectors.py > crates/unroll-tasks/tests/vectors/metrics.json
"""

import json
import random

import jiwer
import numpy as np
import sacrebleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, root_mean_squared_error
from sklearn.naive_bayes import MultinomialNB

SENTENCES = [
    "Y dijo Dios: Sea la luz; y fué la luz.",
    "the cat sat on the mat",
    "¿Dónde estás tú? ¡Ven, hijo mío!",
    "In 1,234.5 cases (about 3.14%) it's so-called \"noise\" - or not...",
    "A&amp;B &lt;tag&gt; &quot;x&quot; a/b c+d e=f [g] {h} ~i `j` ^k_l",
    "2010-2014 was 5-fold, i.e. 10.000 km.",
    "",
    ".",
    "Ärzte & Übermut: naïve façade, “quotes” and ‘more’ …",
    "He said unto them, I go a fishing. They say unto him, We also go with thee.",
    "a a a a a a b b b",
]


def spoiled(words, rng):
    out = []
    for word in words:
        chance = rng.random()
        if chance < 0.15:
            continue
        out.append(word if chance < 0.7 else rng.choice(words))
        if chance > 0.95:
            out.append(rng.choice(words))
    return out


def classified(rng):
    """Accuracy and macro F1, also where a class is never answered, never right or not there at all."""
    cases = [
        {"classes": 3, "answers": [0, 0, 0, 0], "targets": [0, 1, 2, 0]},
        {"classes": 4, "answers": [3, 1, 1], "targets": [1, 1, 1]},
        {"classes": 5, "answers": [4, 4], "targets": [2, 2]},
        {"classes": 2, "answers": [1], "targets": [1]},
    ]
    for _ in range(12):
        classes, count = rng.randrange(2, 9), rng.randrange(1, 60)
        targets = [rng.randrange(classes) for _ in range(count)]
        answers = [t if rng.random() < 0.6 else rng.randrange(classes) for t in targets]
        cases.append({"classes": classes, "answers": answers, "targets": targets})
    for case in cases:
        case["accuracy"] = float(accuracy_score(case["targets"], case["answers"]))
        case["macro_f1"] = float(f1_score(case["targets"], case["answers"], average="macro"))
    return cases


def forecast(rng):
    """RMSE, MAE, and MASE by its definition (Hyndman & Koehler 2006) over a seasonal naive forecast of the
    training series. All numbers are 32nds: float32 holds them exactly."""
    cases = []
    for season in [1, 1, 2, 7]:
        count = rng.randrange(1, 30)
        number = lambda: rng.randrange(-320, 320) / 32
        history = [number() for _ in range(season + rng.randrange(5, 40))]
        targets = [number() for _ in range(count)]
        answers = [t + rng.randrange(-40, 40) / 32 for t in targets]
        naive = float(np.mean(np.abs(np.array(history[season:]) - np.array(history[:-season]))))
        mae = float(mean_absolute_error(targets, answers))
        cases.append({
            "season": season, "history": history, "targets": targets, "answers": answers,
            "rmse": float(root_mean_squared_error(targets, answers)), "mae": mae, "mase": mae / naive,
        })
    return cases


def naive_bayes(rng):
    cases = []
    for smoothing in [1.0, 1.0, 0.5]:
        words, classes = rng.randrange(3, 12), rng.randrange(2, 5)
        text = lambda label: [min(int(rng.expovariate(0.6)) + label, words - 1)
                              for _ in range(rng.randrange(1, 9))]
        counts = lambda texts: np.array([np.bincount(t, minlength=words) for t in texts])
        labels = list(range(classes)) + [rng.randrange(classes) for _ in range(20)]
        train = [text(label) for label in labels]
        test = [text(rng.randrange(classes)) for _ in range(15)]
        fitted = MultinomialNB(alpha=smoothing).fit(counts(train), labels)
        cases.append({
            "words": words, "classes": classes, "smoothing": smoothing, "train": train, "labels": labels,
            "test": test, "joint": fitted.predict_joint_log_proba(counts(test)).tolist(),
            "answers": fitted.predict(counts(test)).tolist(),
        })
    return cases


def main():
    rng = random.Random(7)
    tokenizer = Tokenizer13a()
    tokens = [{"text": text, "tokens": tokenizer(text).split()} for text in SENTENCES]
    corpora = []
    for _ in range(12):
        references = [rng.choice(SENTENCES) for _ in range(rng.randrange(1, 6))]
        hypotheses = [" ".join(spoiled(text.split(), rng)) for text in references]
        corpora.append((hypotheses, references))
    corpora.append((["the the the the"], ["the cat sat on the mat"]))
    corpora.append((["nothing like it here"], ["the cat sat"]))
    corpora.append(([""], ["the cat sat"]))
    corpora.append((SENTENCES, SENTENCES))
    # References with fewer characters than chrF's longest n-gram.
    corpora.append((["\u00aby 1,000", "s\u00ed"], ["1,000", "&amp; x\u0085y x\u0085y"]))
    corpora.append((["a very long answer", "the cat sat"], ["no", "the cat sat here"]))
    corpora.append((["yes indeed", "sometimes"], ["yes", "no"]))
    scores = []
    for hypotheses, references in corpora:
        scores.append({
            "hypotheses": hypotheses,
            "references": references,
            "bleu": sacrebleu.corpus_bleu(hypotheses, [references]).score,
            "chrf": sacrebleu.corpus_chrf(hypotheses, [references]).score,
        })
    distances = []
    for _ in range(20):
        reference = [rng.choice("ABCDE") for _ in range(rng.randrange(1, 12))]
        hypothesis = spoiled(reference, rng)
        measured = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
        errors = measured.substitutions + measured.deletions + measured.insertions
        distances.append({"hypothesis": hypothesis, "reference": reference, "errors": errors})
    print(json.dumps({"tokens": tokens, "corpora": scores, "distances": distances,
                      "classified": classified(rng), "forecasts": forecast(rng),
                      "naive_bayes": naive_bayes(rng)}, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
