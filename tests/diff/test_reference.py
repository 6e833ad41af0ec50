#!/usr/bin/env python3
"""Loss and gradients of the CPU runtime against an independent model written in JAX with float64.

The text holds exactly one batch of windows, so the first step sees every window once and their order does not matter.
Parameters are dumped after a step: with a learning rate of 0 they are the ones it started from. Models with biases, which
start from zero, are compared in their second step instead, and what it started from is the dump of another run of one.
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


def norm(x, p, name, c):
    w, eps = p[name + ".weight"].reshape(-1), c.get("rms_norm_eps") or c["layer_norm_epsilon"]
    if c["model_type"] == "gpt2":
        x = x - jnp.mean(x, -1, keepdims=True)
    x = x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * w
    return x + p[name + ".bias"].reshape(-1) if c["model_type"] == "gpt2" else x


def linear(x, p, name):
    y = x @ p[name + ".weight"].T
    return y + p[name + ".bias"].reshape(-1) if name + ".bias" in p else y


def rope(x, theta):  # [batch, seq, heads, dim], rotate pairs (i, i + dim/2)
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[None, :, None, :], jnp.sin(angle)[None, :, None, :]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(x, p, c):
    batch, seq, _ = x.shape
    heads = c.get("num_attention_heads") or c["n_head"]
    kv, theta = c.get("num_key_value_heads", heads), c.get("rope_theta")
    dim = p["self_attn.o_proj.weight"].shape[1] // heads
    qkv = linear(x, p, "self_attn.qkv_proj").reshape(batch, seq, heads + 2 * kv, dim)
    q, k = qkv[:, :, :heads], qkv[:, :, heads:heads + kv]
    if theta:
        q, k = rope(q, theta), rope(k, theta)
    k, v = jnp.repeat(k, heads // kv, 2), jnp.repeat(qkv[:, :, heads + kv:], heads // kv, 2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(dim)
    scores = jnp.where(jnp.tril(jnp.ones((seq, seq), bool)), scores, -jnp.inf)
    out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)
    return linear(out.reshape(batch, seq, heads * dim), p, "self_attn.o_proj")


def mlp(x, p, c):
    y = linear(x, p, "mlp.gate_up_proj")
    if c["model_type"] == "gpt2":
        return linear(jax.nn.gelu(y, approximate=True), p, "mlp.down_proj")
    gate, up = jnp.split(y, 2, -1)
    return linear(jax.nn.silu(gate) * up, p, "mlp.down_proj")


def layer(x, params, i, c):
    prefix = f"model.layers.{i}."
    p = {k[len(prefix):]: v for k, v in params.items() if k.startswith(prefix)}
    x = x + attention(norm(x, p, "input_layernorm", c), p, c)
    return x + mlp(norm(x, p, "post_attention_layernorm", c), p, c)


def mean_loss(x, params, targets, c):
    head = params.get("lm_head.weight", params["model.embed_tokens.weight"])
    logits = norm(x, params, "model.norm", c) @ head[:c["vocab_size"]].T  # behind them are rows that are no tokens
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits, -1), targets[..., None], -1))


def further_loss(x, params, tokens, c):
    """Mean over the layers that predict further of what each is wrong by."""
    depths, seq, total = further(c), x.shape[1], 0.0
    for k in range(1, depths + 1):
        i = layers_of(c) + k - 1
        own = {n: params[f"model.layers.{i}.{n}.weight"] for n in ("hnorm", "enorm", "h_proj", "e_proj")}
        p = {n + ".weight": v for n, v in own.items()}
        e = params["model.embed_tokens.weight"][tokens[:, k:k + seq]]
        x = norm(x, p, "hnorm", c) @ own["h_proj"].T + norm(e, p, "enorm", c) @ own["e_proj"].T
        x = layer(x, params, i, c)
        total = total + mean_loss(x, params, tokens[:, k + 1:k + 1 + seq], c) / depths
    return total


def further(c):
    return c.get("num_nextn_predict_layers", 0)


def loss(params, tokens, c):
    seq = tokens.shape[1] - 1 - further(c)
    x = params["model.embed_tokens.weight"][tokens[:, :seq]]
    if "model.embed_positions.weight" in params:
        x = x + params["model.embed_positions.weight"][:x.shape[1]]
    for i in range(layers_of(c)):
        x = layer(x, params, i, c)
    main = mean_loss(x, params, tokens[:, 1:seq + 1], c)
    return main + c.get("mtp_loss_scaling_factor", 0.1) * further_loss(x, params, tokens, c) if further(c) else main


def layers_of(c):
    return c.get("num_hidden_layers") or c["n_layer"]


def tensors_of(c):
    """Weights of a layer, and beside the layers."""
    gpt2, qkv, every = c["model_type"] == "gpt2", c["model_type"] == "qwen2", c.get("attention_bias", False)
    layer = 6 + 6 * gpt2 + qkv + 2 * every + 2 * c.get("mlp_bias", False)
    return layer * layers_of(c) + (layer + 4) * further(c) + 3 + 2 * gpt2 - (gpt2 or c["tie_word_embeddings"])


def run(*command):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nexit {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def train(folder, config, seq, batch, plan, job, steps):
    (folder / "config.json").write_text(json.dumps(config))
    ranks = plan["pp"] * plan["dp"] * plan.get("tp", 1)
    text = (ROOT / "scenarios/data/shakespeare.txt").read_bytes()[:seq * batch + 1 + further(config)]
    (folder / "text.txt").write_bytes(text)
    scenario = {
        "name": "reference", "cluster": "machine.yaml", "model": "config.json", "plan": plan,
        "job": {"seq_len": seq, "global_batch": batch, "precision": "f32", "gpus": ranks, "steps": 1,
                "seed": 3, "data": "text.txt", "canonical": True,
                "optimizer": {"kind": "adamw", "lr": 0.0 if steps == 1 else 0.02, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
                              "weight_decay": 0.1, "warmup_steps": 0}} | job,
    }
    (folder / "scenario.yaml").write_text(json.dumps(scenario))
    run(BUILD / "staticfire", "topo", "probe", "-o", folder, "--ranks", ranks)
    run(BUILD / "staticfire", "plan", folder / "scenario.yaml", "-o", folder / "plan.yaml")
    run(BUILD / "staticfire", "compile", folder / "plan.yaml", "-o", folder / "p.sfprog")
    dumps = []
    for n in sorted({1, steps}):
        run(BUILD / "staticfire-run", folder / "p.sfprog", "--data", folder / "text.txt", "--steps", n,
            "--dump", folder / "dump.safetensors")
        dumps.append(read_safetensors(folder / "dump.safetensors"))
    tokens = np.frombuffer(text, np.uint8).astype(np.int64)
    windows = np.stack([tokens[i * seq:(i + 1) * seq + 1 + further(config)] for i in range(batch)])
    return dumps[0], dumps[-1], windows


def compare(name, config, seq, batch, plan, job={}):
    with tempfile.TemporaryDirectory() as folder:
        steps = 2 if config in (GPT2, QWEN2, BIASED) else 1
        start, dump, windows = train(pathlib.Path(folder), config, seq, batch, plan, job, steps)
    params = {k[6:]: jnp.asarray(v, jnp.float64) for k, v in start.items() if k.startswith("param/")}
    grads = {k[5:]: v for k, v in dump.items() if k.startswith("grad/")}
    assert params.keys() == grads.keys() and len(params) == tensors_of(config), (len(params), tensors_of(config))
    want, want_grads = jax.value_and_grad(loss)(params, windows, config)
    worst, where = abs(float(dump["loss"].reshape(-1)[-1]) - float(want)) / abs(float(want)), "loss"
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

GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 200,
        "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0, "layer_norm_epsilon": 1e-5, "initializer_range": 0.05}
QWEN2 = BASE | {"model_type": "qwen2", "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
BIASED = BASE | {"attention_bias": True, "mlp_bias": True}
FURTHER = BASE | {"num_hidden_layers": 2, "num_nextn_predict_layers": 2, "mtp_loss_scaling_factor": 0.3}

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
    compare("gpt2, 2 stages, padded vocabulary", GPT2, 48, 8, {"pp": 2, "dp": 1, "micro_batch": 1},
            {"vocab_multiple": 64}),
    compare("gpt2, logits in parts, recomputed, split backwards", GPT2, 64, 8,
            {"pp": 2, "dp": 1, "micro_batch": 2, "schedule": "zb-h1", "recompute": "full"},
            {"vocab_multiple": 64, "loss_rows": 48}),
    compare("gpt2, tensor parallel", GPT2, 48, 8, {"pp": 1, "dp": 1, "tp": 2, "micro_batch": 2}, {"loss_rows": 40}),
    compare("qwen2, logits in parts, 2 replicas", QWEN2, 48, 8, {"pp": 1, "dp": 2, "micro_batch": 1}, {"loss_rows": 16}),
    compare("qwen2, tensor parallel, 2 stages, logits in parts", QWEN2, 48, 8,
            {"pp": 2, "dp": 1, "tp": 2, "micro_batch": 1}, {"loss_rows": 20}),
    compare("biases in every product, tensor parallel, split backwards", BIASED, 48, 8,
            {"pp": 2, "dp": 1, "tp": 2, "micro_batch": 1, "schedule": "zb-h1"}),
    compare("two tokens further", FURTHER, 48, 8, {"pp": 1, "dp": 1, "micro_batch": 2}),
    compare("two tokens further, 2 stages, split backwards, logits in parts", FURTHER, 48, 8,
            {"pp": 2, "dp": 1, "micro_batch": 2, "schedule": "zb-h1", "recompute": "full"}, {"loss_rows": 40}),
    compare("two tokens further, tied, tensor parallel, 2 stages, 2 replicas", FURTHER | {"tie_word_embeddings": True}, 48, 8,
            {"pp": 2, "dp": 2, "tp": 2, "micro_batch": 1}),
    compare("one token further, two copies, opposite ways", FURTHER | {"num_nextn_predict_layers": 1}, 48, 8,
            {"pp": 2, "dp": 1, "micro_batch": 1, "schedule": "dualpipe"}),
    compare("2 replicas", BASE | {"num_key_value_heads": 4, "num_hidden_layers": 2}, 33, 8, {"pp": 1, "dp": 2, "micro_batch": 1}),
]
sys.exit(not all(ok))
