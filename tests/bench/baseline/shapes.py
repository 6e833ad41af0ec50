"""The jobs that are compared, written as scenario files that staticfire and the programs here read alike."""

import collections
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


def published(folder):
    return json.loads((ROOT / "scenarios/models" / folder / "config.json").read_text())


# Model, sequence length, global batch, what the job says beside them, tokens/s to reach on one H200.
Row = collections.namedtuple("Row", ("config", "seq", "batch", "job", "goal"))
PADDED = {"vocab_multiple": 128}
GPU_ROWS = {
    "gpt2-124m": Row(published("gpt2-124m"), 1024, 64, PADDED, 540e3),
    "qwen2.5-0.5b": Row(published("qwen2.5-0.5b"), 1024, 64, {}, 185e3),
    "qwen2.5-1.5b": Row(published("qwen2.5-1.5b"), 1024, 32, {}, 72e3),
    "llama-3-8b": Row(published("llama-3.1-8b"), 8192, 2, {}, 11.5e3),
}
TINY = model(256, 8, 8, 4, 512, 256, False)
# The same kinds of layers as the published ones; 250 tokens are no multiple of a tile.
TINY_GPT2 = published("gpt2-124m") | {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 128, "vocab_size": 250}
TINY_QWEN2 = published("qwen2.5-0.5b") | {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}


def stage_model(hidden):
    """Eight layers, one for each stage of the virtual pipeline."""
    heads = max(hidden // 64, 2)
    return model(hidden, 8, heads, heads, 2 * hidden, 256, False)


def scenario(
    folder,
    name,
    config,
    seq,
    batch,
    precision,
    gpus,
    plan,
    cluster,
    lr=OPTIMIZER["lr"],
    canonical=False,
    job=None,
    **optimizer,
):
    """`job`: keys of the scenario's job beside these; `optimizer`: of its optimizer."""
    folder = pathlib.Path(folder)
    (folder / f"{name}.config.json").write_text(json.dumps(config))
    path = folder / f"{name}.scenario.json"
    whole = {
        "seq_len": seq,
        "global_batch": batch,
        "precision": precision,
        "gpus": gpus,
        "steps": 20,
        "seed": 1,
        "canonical": canonical,
        "optimizer": OPTIMIZER | {"lr": lr} | optimizer,
    } | (job or {})
    path.write_text(
        json.dumps(
            {"name": name, "cluster": str(cluster), "model": f"{name}.config.json", "job": whole, "plan": plan},
            indent=1,
        )
    )
    return path
