#!/usr/bin/env python3
"""Four training steps with a clipped gradient against an independent model and AdamW written in JAX with float64: the
norm and the loss of every step. The text is one batch of windows, so every step sees all of them.
Skipped (exit 77) where JAX is not installed in build/venv.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

TOLERANCE = 5e-5
STEPS = 4
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

sys.path.insert(0, str(ROOT / "tests/diff"))
from llama_reference import loss, read_safetensors  # noqa: E402

ADAM = {"lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "warmup_steps": 3}


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def prepare(folder, config, seq, batch, plan, optimizer):
    ranks = plan["pp"] * plan["dp"] * plan.get("tp", 1)
    text = (ROOT / "scenarios/data/shakespeare.txt").read_bytes()[: seq * batch + 1]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "text.txt").write_bytes(text)
    job = {"seq_len": seq, "global_batch": batch, "precision": "f32", "gpus": ranks, "seed": 3, "data": "text.txt",
           "canonical": False, "optimizer": {"kind": "adamw", **optimizer}}
    scenario = {"name": "clip", "cluster": "machine.yaml", "model": "config.json", "plan": plan, "job": job}
    (folder / "scenario.yaml").write_text(json.dumps(scenario))
    run(BUILD / "staticfire", "topo", "probe", "-o", folder, "--ranks", ranks)
    run(BUILD / "staticfire", "plan", folder / "scenario.yaml", "-o", folder / "plan.yaml")
    run(BUILD / "staticfire", "compile", folder / "plan.yaml", "-o", folder / "p.sfprog")
    tokens = np.frombuffer(text, np.uint8).astype(np.int64)
    return np.stack([tokens[i * seq : (i + 1) * seq + 1] for i in range(batch)])


def ours(folder, *options):
    return json.loads(run(BUILD / "staticfire-run", folder / "p.sfprog", "--data", folder / "text.txt", "--json", *options))


def initial(folder, config, seq, batch, plan):
    """The weights that a run starts from: those after a step that moves nothing."""
    prepare(folder, config, seq, batch, plan, ADAM | {"lr": 0.0})
    ours(folder, "--steps", 1, "--dump", folder / "start.dump")
    return {k[6:]: jnp.asarray(v, jnp.float64) for k, v in read_safetensors(folder / "start.dump").items() if k[:6] == "param/"}


def decays(name):
    return not ("norm" in name or "embed" in name)


def reference(params, windows, config, clip):
    """Losses and norms of STEPS steps. Padding and warm-up as in call.h and the scenario's words."""
    step = jax.jit(jax.value_and_grad(lambda p: loss(p, windows, config)))
    m = {k: jnp.zeros_like(v) for k, v in params.items()}
    v = {k: jnp.zeros_like(x) for k, x in params.items()}
    losses, norms = [], []
    for t in range(1, STEPS + 1):
        value, grads = step(params)
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in grads.values()))
        scale = jnp.minimum(1.0, clip / norm)
        lr = ADAM["lr"] * min(1.0, t / ADAM["warmup_steps"])
        for k, g in grads.items():
            g = g * scale
            m[k] = ADAM["beta1"] * m[k] + (1 - ADAM["beta1"]) * g
            v[k] = ADAM["beta2"] * v[k] + (1 - ADAM["beta2"]) * g * g
            up = m[k] / (1 - ADAM["beta1"] ** t) / (jnp.sqrt(v[k] / (1 - ADAM["beta2"] ** t)) + ADAM["eps"])
            params[k] = params[k] - lr * (up + (ADAM["weight_decay"] * params[k] if decays(k) else 0))
        losses.append(float(value))
        norms.append(float(norm))
    return losses, norms


def worst(found, wanted):
    return max(abs(f - w) / abs(w) for f, w in zip(found, wanted))


def compare(name, config, plan, clip, seq=48, batch=8):
    with tempfile.TemporaryDirectory() as at:
        folder = pathlib.Path(at)
        params = initial(folder, config, seq, batch, plan)
        windows = prepare(folder, config, seq, batch, plan, ADAM | {"clip_norm": clip})
        run_ = ours(folder, "--steps", STEPS)
    losses, norms = reference(params, windows, config, clip)
    clipped = sum(n > clip for n in norms)
    error = max(worst(run_["loss"], losses), worst(run_["grad_norm"], norms))
    print(f"{name}: norms {norms[0]:.4f} to {norms[-1]:.4f}, {clipped} of {STEPS} clipped, worst relative error {error:.2e}")
    return error <= TOLERANCE and clipped > 0


BASE = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4, "vocab_size": 256,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": False, "initializer_range": 0.05}
TIED = BASE | {"tie_word_embeddings": True}

ok = [
    compare("tied, 4 stages", TIED, {"pp": 4, "dp": 1, "micro_batch": 1}, 1.0),
    compare("tied, tensor parallel, 2 replicas that share optimizers", TIED,
            {"pp": 1, "dp": 2, "tp": 2, "zero": 1, "micro_batch": 2}, 1.0),
    compare("two copies, opposite ways", TIED, {"pp": 2, "dp": 1, "micro_batch": 1, "schedule": "dualpipe"}, 0.5),
    compare("some steps clipped", BASE, {"pp": 2, "dp": 2, "zero": 1, "micro_batch": 1}, 3.7),
]
sys.exit(not all(ok))
