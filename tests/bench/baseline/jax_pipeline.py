#!/usr/bin/env python3
"""A pipeline whose stages all live on one device, in JAX: what a step costs beside its arithmetic. Prints one JSON
row.

The scenario's plan names the stages (pp) and the sequences of a microbatch (micro_batch). Modes:
  op        one jitted call per stage op, started in the order of a 1F1B schedule, as an MPMD trainer does
  step      one jitted call per step: a scan over microbatches through the whole model
  unrolled  one jitted call per step that holds every stage op; compiles for minutes where stages * microbatches is
              large"""

import argparse
import json

import jax_train
from job import Data, Job, row, time_steps

TABLE = "model.embed_tokens.weight"
DEFAULTS = {"mode": "op", "backward": "residuals", "attention": "xla", "xla": [], "threads": 0}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario")
    parser.add_argument("--data", required=True)
    parser.add_argument("--options", default="{}", help=f"JSON over {DEFAULTS}")
    parser.add_argument("--weights", help="start from a dump of staticfire-run")
    parser.add_argument("--steps", type=int, default=21)
    parser.add_argument("--warmup", type=int, default=3)
    a = parser.parse_args()
    given = json.loads(a.options)
    if not given.keys() <= DEFAULTS.keys():
        parser.error(f"--options: known are {', '.join(DEFAULTS)}, found {', '.join(given.keys() - DEFAULTS.keys())}")
    a.options = DEFAULTS | given
    return a


def order_1f1b(stages, microbatches):
    """(pass, stage, microbatch) so that every op comes after what it needs, in rounds of one op per stage."""
    lists = []
    for s in range(stages):
        warm = min(stages - 1 - s, microbatches)
        ops = [("F", m) for m in range(warm)]
        for m in range(microbatches - warm):
            ops += [("F", m + warm), ("B", m)]
        lists.append(ops + [("B", m) for m in range(microbatches - warm, microbatches)])
    done, out = set(), []
    while any(lists):
        ready = []
        for s, ops in enumerate(lists):
            if ops:
                kind, m = ops[0]
                needs = ("F", s - 1, m) if kind == "F" else ("B", s + 1, m) if s + 1 < stages else ("F", s, m)
                if needs in done or (kind == "F" and s == 0):
                    ready.append((kind, s, m))
        for kind, s, m in ready:
            lists[s].pop(0)
        done |= set(ready)
        out += ready
    return out


class Stages:
    """Forward of each stage as a function of its own parameters; a tied table is copied to the last stage, and the two
    gradients are added before the optimizer."""

    def __init__(self, job, options):
        import jax_model as jm

        self.jm, self.m, self.job, self.n = jm, job.model, job, job.pins["pp"]
        self.n = self.n[0] if isinstance(self.n, list) else self.n
        self.size = job.pins.get("micro_batch", 1)
        self.microbatches = job.batch // self.size
        self.dtype, self.block = jm.DTYPES[job.precision], jm.make_block(job.model, options["attention"])
        if job.model.layers % self.n:
            raise SystemExit(f"{job.model.layers} layers do not split evenly into {self.n} stages")

    def split(self, params):
        layers, rest = self.jm.split_layers(params, self.m)
        each = self.m.layers // self.n
        out = [{"layers": layers[s * each : (s + 1) * each]} for s in range(self.n)]
        for name, value in rest.items():
            out[0 if "embed" in name else -1][name] = value
        if self.m.tied and self.n > 1:
            out[-1][TABLE] = rest[TABLE].copy()
        return out

    def forward(self, s):
        first, last = s == 0, s == self.n - 1

        def run(params, x, windows):
            import jax

            p = jax.tree.map(lambda w: w.astype(self.dtype), params)
            x = self.jm.embed(p, windows[:, :-1], self.m) if first else x
            for layer in p["layers"]:
                x = self.block(x, layer)
            if not last:
                return x
            return self.jm.cross_entropy(x, p, windows[:, 1:], self.m, 1) / self.microbatches

        return run

    def update(self, params, grads, m, v, t):
        once = grads
        if self.m.tied and self.n > 1:
            whole = grads[0][TABLE] + grads[-1][TABLE]
            grads = [g | ({TABLE: whole} if TABLE in g else {}) for g in grads]
            once = [*grads[:-1], {name: g for name, g in grads[-1].items() if name != TABLE}]
        return self.jm.adamw(self.job, params, grads, m, v, t, self.jm.cut(self.job, once)[0])


