"""The jobs that are compared, written as scenario files that staticfire and the programs here read alike."""

import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]
TEXT = ROOT / "scenarios/data/shakespeare.txt"
OPTIMIZER = {
    "kind": "adamw",
    "lr": 1e-3,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "warmup_steps": 5,
}
# Dense bf16 FLOP/s of a device whose name holds the word; topo/catalog/devices has the sources.
PEAKS = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12}


def model(hidden, layers, heads, kv, ffn, vocab, tied, head_dim=None, gated=True):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu" if gated else "gelu_pytorch_tanh",
        "gated_mlp": gated,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": head_dim or hidden // heads,
        "intermediate_size": ffn,
        "initializer_range": 0.02,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "vocab_size": vocab,
    }


# name -> model, sequence length, global batch, tokens/s to reach on one H200. GPT-2's shape has RMSNorm and rotary
# positions here; its matrices and its GELU are GPT-2's.
GPU_ROWS = {
    "gpt2-124m": (model(768, 12, 12, 12, 3072, 50304, True, gated=False), 1024, 64, 540e3),
    "qwen2.5-0.5b": (model(896, 24, 14, 2, 4864, 151936, True, 64), 1024, 64, 185e3),
    "qwen2.5-1.5b": (model(1536, 28, 12, 2, 8960, 151936, True), 1024, 32, 72e3),
    "llama-3-8b": (model(4096, 32, 32, 8, 14336, 128256, False), 8192, 2, 11.5e3),
}
TINY = model(256, 8, 8, 4, 512, 256, False)


def stage_model(hidden):
    """Eight layers, one for each stage of the virtual pipeline."""
    heads = max(hidden // 64, 2)
    return model(hidden, 8, heads, heads, 2 * hidden, 256, False)


def scenario(folder, name, config, seq, batch, precision, gpus, plan, cluster, lr=OPTIMIZER["lr"], canonical=False):
    folder = pathlib.Path(folder)
    (folder / f"{name}.config.json").write_text(json.dumps(config))
    path = folder / f"{name}.scenario.json"
    job = {
        "seq_len": seq,
        "global_batch": batch,
        "precision": precision,
        "gpus": gpus,
        "steps": 20,
        "seed": 1,
        "canonical": canonical,
        "optimizer": OPTIMIZER | {"lr": lr},
    }
    path.write_text(
        json.dumps(
            {"name": name, "cluster": str(cluster), "model": f"{name}.config.json", "job": job, "plan": plan}, indent=1
        )
    )
    return path
