"""The model in JAX, as a Llama (or, without a gate, a GPT) trained in mixed precision: master weights in f32,
arithmetic in the job's precision, norms, softmax and loss in f32."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from job import decays, read_safetensors

DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
LAYER = "model.layers."


def policy(name):
    """What the backward pass finds and what it recomputes, layer by layer."""
    kinds = jax.checkpoint_policies
    return {
        "dots": kinds.save_from_both_policies(
            kinds.dots_with_no_batch_dims_saveable, kinds.save_only_these_names("attention")
        ),
        "attention": kinds.save_only_these_names("attention"),
        "full": kinds.nothing_saveable,
    }[name]


def rematerialised(block, name):
    return block if name == "none" else jax.checkpoint(block, policy=policy(name))


def rmsnorm(x, weight, eps):
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)
    return (y * weight.astype(jnp.float32)).astype(x.dtype)


def rope(x, theta):
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def make_block(m, attention):
    def block(x, p):
        batch, seq, _ = x.shape
        y = rmsnorm(x, p["input_layernorm.weight"], m.eps)
        qkv = (y @ p["self_attn.qkv_proj.weight"].T).reshape(batch, seq, m.heads + 2 * m.kv, m.dim)
        q, k, v = jnp.split(qkv, [m.heads, m.heads + m.kv], 2)
        y = jax.nn.dot_product_attention(
            rope(q, m.theta), rope(k, m.theta), v, is_causal=True, implementation=attention
        )
        y = checkpoint_name(y.reshape(batch, seq, m.heads * m.dim), "attention")
        x = x + y @ p["self_attn.o_proj.weight"].T
        y = rmsnorm(x, p["post_attention_layernorm.weight"], m.eps) @ p["mlp.gate_up_proj.weight"].T
        act = (lambda z: jax.nn.gelu(z, approximate=True)) if m.gelu else jax.nn.silu
        y = act(y[..., : m.ffn]) * y[..., m.ffn :] if m.gated else act(y)
        return x + y @ p["mlp.down_proj.weight"].T

    return block


def cross_entropy(x, head, targets, chunks):
    """Mean over tokens. In chunks, the f32 logits of one chunk are alive at a time and the backward pass makes them
    again."""
    x, targets = x.reshape(-1, x.shape[-1]), targets.reshape(-1)

    def part(x, targets):
        logits = jnp.einsum("td,vd->tv", x, head, preferred_element_type=jnp.float32)
        gold = jnp.take_along_axis(logits, targets[:, None], -1)[:, 0]
        return jnp.sum(jax.nn.logsumexp(logits, -1) - gold)

    if chunks == 1:
        return part(x, targets) / targets.size
    xs = x.reshape(chunks, -1, x.shape[-1]), targets.reshape(chunks, -1)
    total, _ = jax.lax.scan(lambda sum, c: (sum + jax.checkpoint(part)(*c), None), jnp.float32(0), xs)
    return total / targets.size


def initial(m, seed, weights=None):
    """Random, or from a dump of staticfire-run; matrices as [out, in]."""
    if weights:
        stored = read_safetensors(weights)
        out = {}
        for name, (shape, _) in m.tensors().items():
            out[name] = jnp.asarray(np.frombuffer(stored[f"param/{name}"][1], "<f4").reshape(shape))
        return out
    key = jax.random.key(seed)
    make = jax.jit(lambda k, shape, std: jax.random.normal(k, shape) * std, static_argnums=(1, 2))
    return {
        name: make(jax.random.fold_in(key, i), shape, std) if std else jnp.ones(shape)
        for i, (name, (shape, std)) in enumerate(m.tensors().items())
    }


def split_layers(params, m):
    """(list of one dict per layer, the rest)"""
    layers = [{} for _ in range(m.layers)]
    rest = {}
    for name, value in params.items():
        if name.startswith(LAYER):
            number, inner = name[len(LAYER) :].split(".", 1)
            layers[int(number)][inner] = value
        else:
            rest[name] = value
    return layers, rest


def stack(layers):
    return jax.tree.map(lambda *xs: jnp.stack(xs), *layers)


def adamw(job, params, grads, m, v, t):
    """One fused pass per tensor; t counts from 1 and lives on the device, so the host sends nothing."""
    o = job.optimizer
    t = t.astype(jnp.float32)
    lr = o["lr"] * (jnp.minimum(t / o["warmup_steps"], 1) if o["warmup_steps"] else 1)
    correct1, correct2 = 1 - o["beta1"] ** t, 1 - o["beta2"] ** t

    def update(path, p, g, m, v):
        g = g.astype(jnp.float32)
        m = o["beta1"] * m + (1 - o["beta1"]) * g
        v = o["beta2"] * v + (1 - o["beta2"]) * g * g
        decay = o["weight_decay"] if decays(str(path[-1].key)) else 0.0
        return p - lr * (m / correct1 / (jnp.sqrt(v / correct2) + o["eps"]) + decay * p), m, v

    out = jax.tree_util.tree_map_with_path(update, params, grads, m, v)
    return jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0, 0)), out)
