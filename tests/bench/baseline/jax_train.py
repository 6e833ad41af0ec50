#!/usr/bin/env python3
"""Trains the job of a scenario in JAX and prints one JSON row. Options are what an expert tunes; run.py searches them.

XLA reads its flags when the process starts, so one process measures one configuration."""

import argparse
import json
import os
import resource
import sys
import time

from job import Data, Job, row, time_steps

# command_buffer: kernels of a step are replayed as CUDA graphs, loops included. latency_hiding: the scheduler that
# overlaps copies and collectives with compute. autotune: 4 times every GEMM and fusion candidate on the device.
# no_triton: cuBLASLt alone for GEMMs. exhaustive: all tilings of Triton GEMMs are tried.
XLA_FLAGS = {
    "command_buffer": "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,WHILE "
    "--xla_gpu_graph_min_graph_size=1",
    "latency_hiding": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "autotune": "--xla_gpu_autotune_level=4",
    "no_triton": "--xla_gpu_enable_triton_gemm=false",
    "exhaustive": "--xla_gpu_exhaustive_tiling_search=true",
}
DEFAULTS = {
    "layers": "unrolled",
    "unroll": 1,
    "remat": "none",
    "attention": "xla",
    "loss_chunks": 1,
    "microbatches": 1,
    "xla": [],
    "threads": 0,
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario")
    parser.add_argument("--data", required=True)
    parser.add_argument("--options", default="{}", help=f"JSON over {DEFAULTS}")
    parser.add_argument("--weights", help="start from a dump of staticfire-run")
    parser.add_argument("--steps", type=int, default=21)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--peak", type=float, default=0, help="FLOP/s of the device, for MFU")
    a = parser.parse_args()
    given = json.loads(a.options)
    if not given.keys() <= DEFAULTS.keys():
        sys.exit(f"--options: known are {', '.join(DEFAULTS)}, found {', '.join(given.keys() - DEFAULTS.keys())}")
    a.options = DEFAULTS | given
    return a


def prepare(options):
    """Before JAX is imported: flags, and on CPU how many cores there are."""
    flags = [os.environ.get("XLA_FLAGS", "")] + [XLA_FLAGS[name] for name in options["xla"]]
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
    if options["threads"]:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options["threads"]])


def make_step(job, options):
    import jax
    import jax.numpy as jnp
    import jax_model as jm

    m, dtype = job.model, jm.DTYPES[job.precision]
    block = jm.rematerialised(jm.make_block(m, options["attention"]), options["remat"])
    parts = options["microbatches"]

    def forward(params, windows):
        layers, rest = jax.tree.map(lambda w: w.astype(dtype), params)
        x = jm.embed(rest, windows[:, :-1], m)
        if options["layers"] == "scan":
            x, _ = jax.lax.scan(lambda x, p: (block(x, p), None), x, layers, unroll=options["unroll"])
        else:
            for p in layers:
                x = block(x, p)
        return jm.cross_entropy(x, rest, windows[:, 1:], m, options["loss_chunks"])

    def gradients(params, windows):
        if parts == 1:
            return jax.value_and_grad(forward)(params, windows)
        zero = jnp.float32(0), jax.tree.map(jnp.zeros_like, params)
        add = lambda sum, w: (jax.tree.map(jnp.add, sum, jax.value_and_grad(forward)(params, w)), None)
        sums, _ = jax.lax.scan(add, zero, windows.reshape(parts, -1, windows.shape[-1]))
        return jax.tree.map(lambda s: s / parts, sums)

    def step(state, windows):
        params, m1, v1, t = state
        loss, grads = gradients(params, windows)
        scale, length = jm.cut(job, grads)
        return (*jm.adamw(job, params, grads, m1, v1, t + 1, scale), t + 1), (loss, length)

    return jax.jit(step, donate_argnums=0)


def initial_state(job, options, weights):
    import jax
    import jax.numpy as jnp
    import jax_model as jm

    layers, rest = jm.split_layers(jm.initial(job.model, job.seed, weights), job.model)
    params = jm.stack(layers) if options["layers"] == "scan" else layers, rest
    zeros = lambda: jax.tree.map(jnp.zeros_like, params)
    return params, zeros(), zeros(), jnp.int32(0)


def peak_memory(jax):
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main():
    a = arguments()
    prepare(a.options)
    began = time.perf_counter()
    import jax
    import numpy as np

    job = Job(a.scenario)
    data = Data(a.data, job)
    state = initial_state(job, a.options, a.weights)
    batches = [jax.device_put(np.array(data.step(i), np.int32)) for i in range(a.warmup + a.steps)]
    step = make_step(job, a.options)
    ready = time.perf_counter() - began
    first, lengths = [], []

    def dispatch(i):
        nonlocal state
        state, results = step(state, batches[i])
        return results

    def wait(results):
        value = float(results[0])
        first.append(time.perf_counter() - began)
        lengths.append(results[1])
        return value

    losses, wall, cpu = time_steps(dispatch, wait, a.warmup, a.steps)
    print(
        json.dumps(
            row(
                job,
                "jax",
                a.options,
                losses,
                wall,
                cpu,
                a.peak,
                ready_s=ready,
                first_step_s=first[0],
                peak_memory_bytes=peak_memory(jax),
                grad_norm=[None if x is None else float(x) for x in lengths],
                device=jax.devices()[0].device_kind,
                versions={"jax": jax.__version__},
            )
        )
    )


if __name__ == "__main__":
    main()
