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


WIDE = [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \u2764\ufe0f 1\ufe0f\u20e3", "สวัสดีชาวโลก ภาษาไทย น้ำ", "السَّلَامُ عَلَيْكُمْ ٣٤٥", "שלום עולם",
    "Ελληνικά ΟΔΥΣΣΕΥΣ \u00df \u0149 \u01f0", "\u0130stanbul \u0131I \u0130i", "Tiếng Việt", "\u2167 \u3392 \ufb01 \uff21\uff22\uff11 \u337f \u00bd \u00b2 \ufdfa", "\u0344 \u0958 \u0e33", "a\u0300\u0316\u0301\u0317b",
    "nbsp\u00a0x \u180e mvs \u2028ls\u2029ps \x85nel \x1c fs \x0b\x0c", "\u200e\u200f\u200b \u00ad soft", "## a##b ##ing", "[CLS] x [SEP] [UNK]", "`` '' ``quoted''", "CamelCaseWordsAndABCDef HTTPServer \u01c5 \u01c4",
    "x" * 120, "a" * 100 + " " + "b" * 101, "ab" * 150, "é" * 80, "字" * 60, "\n" * 40, "\t" * 20 + "x", "  lead and trail  ", "a  b   c    d", "\r\r\n\n", "12345678901234567890", "!!!???...;;;---===___+++~~~```^^^$$$|||<<<>>>",
    "MiXed <keep> MIXED mixed", "words word aword word.", "x<keep>y the model<keep>", "\uff5e\u2018q\u2019 \u3000\u3002 \u4e00\u9fa5\uac00", "\u00b2\u00b3\u00b9\u00bc\u00bd\u00be \uff13", "1\u00b2 12\u00be3456",
]
BAD = ["ff", "61ff62", "c3", "61e4b8", "f09f98", "eda08078", "c080", "78808079", "f4908080", "e28181e28182"]
RULES = "".join("%X\t%s\n" % (ord(c), " ".join("%X" % ord(x) for x in to)) for c, to in (
    ("\t", " "), ("\n", " "), ("\r", " "), ("\u00a0", " "), ("\u3000", " "), ("\u2028", " "), ("\ufb01", "fi"), ("\u00bd", "1/2"), ("\uff21", "A"), ("\uff22", "B"),
    ("\uff11", "1"), ("\u337f", "株式会社"), ("\u2167", "VIII"), ("\u00ad", ""), ("\u200b", ""), ("\u00df", "ss"), ("\u00b2", "2")))
RULES += "65 301\tE9\n41 30A\tC5\n"  # e + acute, A + ring


def more_cases(encode, special):
    rows = cases(encode, lambda ids: "", special)
    for r in rows:
        r.pop("decoded", None)
    return rows + [{"text": t, "ids": encode(t, False)} for t in WIDE]


def hf_more(name, tok, trainer, config=None, files=None, extra=()):
    tok.train_from_iterator(corpus() + [t for t in WIDE if "\n" not in t], trainer)
    # The special ones last: the copy without them keeps the ids of the others.
    tok.add_tokens([AddedToken("<keep>", normalized=False)] + list(extra))
    tok.add_special_tokens([AddedToken("<|a|>", normalized=False), AddedToken("<|b|>", normalized=False, rstrip=True)])
    j = json.loads(tok.to_str())
    plain = json.loads(tok.to_str())
    plain["added_tokens"] = [t for t in plain["added_tokens"] if not t["special"]]
    plain = Tokenizer.from_str(json.dumps(plain))

    def encode(t, sp):
        return (tok if sp else plain).encode(t, add_special_tokens=False).ids

    out = {"tokenizer.json": json.dumps(j, ensure_ascii=False, separators=(",", ":"))} if files is None else files(j)
    if config is not None:
        out["tokenizer_config.json"] = json.dumps(config)
    write(name, out, more_cases(encode, True))


def sentencepiece_model(name, **options):
    model = io.BytesIO()
    text = corpus() + [t for t in WIDE if "\n" not in t]
    rules = "rules.tsv"  # the name is kept in the model
    os.chdir(HERE)
    with open(rules, "w", encoding="utf-8") as f:
        f.write(RULES)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=600, character_coverage=0.98, hard_vocab_limit=False,
        normalization_rule_tsv=rules, num_threads=1, minloglevel=2, **options)
    os.remove(rules)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    rows = [r for r in more_cases(lambda t, _: sp.encode(t.encode()), False) if "\x00" not in r["text"]]
    write(name, {}, rows)
    with open(os.path.join(HERE, name, "cases.jsonl"), "a") as f:
        for h in BAD:
            f.write(json.dumps({"text_hex": h, "ids": sp.encode(bytes.fromhex(h))}, separators=(",", ":")) + "\n")
    with open(os.path.join(HERE, name, "tokenizer.model"), "wb") as f:
        f.write(model.getvalue())
    return model.getvalue()


