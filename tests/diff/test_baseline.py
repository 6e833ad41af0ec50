#!/usr/bin/env python3
"""The programs that staticfire is compared with compute what it computes: from the same weights, on the same data,
the same losses for several steps, through the optimizer. Skipped (exit 77) where JAX is not installed in build/venv.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASELINE = ROOT / "tests/bench/baseline"
sys.path.insert(0, str(BASELINE))

import shapes  # noqa: E402
from ours import Staticfire  # noqa: E402

TOLERANCE = 2e-5
STEPS = 4
BUILD = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/release").resolve()
VENV = ROOT / "build/venv/bin/python"
PYTHON = str(VENV) if VENV.exists() else sys.executable
GATED = shapes.model(64, 4, 4, 2, 96, 256, False)
PLAIN_TIED = shapes.model(48, 4, 2, 2, 80, 256, True, gated=False)
SMALL = {"initializer_range": 0.1, "vocab_size": 250}
GPT2 = shapes.TINY_GPT2 | SMALL | {"n_embd": 48, "n_head": 2}
QWEN2 = shapes.TINY_QWEN2 | SMALL | {"hidden_size": 48, "intermediate_size": 80}
# Biases start from zero: what happens to them shows where steps are long and decay is strong.
LONG = {"job": shapes.PADDED, "weight_decay": 5.0}
PIPE = {"pp": 4, "dp": 1, "micro_batch": 2, "schedule": "1f1b"}


def losses(script, scenario, weights, options):
    words = [
        PYTHON,
        "-B",
        BASELINE / script,
        scenario,
        "--data",
        shapes.TEXT,
        "--weights",
        weights,
        "--steps",
        2,
        "--warmup",
        2,
        "--options",
        json.dumps(options),
    ]
    done = subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    if done.returncode == 77:
        return None
    if done.returncode:
        sys.exit(f"{script}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["loss"]


def same(what, mine, other):
    if other is None:
        print(f"{what}: skipped, not installed")
        return True
    worst = max(abs(a - b) / abs(b) for a, b in zip(mine, other, strict=True))
    print(
        f"{what}: losses {mine[0]:.6f} to {mine[-1]:.6f}, worst relative difference {worst:.1e}, "
        f"tolerance {TOLERANCE:g}"
    )
    return worst <= TOLERANCE


def compare(ours, name, config, plan, programs, lr=1e-3, **more):
    cluster = ours.machine(plan["pp"])
    job = config, 32, 8, "f32", plan["pp"], plan, cluster
    weights = ours.weights(*job, **more)
    scenario = shapes.scenario(ours.folder, name, *job, lr=lr, **more)
    mine = ours.train(ours.compile(scenario)[1], steps=STEPS)["loss"]
    return all(
        [
            same(f"{name}, {script} {options}", mine, losses(script, scenario, weights, options))
            for script, options in programs
        ]
    )


if subprocess.run([PYTHON, "-c", "import jax"], capture_output=True).returncode:
    print("skipped: JAX is not installed (build/venv; see tests/diff/requirements.txt)")
    sys.exit(77)
with tempfile.TemporaryDirectory() as folder:
    ours = Staticfire(BUILD, folder)
    good = compare(
        ours,
        "gated",
        GATED,
        {"pp": 1},
        [
            ("jax_train.py", {}),
            ("jax_train.py", {"layers": "scan", "remat": "dots", "loss_chunks": 4, "microbatches": 2}),
            ("torch_train.py", {"compile": None}),
        ],
    )
    good &= compare(
        ours,
        "plain-tied",
        PLAIN_TIED,
        PIPE,
        [
            ("jax_train.py", {"remat": "full"}),
            ("jax_pipeline.py", {"mode": "op", "backward": "residuals"}),
            ("jax_pipeline.py", {"mode": "op", "backward": "recompute"}),
            ("jax_pipeline.py", {"mode": "step"}),
        ],
    )
    good &= compare(
        ours,
        "gpt2",
        GPT2,
        {"pp": 1},
        [
            ("jax_train.py", {"layers": "scan", "loss_chunks": 4, "microbatches": 2}),
            ("torch_train.py", {"compile": None, "loss_chunks": 4}),
        ],
        lr=0.02,
        clip_norm=0.5,
        **LONG,
    )
    good &= compare(
        ours,
        "qwen2",
        QWEN2,
        PIPE,
        [
            ("jax_train.py", {}),
            ("jax_pipeline.py", {"mode": "op", "backward": "residuals"}),
            ("torch_train.py", {"compile": None}),
        ],
        lr=0.02,
        **LONG,
    )
sys.exit(not good)
