"""Writes quant.bin: 64 rows of 64 floats and what gguf-py's quantize() makes of them (F16, BF16, Q8_0, Q4_0), concatenated."""
import sys

import gguf
import numpy as np
from gguf.quants import quantize

rng = np.random.default_rng(7)
x = (rng.standard_normal((64, 64)) * np.exp(rng.uniform(-12, 6, (64, 1)))).astype(np.float32)
x[1] = 0
x[2, :32] = 1.0
x[3, ::2] *= -1e-3
x[4] = np.linspace(-127, 127, 64)
x[5] = np.round(rng.uniform(-8, 8, 64) * 2) / 2  # ties
T = gguf.GGMLQuantizationType
with open(sys.argv[1], "wb") as f:
    f.write(x.tobytes())
    for t in (T.F16, T.BF16, T.Q8_0, T.Q4_0):
        f.write(np.ascontiguousarray(quantize(x, t)).tobytes())
print("gguf", __import__("importlib.metadata").metadata.version("gguf"), "numpy", np.__version__, file=sys.stderr)
