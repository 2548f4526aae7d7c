"""Writes blocks.bin: rows of floats, what llama.cpp's quantisers make of them, and random blocks with what llama.cpp and gguf-py
read in them. Usage: make_blocks.py libggml-base.so blocks.bin

  f32 [ROWS, 512]                     the rows; the last one is subnormal
  per type of TYPES: u8 [ROWS, bytes] ggml_quantize_chunk without an importance matrix
  per type of TYPES: u8 [n, block bytes], f32 [n, block elements]   n = 16 for blocks of 32, 4 for blocks of 256
"""
import ctypes
import sys

import gguf
import numpy as np
from gguf.quants import dequantize

TYPES = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS".split()
F16_AT = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
W = 512
rng = np.random.default_rng(11)
g = ctypes.CDLL(sys.argv[1])
g.ggml_quantize_chunk.restype = ctypes.c_size_t
g.ggml_quantize_chunk.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 3 + [ctypes.c_void_p]


def ptr(a):
    return a.ctypes.data_as(ctypes.c_void_p)


normal = rng.standard_normal
rows = [
    normal(W),
    normal(W) * 0.02,
    (normal(W) * 0.02).astype(np.float16),
    normal(W) * np.repeat(np.exp(rng.uniform(-12, 6, W // 16)), 16),
    normal(W) * np.repeat(np.exp(rng.uniform(-12, 6, W // 32)), 32),
    rng.laplace(size=W),
    rng.standard_t(2, size=W),
    np.abs(normal(W)) + 1.5,
    -np.abs(normal(W)) - 0.1,
    normal(W) * (rng.random(W) < 0.05),
    np.round(rng.uniform(-8, 8, W) * 2) / 2,
    np.linspace(-1, 1, W),
    np.concatenate([np.eye(1, W // 2, 100)[0] * 3, np.eye(1, W // 2, 7)[0] * -100 + normal(W // 2)]),
    np.zeros(W),
    -np.zeros(W),
    np.full(W, 0.7),
    np.full(W, -0.7),
    normal(W) * 1e-9,
    normal(W) * 1e-20,
    normal(W) * 1e-30,
    normal(W) * 1e4,
    normal(W) * 1e7,
    normal(W) * 1e20,
    normal(W) * 1e-41,
]
with np.errstate(all="ignore"):
    x = np.ascontiguousarray(np.stack([np.asarray(r, np.float32) for r in rows]))
with open(sys.argv[2], "wb") as f:
    f.write(x.tobytes())
    for name in TYPES:
        t = gguf.GGMLQuantizationType[name]
        elems, size = gguf.GGML_QUANT_SIZES[t]
        q = np.zeros((len(rows), W // elems * size), np.uint8)
        g.ggml_quantize_chunk(int(t), ptr(x), ptr(q), 0, len(rows), W, None)
        f.write(q.tobytes())
    for name in TYPES:
        t = gguf.GGMLQuantizationType[name]
        elems, size = gguf.GGML_QUANT_SIZES[t]
        n = 4 if elems == 256 else 16
        q = rng.integers(0, 256, (n, size), dtype=np.uint8)
        for at in F16_AT.get(name, (0,)):
            q[:, at : at + 2] = (normal((n, 1)) * 0.01).astype(np.float16).view(np.uint8)
        q = np.ascontiguousarray(q)
        y = np.zeros((n, elems), np.float32)
        read = "dequantize_row_" + (name.lower() if name.startswith("IQ") else "q" + name[1:])
        getattr(g, read)(ptr(q), ptr(y), ctypes.c_int64(y.size))
        assert np.array_equal(y, dequantize(q, t).reshape(y.shape)), name
        f.write(q.tobytes() + y.tobytes())
print("gguf", __import__("importlib.metadata").metadata.version("gguf"), "numpy", np.__version__, file=sys.stderr)
