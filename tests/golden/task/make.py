"""Writes rouge.jsonl, scores.json and bootstrap.json. Run: python make.py (rouge-score 0.1.2, scikit-learn, numpy)."""
import json
import random

import numpy as np
from rouge_score import rouge_scorer
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, mean_squared_error

rng = random.Random(7)
scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
words = "the a client library for Python GNOME fast tool data of files viewer's x11 3D utf-8 C++ re-use".split()


def text(n):
    return rng.choice(["", " "]) + rng.choice([" ", "  ", ", ", " - "]).join(rng.choice(words) for _ in range(n))


pairs = [(text(rng.randrange(0, 14)), text(rng.randrange(0, 14))) for _ in range(150)]
pairs += [
    ("", ""), ("a", ""), ("", "a"), ("...", "!!!"), ("same", "SAME"), ("running runs", "run ran"),
    ("Größe der Straße", "grosse der strasse"), ("K 212A Kelvin sign \u212a", "k 212a kelvin sign K"),
    ("\u0130stanbul city", "i stanbul city"), ("naïve café", "naive cafe"), ("日本語 text", "text"),
    ("a\nb\tc", "a b c"), ("under_score", "under score"), ("it's", "its"), ("1,000.5", "1 000 5"),
    ("the cat the cat the cat", "the cat"), ("b a b a b", "a b a b a"), ("x " * 300, "x y " * 200),
    ("\u017fharp", "sharp"), ("\ufb01ne fine", "fine"), ("e\u0301clair", "eclair"),
]
with open("rouge.jsonl", "w", encoding="utf-8") as f:
    for target, prediction in pairs:
        s = scorer.score(target, prediction)
        f.write(json.dumps({"target": target, "prediction": prediction, **{k: list(v) for k, v in s.items()}}) + "\n")

labels = ["perl", "python", "libs", "net", "games"]
cases = []
for n in (1, 2, 5, 17, 60):
    for _ in range(4):
        gold = [rng.choice(labels[: rng.randrange(1, 6)]) for _ in range(n)]
        pred = [g if rng.random() < 0.5 else rng.choice(labels) for g in gold]
        cases.append({"gold": gold, "pred": pred, "accuracy": accuracy_score(gold, pred),
                      "macro_f1": f1_score(gold, pred, average="macro")})
numbers = []
for n in (1, 3, 20):
    gold = [rng.randrange(1, 6) for _ in range(n)]
    pred = [rng.randrange(1, 6) for _ in range(n)]
    numbers.append({"gold": [str(g) for g in gold], "pred": [str(p) for p in pred],
                    "mae": float(mean_absolute_error(gold, pred)), "rmse": float(mean_squared_error(gold, pred) ** 0.5)})
json.dump({"labels": cases, "numbers": numbers}, open("scores.json", "w"), indent=1)

# The bootstrap draws other random numbers than ours: the intervals must agree within Monte Carlo error.
x = [round(rng.gauss(0.3, 0.2), 4) for _ in range(37)]
means = np.random.default_rng(1).choice(x, size=(200000, len(x))).mean(axis=1)
json.dump({"x": x, "mean": float(np.mean(x)), "low": float(np.quantile(means, 0.025)),
           "high": float(np.quantile(means, 0.975))}, open("bootstrap.json", "w"))
