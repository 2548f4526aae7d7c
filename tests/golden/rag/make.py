"""Writes okapi.jsonl (rank_bm25) and fts5.jsonl (SQLite). Run: python make.py (rank_bm25 0.2.2, numpy; Python's sqlite3 with FTS5)."""
import json
import random
import sqlite3

from rank_bm25 import BM25Okapi

rng = random.Random(11)
vocabulary = ("the of and a to in Graph neural Network networks, learning: Deep transfer for on with from Café naïve "
              "\u212aelvin data-driven \"quoted\" (parse) end. END x y z 2019 state-of-the-art Größe 日本語 テスト").split()
blanks = [" ", "  ", "\n", "\t", "\u00a0", "\u2003", "\x1c", "\x1f", "\u3000", "\x85", "\u200b", "\u180e"]


def text(n):
    weights = [1 / (i + 1) for i in range(len(vocabulary))]
    out = rng.choice(["", " "])
    for _ in range(n):
        out += rng.choices(vocabulary, weights)[0] + (" " if rng.random() < 0.8 else rng.choice(blanks))
    return out


def corpora():
    yield ["one item alone"], ["one item", "", "nothing"]
    yield ["same same", "same"], ["same", "same same other"]          # every word in every item: negative idf
    yield ["", "a b", ""], ["a", "b b b"]                             # items without a word
    yield ["a b", "a c", "a d", "a e"], ["a", "b a", "e e e a z"]
    yield ["x" * 300 + " y", "x" * 300, "x" * 301 + " y"], ["x" * 300, "x" * 301, "y"]
    for n in (2, 3, 5, 17, 80, 300):
        yield [text(rng.randrange(1, 40)) for _ in range(n)], [text(rng.randrange(0, 30)) for _ in range(6)]


with open("okapi.jsonl", "w", encoding="utf-8") as f:
    for docs, queries in corpora():
        bm25 = BM25Okapi([d.split() for d in docs])
        scores = [[float(s) for s in bm25.get_scores(q.split())] for q in queries]
        f.write(json.dumps({"docs": docs, "queries": queries, "scores": scores}) + "\n")

# Plain words as queries: each goes to FTS5 as one quoted string.
words = "quick Brown fox FOXES café CAFE naïve Ångström 2019 x11 data 日本語 straße ǅ über re-use İstanbul ﬁne Ω ελληνικά Привет ёлка don't A4".split()
with open("fts5.jsonl", "w", encoding="utf-8") as f:
    for n in (1, 2, 7, 40, 200):
        docs = [rng.choice(["", "¡", "«"]) + rng.choice([" ", ", ", "—", "/", "… "]).join(rng.choices(words, k=rng.randrange(1, 25)))
                for _ in range(n)]
        db = sqlite3.connect(":memory:")
        db.execute("CREATE VIRTUAL TABLE doc USING fts5(text, tokenize='unicode61 remove_diacritics 2')")
        for i, d in enumerate(docs):
            db.execute("INSERT INTO doc(rowid, text) VALUES(?, ?)", (i + 1, d))
        queries = ["fox data", "CAFÉ", "naive brown quick 2019", "angstrom uber", "привет елка", "ΩΩ ελληνικα", "strasse straße", "日本語"]
        scores = []
        for q in queries:
            match = " OR ".join(f'"{w}"' for w in q.split())
            got = dict(db.execute("SELECT rowid, -bm25(doc) FROM doc WHERE doc MATCH ?", (match,)).fetchall())
            scores.append([got.get(i + 1, 0.0) for i in range(n)])
        f.write(json.dumps({"docs": docs, "queries": queries, "scores": scores}, ensure_ascii=False) + "\n")
print(sqlite3.sqlite_version)
