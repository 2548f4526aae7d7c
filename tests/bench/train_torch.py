"""One LoRA tuning run of PyTorch + peft on the CPU: the other side of tests/bench/peers_train.sh, no part of the product.

  OMP_WAIT_POLICY=PASSIVE python train_torch.py smollm135|qwen05b qv|all THREADS STEPS [eager|sdpa] [f32|bf16]

Random weights of the named shape, one sequence of 256 random tokens a step, AdamW, every token but the first is a label.
bf16: matrix products under autocast. Prints seconds of the median step, tokens/s and the highest RSS.
"""
import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    "smollm135": dict(hidden_size=576, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536,
                      vocab_size=49152, num_hidden_layers=30, max_position_embeddings=2048),
    "qwen05b": dict(hidden_size=896, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864,
                    vocab_size=151936, num_hidden_layers=24, max_position_embeddings=4096),
}
LINEARS = {"qv": ["q_proj", "v_proj"],
           "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
SEQ = 256


def main():
    shape, linears, threads, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    attention = sys.argv[5] if len(sys.argv) > 5 else "sdpa"
    bf16 = len(sys.argv) > 6 and sys.argv[6] == "bf16"
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    config = LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, use_cache=False, attn_implementation=attention)
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=8, lora_alpha=16, target_modules=LINEARS[linears]))
    model.train()
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    seconds = []
    for _ in range(steps):
        ids = torch.randint(0, config.vocab_size, (1, SEQ))
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        opt.step()
        opt.zero_grad()
        seconds.append(time.perf_counter() - start)
    steady = sorted(seconds[2:] if steps > 4 else seconds[1:])
    s = steady[len(steady) // 2]
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"shape={shape} linears={linears} threads={threads} products={'bf16' if bf16 else 'f32'} attention={attention} "
          f"tok_s={SEQ / s:.1f} step_ms={s * 1e3:.1f} rss_mib={rss:.1f} loss={loss.item():.4f}")


main()
