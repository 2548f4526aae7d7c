#!/usr/bin/env python3
"""Makes the golden tokenizers of this directory and what the reference implementations do with them.

Run: pip install tokenizers==0.23.3 sentencepiece==0.2.3 gguf==0.19.0 numpy && python3 make.py
Everything is made from the text in this file; each run gives the same files.
"""
import datetime
import io
import json
import os
import random
import sys

import gguf
import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))

PROSE = """
The device keeps the words of its owner and learns from them at night, when the battery is full and nobody is looking.
A small model is not a stupid one: it has read less, so it must be told more. We tell it what the person wrote before.
Compression takes bits away until the answers change; then it gives one back. It's a trade that we'll measure, don't guess.
In 2026 there were 1,048,576 tokens, 3 of them wrong. Version 4.12.0-rc1 came 17 days later, on 11/20, at 17:56:03.
"Who's there?" she asked. 'They've gone,' he said, 'and I'd rather not follow; you're free to, I'm staying, he'll see.'
Die Geräte lernen über Nacht; größere Modelle brauchen mehr Speicher, kleinere nur Geduld. Grüße aus Zürich!
Les modèles français préfèrent l'été; où est-ce qu'on met les données déjà apprises? Ça dépend.
Маленькая модель учится ночью, когда устройство заряжено и никто не смотрит. Вот и всё.
小さなモデルは夜に学びます。設定は端末に残ります。模型在夜里学习,数据留在设备上。
def encode(text, size=512):
    for i, ch in enumerate(text):
        if ch == '\\t' and i != 0:
            yield (i << 2) | 0x1F    # keep the low bits
    return None
static int find(const char *s) { while (*s++ != '\\0') {} return s[-1] == '{' ? 1 : -1; }
https://example.org/path?q=a%20b&lang=en#top  user@example.com  /usr/share/doc/package/README.Debian
Package: libexample-dev, Section: libdevel, Priority: optional, Installed-Size: 1234
"""

CASES = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", " \n", "\r\n", "\t\n ", "a", " a", "a ", "  a  ",
    "Hello world", " Hello world", "Hello, world!", "the the the the", "It's we'll they'VE I'd YOU'RE can't",
    "learns from them at night, when the battery is full", "größere Modelle über Nacht", "Ünïcödé",
    "e\u0301 \u00e9 n\u0303 \u00f1 A\u030a \u00c5 \uac01 \u1100\u1161\u11a8", "\u0301\u0302abc", "x\u0336y\u0336",
    "\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f (joined) \u2705 \U0001f469\U0001f3fd\u200d\U0001f52c\U0001f1e9\U0001f1ea",
    "小さなモデルは夜に学びます。模型在夜里学习", "漢字かな交じり文123と全角１２３", "안녕하세요 세계", "नमस्ते दुनिया", "مرحبا بالعالم",
    "Маленькая модель учится", "0 1 12 123 1234 12345 123456 1234567", "3.14159 1,048,576 4.12.0-rc1 ½ ² Ⅷ ٣٤",
    "def f(x):\n    if x:\n        return {'a': [1, 2]}\n\n\treturn None  # end\n", "a" * 50, "ab" * 40, " " * 100, "x" + " " * 33 + "y",
    "-" * 70 + "\n" + "=" * 70, "!!!???...;;;", "foo_bar.baz(qux)->quux[0]", "https://example.org/path?q=a%20b&lang=en#top",
    "line one\r\nline two\r\n\r\n  line three", "tab\there\t\ttwice", "nbsp\u00a0here \u2003em\u3000wide", "\u200bzero\u200dwidth\ufeffbom",
    "\ud7ff \ue000 \U0010fffd", "\x00nul\x01\x7f\x80", "\u2581already \u2581\u2581visible", "<s>not special</s>", "<|endoftext|>", "<0x41>",
    "unk: \u16a0\u16a1 \U00010348", "mixed \u4e2d\u6587 and english \u6df7\u5408 text",
]
SPECIAL = ["<|a|>", "<|a|>Hello<|b|> world<|b|><|b|>", "x <|a|> y <|a|>", "<|a|", "<|ab|>", "plain", "word<keep>word <keep> ", "<|a|> \n z"]


def corpus():
    rng = random.Random(20261120)
    words = PROSE.split()
    lines = PROSE.strip().split("\n")
    for _ in range(60):
        lines.append(" ".join(rng.choice(words) for _ in range(rng.randint(3, 14))))
    return lines


def cases(encode, decode, special):
    rng = random.Random(7)
    texts = list(CASES)
    alphabet = list("abcdefgh \n\t0123456789.,'\"") + ["é", "ß", "中", "模", "\U0001f600", "\u0301", "ж", "  ", "the ", " mod"]
    for _ in range(120):
        texts.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 60))))
    rows = [{"text": t, "ids": encode(t, False), "decoded": decode(encode(t, False))} for t in texts]
    if special:
        rows += [{"text": t, "ids": encode(t, True), "special": True} for t in SPECIAL]
    return rows


def write(name, files, rows):
    d = os.path.join(HERE, name)
    os.makedirs(d, exist_ok=True)
    for file, text in files.items():
        with open(os.path.join(d, file), "w", encoding="utf-8") as f:
            f.write(text)
    with open(os.path.join(d, "cases.jsonl"), "w", encoding="utf-8") as f:
        for r in rows:
            if "\x00" in r["text"]:
                r = {"text_hex": r["text"].encode().hex(), "ids": r["ids"]}
            f.write(json.dumps(r, ensure_ascii=True, separators=(",", ":")) + "\n")