def charsmap(model):
    """precompiled_charsmap of a SentencePiece model: field 2 of field 3."""
    def fields(b):
        i = 0

        def varint():
            nonlocal i
            n = shift = 0
            while True:
                c = b[i]
                i += 1
                n |= (c & 127) << shift
                shift += 7
                if c < 128:
                    return n
        while i < len(b):
            tag = varint()
            if tag & 7 == 2:
                n = varint()
                yield tag >> 3, b[i:i + n]
                i += n
            elif tag & 7 == 0:
                varint()
            else:
                i += 4 if tag & 7 == 5 else 8
    return next(b2 for k, b in fields(model) if k == 3 for k2, b2 in fields(b) if k2 == 2)


def added_dict(j):
    return {str(a["id"]): {k: a[k] for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")} for a in j["added_tokens"]}


def more_kinds():
    # SentencePiece's own files: normalisation, byte fallback or unknown pieces, user-defined pieces.
    uni = sentencepiece_model("spm-unigram", model_type="unigram", user_defined_symbols=["<keep>", "the model", "ab"])
    sentencepiece_model("spm-unigram-bytes", model_type="unigram", byte_fallback=True, remove_extra_whitespaces=False, split_digits=True)
    sentencepiece_model("spm-bpe", model_type="bpe", byte_fallback=True, user_defined_symbols=["<keep>", "the model", "ab"])
    chars = charsmap(uni)
    unigram = lambda n: trainers.UnigramTrainer(vocab_size=n, special_tokens=["<p>", "<e>", "<u>"], unk_token="<u>", show_progress=False)

    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.Precompiled(chars), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    t.post_processor = processors.TemplateProcessing(single="$A <e>", special_tokens=[("<e>", 1)])
    t.decoder = decoders.Metaspace()
    hf_more("unigram-t5", t, unigram(400))

    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([
        normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    hf_more("unigram-lower", t, unigram(400), extra=[AddedToken("MiXed", normalized=True), AddedToken("word", single_word=True, normalized=False), AddedToken("<m>", lstrip=True, normalized=False)])

    def words(**options):
        t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        t.normalizer = normalizers.BertNormalizer(**options)
        t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        t.decoder = decoders.WordPiece()
        return t, trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False)

    t, tr = words()
    hf_more("wordpiece", t, tr)
    t, tr = words(lowercase=False)
    def pieces(j):
        vocab = j["model"]["vocab"]
        return {"vocab.txt": "".join(k + "\n" for k in sorted(vocab, key=vocab.get)),
                "tokenizer_config.json": json.dumps({"do_lower_case": False, "tokenizer_class": "BertTokenizer", "added_tokens_decoder": added_dict(j)})}
    hf_more("wordpiece-txt", t, tr, files=pieces)

    split = lambda p: pre_tokenizers.Split(Regex(p), "isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    short = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    gpt4o = (r"[^\r\n\p{L}\p{N}]?" + upper + "*" + lower + "+" + short + r"|[^\r\n\p{L}\p{N}]?" + upper + "+" + lower + "*" + short +
             r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    deepseek3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+").replace('\\"', '"')
    for name, steps in (("bpe-gpt4o", [split(gpt4o), plain]),
                        ("bpe-deepseek3", [split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), split(deepseek3), plain]),
                        ("bpe-falcon", [pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(), split("[0-9][0-9][0-9]")])):
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.Sequence(steps)
        t.decoder = decoders.ByteLevel()
        hf_more(name, t, byte_trainer(500))

    # The older files of GPT-2: vocab.json and merges.txt.
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()

    def old(j):
        return {"vocab.json": json.dumps(j["model"]["vocab"], ensure_ascii=False, separators=(",", ":")),
                "merges.txt": "#version: 0.2\n" + "".join(" ".join(m) + "\n" for m in j["model"]["merges"]),
                "tokenizer_config.json": json.dumps({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": "<|endoftext|>", "eos_token": "<|b|>", "added_tokens_decoder": added_dict(j)})}
    hf_more("bpe-merges", t, byte_trainer(500), files=old)


def main():
    byte_level()
    char_level()
    spm()
    more_kinds()
    with open(os.path.join(HERE, "VERSIONS"), "w") as f:
        f.write("made %s with python %s, tokenizers %s, sentencepiece %s, gguf %s\n" % (
            datetime.date.today().isoformat(), sys.version.split()[0], tokenizers.__version__, sentencepiece.__version__, "0.19.0"))


main()
