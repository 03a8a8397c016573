#!/usr/bin/env python3
"""Writes what sacreBLEU and jiwer say of made-up sentences, for the tests of unroll-tasks.

    python3 -m venv venv && venv/bin/pip install sacrebleu==2.6.0 jiwer==4.0.0
    venv/bin/python scripts/metric_vectors.py > crates/unroll-tasks/tests/vectors/metrics.json
"""

import json
import random

import jiwer
import sacrebleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

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
    print(json.dumps({"tokens": tokens, "corpora": scores, "distances": distances},
                     ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
