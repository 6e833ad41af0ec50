"""The model in JAX, a Llama, a Qwen2 or a GPT-2, trained in mixed precision: master weights in f32, arithmetic in the
job's precision, norms, softmax and loss in f32."""

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


def norm(x, p, name, m):
    y = x.astype(jnp.float32)
    if m.layernorm:
        y = y - jnp.mean(y, -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + m.eps) * p[name + ".weight"].astype(jnp.float32)
    return (y + p[name + ".bias"].astype(jnp.float32) if m.layernorm else y).astype(x.dtype)


def linear(x, p, name):
    y = x @ p[name + ".weight"].T
    return y + p[name + ".bias"] if name + ".bias" in p else y


def rope(x, theta):
    if theta is None:  # positions are learned
        return x
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def make_block(m, attention):
    def block(x, p):
        batch, seq, _ = x.shape
        qkv = linear(norm(x, p, "input_layernorm", m), p, "self_attn.qkv_proj")
        qkv = qkv.reshape(batch, seq, m.heads + 2 * m.kv, m.dim)
        q, k, v = jnp.split(qkv, [m.heads, m.heads + m.kv], 2)
        y = jax.nn.dot_product_attention(
            rope(q, m.theta), rope(k, m.theta), v, is_causal=True, implementation=attention
        )
        y = checkpoint_name(y.reshape(batch, seq, m.heads * m.dim), "attention")
        x = x + linear(y, p, "self_attn.o_proj")
        y = linear(norm(x, p, "post_attention_layernorm", m), p, "mlp.gate_up_proj")
        act = (lambda z: jax.nn.gelu(z, approximate=True)) if m.gelu else jax.nn.silu
        y = act(y[..., : m.ffn]) * y[..., m.ffn :] if m.gated else act(y)
        return x + linear(y, p, "mlp.down_proj")

    return block


def embed(p, tokens, m):
    x = p["model.embed_tokens.weight"][tokens]
    return x + p["model.embed_positions.weight"][: tokens.shape[1]] if m.positions else x


def cross_entropy(x, p, targets, m, chunks):
    """Mean over tokens, the last norm before it. In chunks, the f32 logits of one chunk are alive at a time and the
    backward pass makes them again. Rows of the head that are no tokens stay in the product, whose sizes are then
    multiples of tiles, and are masked in what reads it."""
    x, head = norm(x, p, "model.norm", m), p["model.embed_tokens.weight" if m.tied else "lm_head.weight"]
    x, targets = x.reshape(-1, x.shape[-1]), targets.reshape(-1)

    def part(x, targets):
        logits = jnp.einsum("td,vd->tv", x, head, preferred_element_type=jnp.float32)
        if m.rows > m.vocab:
            logits = jnp.where(jnp.arange(m.rows) < m.vocab, logits, -jnp.inf)
        gold = jnp.take_along_axis(logits, targets[:, None], -1)[:, 0]
        return jnp.sum(jax.nn.logsumexp(logits, -1) - gold)

    if chunks == 1:
        return part(x, targets) / targets.size
    xs = x.reshape(chunks, -1, x.shape[-1]), targets.reshape(chunks, -1)
    total, _ = jax.lax.scan(lambda sum, c: (sum + jax.checkpoint(part)(*c), None), jnp.float32(0), xs)
    return total / targets.size


def initial(m, seed, weights=None):
    """Random, or from a dump of staticfire-run."""
    if weights:
        stored = read_safetensors(weights)
        out = {}
        for name, t in m.tensors().items():
            out[name] = jnp.asarray(np.frombuffer(stored[f"param/{name}"][1], "<f4").reshape(t.shape))
        return out
    key = jax.random.key(seed)
    make = jax.jit(lambda k, shape, std: jax.random.normal(k, shape) * std, static_argnums=(1, 2))
    return {
        name: make(jax.random.fold_in(key, i), t.shape, t.std) if t.std else jnp.full(t.shape, float(t.value))
        for i, (name, t) in enumerate(m.tensors().items())
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


def cut(job, grads):
    """What the gradients are multiplied by, and their global norm; None, None where the job does not clip."""
    if not job.optimizer["clip_norm"]:
        return None, None
    length = jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads)))
    return jnp.minimum(1.0, job.optimizer["clip_norm"] / length), length


def adamw(job, params, grads, m, v, t, scale=None):
    """One fused pass per tensor, the cut included; t counts from 1 and lives on the device, so the host sends
    nothing."""
    o = job.optimizer
    t = t.astype(jnp.float32)
    lr = o["lr"] * (jnp.minimum(t / o["warmup_steps"], 1) if o["warmup_steps"] else 1)
    correct1, correct2 = 1 - o["beta1"] ** t, 1 - o["beta2"] ** t

    def update(path, p, g, m, v):
        g = g.astype(jnp.float32) if scale is None else g.astype(jnp.float32) * scale
        m = o["beta1"] * m + (1 - o["beta1"]) * g
        v = o["beta2"] * v + (1 - o["beta2"]) * g * g
        decay = o["weight_decay"] if decays(str(path[-1].key)) else 0.0
        return p - lr * (m / correct1 / (jnp.sqrt(v / correct2) + o["eps"]) + decay * p), m, v

    out = jax.tree_util.tree_map_with_path(update, params, grads, m, v)
    return jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0, 0)), out)