def hf(name, tok, trainer, config=None, special=True, compare_decoded=True):
    tok.train_from_iterator(corpus(), trainer)
    if special:
        tok.add_special_tokens([AddedToken("<|a|>", normalized=False), AddedToken("<|b|>", normalized=False, rstrip=True)])
        tok.add_tokens([AddedToken("<keep>", normalized=False)])
    text = json.dumps(json.loads(tok.to_str()), ensure_ascii=False, separators=(",", ":"))
    # The reference always recognises special pieces: texts that must not are encoded by a copy without them.
    plain = json.loads(tok.to_str())
    plain["added_tokens"] = [t for t in plain["added_tokens"] if not t["special"]]
    plain = Tokenizer.from_str(json.dumps(plain))

    def encode(t, sp):
        return (tok if sp else plain).encode(t, add_special_tokens=False).ids

    files = {"tokenizer.json": text}
    if config is not None:
        files["tokenizer_config.json"] = json.dumps(config)
    rows = cases(encode, lambda ids: tok.decode(ids, skip_special_tokens=False), special)
    if not compare_decoded:
        for r in rows:
            r.pop("decoded", None)
    write(name, files, rows)


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
BYTES = pre_tokenizers.ByteLevel.alphabet


def byte_trainer(n):
    return trainers.BpeTrainer(vocab_size=n, initial_alphabet=BYTES(), show_progress=False, special_tokens=["<|endoftext|>"])


def byte_level():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    hf("bpe-gpt2", t, byte_trainer(700), {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})

    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])])
    hf("bpe-llama3", t, byte_trainer(700), {"bos_token": {"content": "<|endoftext|>"}, "eos_token": "<|b|>", "chat_template": "{{ messages }}"})

    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    hf("bpe-qwen2", t, byte_trainer(600))

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    hf("bpe-smollm", t, byte_trainer(600))

    # No known name: kept as patterns. Two further split behaviours, a literal pattern and a prefix.
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(".", "merged_with_previous"), pre_tokenizers.Split(Regex(r"[A-Z]"), "merged_with_next"),
        pre_tokenizers.Split(Regex(r"\d"), "contiguous"), pre_tokenizers.Split(Regex(r"\S+|\s+"), "removed", invert=True),
        pre_tokenizers.Punctuation("isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    hf("bpe-custom", t, byte_trainer(500))


def char_level():
    def trainer(n):
        t = trainers.BpeTrainer(vocab_size=n, show_progress=False, limit_alphabet=60, special_tokens=["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)])
        return t

    def unspecial(t):
        """Byte pieces are ordinary entries of the vocabulary, not added tokens."""
        j = json.loads(t.to_str())
        j["added_tokens"] = [a for a in j["added_tokens"] if not a["content"].startswith("<0x")]
        return Tokenizer.from_str(json.dumps(j))

    class Late:
        """A tokenizer whose byte pieces are made ordinary between training and use."""
        def __init__(self, t):
            self.t = t

        def train_from_iterator(self, it, tr):
            self.t.train_from_iterator(it, tr)
            self.t = unspecial(self.t)

        def __getattr__(self, name):
            return getattr(self.t, name)

    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    hf("char-llama2", Late(t), trainer(600), {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})

    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    hf("char-metaspace", Late(t), trainer(600), {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"})

    # No bytes: unknown characters become <unk>, fused. The Metaspace decoder drops every leading space, ours the one that was added.
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    t.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    hf("char-unk", t, trainers.BpeTrainer(vocab_size=300, show_progress=False, limit_alphabet=60, special_tokens=["<unk>", "<s>", "</s>"]), special=False, compare_decoded=False)


def spm():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, vocab_size=700, model_type="bpe", byte_fallback=True, character_coverage=0.98,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
        user_defined_symbols=["<keep>"], num_threads=1, minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    rows = []
    for r in cases(lambda t, _: sp.encode(t), lambda ids: "", False):
        # NUL ends a text for SentencePiece's Python binding in places; U+2581 in a text is its own business.
        if "\x00" not in r["text"]:
            del r["decoded"]
            rows.append(r)
    write("spm", {}, rows)
    w = gguf.GGUFWriter(os.path.join(HERE, "spm", "vocab.gguf"), "llama")
    w.add_tokenizer_model("llama")
    pieces, scores, types = [], [], []
    for i in range(sp.vocab_size()):
        pieces.append(sp.id_to_piece(i).encode())
        scores.append(sp.get_score(i))
        kind = 1
        if sp.is_unknown(i):
            kind = 2
        elif sp.is_control(i):
            kind = 3
        elif pieces[-1] == b"<keep>":
            kind = 4
        elif sp.is_unused(i):
            kind = 5
        elif sp.is_byte(i):
            kind = 6
        types.append(kind)
    w.add_token_list(pieces)
    w.add_token_scores(scores)
    w.add_token_types(types)
    w.add_bos_token_id(sp.bos_id())
    w.add_eos_token_id(sp.eos_id())
    w.add_unk_token_id(sp.unk_id())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    byte_level()
    char_level()
    spm()
    with open(os.path.join(HERE, "VERSIONS"), "w") as f:
        f.write("made %s with python %s, tokenizers %s, sentencepiece %s, gguf %s\n" % (
            datetime.date.today().isoformat(), sys.version.split()[0], tokenizers.__version__, sentencepiece.__version__, "0.19.0"))


main()
