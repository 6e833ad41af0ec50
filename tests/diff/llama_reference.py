"""A Llama in JAX with float64, and reading what a run dumped: for tests that train against it."""
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np


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
