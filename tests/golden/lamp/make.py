"""Writes prompts.jsonl, scores.jsonl and examples.jsonl from LaMP's own code, which is not part of this project.

Run: python make.py LAMP   with a checkout of github.com/LaMP-Benchmark/LaMP at 38c9d4d (rank_bm25, rouge-score, scikit-learn, numpy).
What that code imports but these parts do not need (torch, transformers, datasets) is replaced by empty modules, and Hugging Face's `evaluate`, which
loads its metrics from the network, by the functions that these call. ROUGE is the mean over pairs."""
import json
import os
import random
import re
import sys
import types

import numpy as np
from rouge_score import rouge_scorer
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, mean_squared_error

lamp = sys.argv[1]


def stub(name, **members):
    m = types.ModuleType(name)
    for k, v in members.items():
        setattr(m, k, v)
    sys.modules[name] = m
    return m


class Dataset:
    pass


stub("torch")
stub("torch.utils")
stub("torch.utils.data", Dataset=Dataset)
stub("transformers", AutoTokenizer=None, AutoModel=None)
stub("datasets")


class Metric:
    def __init__(self, name):
        self.name = name

    def compute(self, predictions, references, labels=None, average=None, squared=True):
        if self.name == "f1":
            return {"f1": f1_score(references, predictions, labels=labels, average=average)}
        if self.name == "accuracy":
            return {"accuracy": accuracy_score(references, predictions)}
        if self.name == "mae":
            return {"mae": mean_absolute_error(references, predictions)}
        if self.name == "mse":
            return {"mse": mean_squared_error(references, predictions) ** (1.0 if squared else 0.5)}
        scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
        got = [scorer.score_multi(r, p) for r, p in zip(references, predictions)]
        return {k: float(np.mean([g[k].fmeasure for g in got])) for k in ("rouge1", "rougeL")}


stub("evaluate", load=Metric)
sys.path[:0] = [os.path.join(lamp, "eval"), os.path.join(lamp, "LaMP")]
import evaluation  # noqa: E402
from prompts import prompts  # noqa: E402

sys.modules.pop("data", None)
sys.path.insert(0, os.path.join(lamp, "PEFT"))
from data import datasets as peft  # noqa: E402

rng = random.Random(5)


class Tokenizer:
    """A token is a word with the blanks before it; one closing token is added, as T5's tokenizer does."""

    def __call__(self, text, max_length=None, truncation=False):
        tokens = re.findall(r" *[^ ]+| +$", text)
        if truncation:
            if max_length < 1:
                raise ValueError("no room")
            tokens = tokens[:max_length - 1]
        return {"input_ids": tokens + ["</s>"]}

    def batch_decode(self, lists, skip_special_tokens):
        return ["".join(t for t in ids if t != "</s>") for ids in lists]


words = ("the of a graph neural network deep learning for with movie story about love war title titles data \"quote\" "
         "fox, end. A-B café 2019 review: article: description:").split()


def text(lo, hi):
    return " ".join(rng.choice(words) for _ in range(rng.randrange(lo, hi)))


def date():
    return "-".join([str(rng.randrange(2010, 2014)), f"{rng.randrange(1, 13):02d}", f"{rng.randrange(1, 29):02d}"])


tags = evaluation.LaMPEvaluation._get_labels(None, "LaMP_2")
news = peft.get_all_labels("classification_news")
fields = {
    "LaMP-1": lambda: {"title": text(2, 9), "abstract": text(5, 40)},
    "LaMP-2": lambda: {"description": text(1, 40), "tag": rng.choice(tags)},
    "LaMP-2-old": lambda: {"text": text(1, 40), "title": text(2, 9), "category": rng.choice(news)},
    "LaMP-3": lambda: {"text": text(1, 40), "score": rng.choice(["1", "2", "3", "4", "5"])},
    "LaMP-4": lambda: {"text": text(1, 40), "title": text(2, 9)},
    "LaMP-5": lambda: {"abstract": text(1, 40), "title": text(2, 9)},
    "LaMP-6": lambda: {"text": text(1, 40), "title": text(2, 9)},
    "LaMP-7": lambda: {"text": text(1, 30)},
}
example = {t: peft.create_input_output_gen_func(t) for t in fields if t not in ("LaMP-1", "LaMP-2-old")}


def question(task):
    if task == "LaMP-1":
        return (f'For an author who has written the paper with the title "{text(2, 8).replace(chr(34), "")}", which reference is '
                f'related? Just answer with [1] or [2] without explanation. [1]: "{text(2, 8).replace(chr(34), "")}" [2]: '
                f'"{text(2, 8).replace(chr(34), "")}"')
    if task == "LaMP-2-old":
        return "Which category does this article relate to? article: " + text(3, 50)
    if task == "LaMP-7":
        return "Paraphrase the following tweet without any explanation before or after it: " + text(2, 30)
    return example[task]({k: text(3, 50) for k in ("text", "description", "abstract", "title", "tag", "score")})[0]


with open("prompts.jsonl", "w", encoding="utf-8") as f:
    for task in fields:
        for i in range(8):
            profile = [dict(fields[task](), id=str(k), date=date()) for k in range(rng.choice([1, 2, 3, 5, 9]))]
            inp = question(task)
            row = {"task": task, "id": str(i), "input": inp, "profile": profile, "prompts": []}
            for ranker in ("bm25", "recency"):
                for n in (1, 4):
                    n = min(n, len(profile))
                    for length in (24, 60, 160):
                        make, _ = prompts.create_prompt_generator(n, ranker, False, length, Tokenizer())
                        row["prompts"].append({"ranker": ranker, "n": n, "max": length, "prompt": make(inp, profile, task)})
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def noisy(out, other):
    r = rng.random()
    return out if r < 0.5 else other() if r < 0.85 else rng.choice([f" {out}\n", out.upper(), out + ".", "", "none"])


evaluator = object.__new__(evaluation.LaMPEvaluation)
with open("scores.jsonl", "w", encoding="utf-8") as f:
    for task, make in [("LaMP_1", lambda: rng.choice(["[1]", "[2]"])), ("LaMP_2", lambda: rng.choice(tags)),
                       ("LaMP_3", lambda: str(rng.randrange(1, 6))), ("LaMP_4", lambda: text(1, 14)),
                       ("LaMP_5", lambda: text(1, 14)), ("LaMP_6", lambda: text(0, 6)), ("LaMP_7", lambda: text(1, 25))]:
        for n in (1, 2, 7, 50, 150):
            golds = [{"id": str(i), "output": make()} for i in range(n)]
            preds = [{"id": g["id"], "output": noisy(g["output"], make)} for g in golds]
            if task == "LaMP_3" and n > 6:
                for i, odd in enumerate(["4.5", " 3 ", "+2", "1e0", "1_0", "five", "5 stars", "."][:n]):
                    preds[i]["output"] = odd
            rng.shuffle(preds)
            evaluator.tasks_golds = {task: golds}
            scores = evaluator._evaluate_task(preds, task)
            f.write(json.dumps({"golds": {"task": task, "golds": golds}, "predictions": {"task": task, "golds": preds},
                                "scores": {k: float(v) for k, v in scores.items()}}, ensure_ascii=False) + "\n")

with open("examples.jsonl", "w", encoding="utf-8") as f:
    for task in fields:
        if task in ("LaMP-7", "LaMP-2-old"):  # by chance; none
            continue
        func = peft.create_input_output_gen_func(task)
        for _ in range(4):
            record = dict(fields[task](), id="7")
            inp, out = func(record)
            f.write(json.dumps({"task": task, "record": record, "input": inp, "output": out}, ensure_ascii=False) + "\n")
