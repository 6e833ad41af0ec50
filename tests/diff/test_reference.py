#!/usr/bin/env python3
"""Loss and gradients of the CPU runtime against an independent model written in JAX with float64.

The text holds exactly one batch of windows, so the first step sees every window once and their order does not matter.
The learning rate is 0: the parameters dumped after the step are the ones it started from.
Skipped (exit 77) where JAX is not installed in build/venv.
"""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

TOLERANCE = 1e-5
ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "build/release"

VENV = ROOT / "build/venv/bin/python"
try:
    import jax
except ImportError:
    if VENV.exists() and pathlib.Path(sys.prefix) != VENV.parents[1]:
        os.execv(VENV, [str(VENV), __file__, *sys.argv[1:]])
    print("skipped: JAX is not installed (build/venv; see tests/diff/requirements.txt)")
    sys.exit(77)

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402


def read_safetensors(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    out = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            assert entry["dtype"] == "F32", name
            out[name] = np.frombuffer(data, "<f4", (end - begin) // 4, 8 + size + begin).reshape(entry["shape"])
    return out


def rmsnorm(x, w, eps):
    return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * w.reshape(-1)


def rope(x, theta):  # [batch, seq, heads, dim], rotate pairs (i, i + dim/2)
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[None, :, None, :], jnp.sin(angle)[None, :, None, :]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(x, p, c):
    batch, seq, _ = x.shape
    dim = c["hidden_size"] // c["num_attention_heads"]
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    qkv = (x @ p["self_attn.qkv_proj.weight"].T).reshape(batch, seq, heads + 2 * kv, dim)
    q, k = rope(qkv[:, :, :heads], c["rope_theta"]), rope(qkv[:, :, heads:heads + kv], c["rope_theta"])
    k, v = jnp.repeat(k, heads // kv, 2), jnp.repeat(qkv[:, :, heads + kv:], heads // kv, 2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(dim)
    scores = jnp.where(jnp.tril(jnp.ones((seq, seq), bool)), scores, -jnp.inf)
    out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)
    return out.reshape(batch, seq, heads * dim) @ p["self_attn.o_proj.weight"].T


def mlp(x, p):
    gate, up = jnp.split(x @ p["mlp.gate_up_proj.weight"].T, 2, -1)
    return (jax.nn.silu(gate) * up) @ p["mlp.down_proj.weight"].T


def loss(params, tokens, c):
    x = params["model.embed_tokens.weight"][tokens[:, :-1]]
    eps = c["rms_norm_eps"]
    for i in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        p = {k[len(prefix):]: v for k, v in params.items() if k.startswith(prefix)}
        x = x + attention(rmsnorm(x, p["input_layernorm.weight"], eps), p, c)
        x = x + mlp(rmsnorm(x, p["post_attention_layernorm.weight"], eps), p)
    head = params.get("lm_head.weight", params["model.embed_tokens.weight"])
    logits = rmsnorm(x, params["model.norm.weight"], eps) @ head.T
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), tokens[:, 1:, None], -1)
    return -jnp.mean(picked)


def run(*command):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nexit {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def train_one_step(folder, config, seq, batch, plan):
    (folder / "config.json").write_text(json.dumps(config))
    ranks = plan["pp"] * plan["dp"] * plan.get("tp", 1)
    text = (ROOT / "scenarios/data/shakespeare.txt").read_bytes()[:seq * batch + 1]
    (folder / "text.txt").write_bytes(text)
    scenario = {
        "name": "reference", "cluster": "machine.yaml", "model": "config.json", "plan": plan,
        "job": {"seq_len": seq, "global_batch": batch, "precision": "f32", "gpus": ranks, "steps": 1,
                "seed": 3, "data": "text.txt", "canonical": True,
                "optimizer": {"kind": "adamw", "lr": 0.0, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
                              "weight_decay": 0.1, "warmup_steps": 0}},
    }
    (folder / "scenario.yaml").write_text(json.dumps(scenario))
    run(BUILD / "staticfire", "topo", "probe", "-o", folder, "--ranks", ranks)
    run(BUILD / "staticfire", "plan", folder / "scenario.yaml", "-o", folder / "plan.yaml")
    run(BUILD / "staticfire", "compile", folder / "plan.yaml", "-o", folder / "p.sfprog")
    run(BUILD / "staticfire-run", folder / "p.sfprog", "--data", folder / "text.txt", "--steps", 1,
        "--dump", folder / "dump.safetensors")
    tokens = np.frombuffer(text, np.uint8).astype(np.int64)
    windows = np.stack([tokens[i * seq:(i + 1) * seq + 1] for i in range(batch)])
    return read_safetensors(folder / "dump.safetensors"), windows


def compare(name, config, seq, batch, plan):
    with tempfile.TemporaryDirectory() as folder:
        dump, windows = train_one_step(pathlib.Path(folder), config, seq, batch, plan)
    params = {k[6:]: jnp.asarray(v, jnp.float64) for k, v in dump.items() if k.startswith("param/")}
    grads = {k[5:]: v for k, v in dump.items() if k.startswith("grad/")}
    assert params.keys() == grads.keys() and len(params) == 3 - config["tie_word_embeddings"] + 6 * config["num_hidden_layers"]
    want, want_grads = jax.value_and_grad(loss)(params, windows, config)
    worst, where = abs(float(dump["loss"].reshape(-1)[0]) - float(want)) / abs(float(want)), "loss"
    for key, value in want_grads.items():
        value = np.asarray(value).reshape(grads[key].shape)
        error = np.linalg.norm(grads[key] - value) / np.linalg.norm(value)
        if not error <= worst:
            worst, where = error, key
    print(f"{name}: loss {float(want):.6f}, worst relative error {worst:.2e} ({where}), tolerance {TOLERANCE:g}")
    return worst <= TOLERANCE


BASE = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "vocab_size": 256,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": False, "initializer_range": 0.05}

ok = [
    compare("grouped heads, 2 stages", BASE, 48, 8, {"pp": 2, "dp": 1, "micro_batch": 1}),
    compare("tied embedding, 2 stages", BASE | {"tie_word_embeddings": True}, 48, 8, {"pp": 2, "dp": 1, "micro_batch": 2}),
    compare("split backwards on a V, tied, recomputed", BASE | {"tie_word_embeddings": True, "num_hidden_layers": 4}, 48, 8,
            {"pp": 2, "dp": 1, "micro_batch": 1, "schedule": "zb-v", "recompute": "full"}),
    compare("two copies, opposite ways", BASE | {"num_hidden_layers": 2}, 48, 8,
            {"pp": 2, "dp": 1, "micro_batch": 1, "schedule": "dualpipe"}),
    compare("tensor parallel, tied, 2 stages", BASE | {"tie_word_embeddings": True}, 48, 8,
            {"pp": 2, "dp": 1, "tp": 2, "micro_batch": 1}),
    compare("tensor parallel over 4", BASE | {"num_key_value_heads": 4}, 48, 8,
            {"pp": 1, "dp": 1, "tp": 4, "micro_batch": 2}),
    compare("tensor parallel, 2 replicas, split backwards", BASE | {"num_hidden_layers": 2}, 48, 8,
            {"pp": 2, "dp": 2, "tp": 2, "micro_batch": 1, "schedule": "zb-h1", "zero": 1}),
    compare("2 replicas", BASE | {"num_key_value_heads": 4, "num_hidden_layers": 2}, 33, 8, {"pp": 1, "dp": 2, "micro_batch": 1}),
]
sys.exit(not all(ok))