def whole_step(stages, unrolled):
    import jax
    import jax.numpy as jnp

    def loss(params, windows):
        x = None
        for s in range(stages.n):
            x = stages.forward(s)(params[s], x, windows)
        return x

    def step(state, windows):
        params, m, v, t = state
        sums = jnp.float32(0), jax.tree.map(jnp.zeros_like, params)
        add = lambda sums, w: (jax.tree.map(jnp.add, sums, jax.value_and_grad(loss)(params, w)), None)
        parts = windows.reshape(stages.microbatches, stages.size, -1)
        (total, grads), _ = jax.lax.scan(add, sums, parts, unroll=stages.microbatches if unrolled else 1)
        return (*stages.update(params, grads, m, v, t + 1), t + 1), total

    return jax.jit(step, donate_argnums=0)


class Ops:
    """One jitted call per stage op. A forward hands its residuals to the backward as arrays; with `recompute` it
    hands its input alone. The last stage does both passes of a microbatch in one call. Sums of gradients are
    donated."""

    def __init__(self, stages, recompute):
        import jax
        import jax.numpy as jnp

        self.stages, self.n, self.recompute = stages, stages.n, recompute
        self.order = [
            (s, m, kind)
            for kind, s, m in order_1f1b(stages.n, stages.microbatches)
            if not (kind == "F" and s == stages.n - 1)
        ]
        self.calls = [self.make(s) for s in range(stages.n)]
        self.update = jax.jit(
            lambda p, g, m, v, t: (*stages.update(p, g, m, v, t + 1), t + 1), donate_argnums=(0, 2, 3, 4)
        )
        self.zero = jax.jit(lambda p: jax.tree.map(jnp.zeros_like, p))

    def make(self, s):
        import jax

        run, tree = self.stages.forward(s), {}
        add = lambda total, more: jax.tree.map(lambda a, b: a + b, total, more)

        def forward(params, x, windows):
            if self.recompute:
                return run(params, x, windows), ()
            y, back = jax.vjp(run, params, x, windows)
            leaves, tree["back"] = jax.tree.flatten(back)
            return y, leaves

        def backward(total, params, x, windows, leaves, dy):
            back = jax.vjp(run, params, x, windows)[1] if self.recompute else jax.tree.unflatten(tree["back"], leaves)
            grads, dx, _ = back(dy)
            return add(total, grads), dx

        def last(total, params, x, windows, loss):
            value, (grads, dx) = jax.value_and_grad(run, (0, 1))(params, x, windows)
            return add(total, grads), dx, loss + value

        if s == self.n - 1:
            return jax.jit(last, donate_argnums=(0, 4))
        return jax.jit(forward), jax.jit(backward, donate_argnums=0)

    def step(self, state, parts, loss):
        params, m1, v1, t = state
        sums = [self.zero(p) for p in params]
        x, kept, dy = {}, {}, {}
        for s, m, kind in self.order:
            if s == self.n - 1:
                sums[s], dy[s - 1, m], loss = self.calls[s](sums[s], params[s], x.pop((s, m)), parts[m], loss)
            elif kind == "F":
                x_in = x.pop((s, m), None)
                y, leaves = self.calls[s][0](params[s], x_in, parts[m])
                kept[s, m] = (params[s], x_in, parts[m], leaves) if self.recompute else (None, None, None, leaves)
                x[s + 1, m] = y
            else:
                sums[s], dy[s - 1, m] = self.calls[s][1](sums[s], *kept.pop((s, m)), dy.pop((s, m)))
        return self.update(params, sums, m1, v1, t), loss


def main():
    a = arguments()
    jax_train.prepare(a.options)
    import jax
    import jax.numpy as jnp
    import numpy as np

    job = Job(a.scenario)
    data, stages = Data(a.data, job), Stages(job, a.options)
    params = stages.split(stages.jm.initial(job.model, job.seed, a.weights))
    zeros = lambda: jax.tree.map(jnp.zeros_like, params)
    state = params, zeros(), zeros(), jnp.int32(0)
    by_op = a.options["mode"] == "op"
    if by_op:
        ops = Ops(stages, a.options["backward"] == "recompute")
    else:
        step = whole_step(stages, a.options["mode"] == "unrolled")
    batches = [np.array(data.step(i), np.int32) for i in range(a.warmup + a.steps)]
    cut = lambda w: [jax.device_put(p) for p in w.reshape(stages.microbatches, stages.size, -1)]
    batches = [cut(w) if by_op else jax.device_put(w) for w in batches]
    begin = [jnp.float32(0) for _ in batches]

    def dispatch(i):
        nonlocal state
        state, loss = ops.step(state, batches[i], begin[i]) if by_op else step(state, batches[i])
        return loss

    losses, wall, cpu = time_steps(dispatch, float, a.warmup, a.steps)
    calls = len(ops.order) + stages.n + 1 if by_op else 1
    print(
        json.dumps(
            row(
                job,
                "jax",
                a.options,
                losses,
                wall,
                cpu,
                0,
                calls_per_step=calls,
                peak_memory_bytes=jax_train.peak_memory(jax),
                device=jax.devices()[0].device_kind,
                versions={"jax": jax.__version__},
            )
        )
    )


if __name__ == "__main__":
    main()
