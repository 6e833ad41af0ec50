#!/usr/bin/env python3
"""Trains the job of a scenario in PyTorch and prints one JSON row. Options are what an expert tunes; run.py searches
them. Exit 77 where PyTorch is not installed."""

import argparse
import json
import os
import resource
import sys
import time

from job import Data, Job, decays, read_safetensors, row, time_steps

try:
    import torch
    import torch.nn.functional as F
    from torch.utils.checkpoint import checkpoint
except ImportError:
    print("skipped: PyTorch is not installed (tests/bench/baseline/README.md)")
    sys.exit(77)

# compile: null (eager), default, reduce-overhead, max-autotune, max-autotune-no-cudagraphs. graph: none, or step:
# forward, backward and optimizer captured into one CUDA graph, which wants a compile mode without graphs of its own.
DEFAULTS = {
    "compile": "default",
    "graph": "none",
    "attention": "auto",
    "remat": "none",
    "loss_chunks": 1,
    "microbatches": 1,
    "optimizer": "fused",
    "cast": "weights",
    "threads": 0,
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def rope(x, cos, sin):  # [batch, heads, seq, dim]
    if cos is None:  # positions are learned
        return x
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Decoder(torch.nn.Module):
    def __init__(self, job, options, device):
        super().__init__()
        m = self.m = job.model
        self.options, self.dtype = options, DTYPES[job.precision]
        self.weights = torch.nn.ParameterDict()
        torch.manual_seed(job.seed)
        for name, (shape, std, value) in m.tensors().items():
            w = torch.randn(shape, device=device) * std if std else torch.full(shape, float(value), device=device)
            self.weights[name.replace(".", "/")] = torch.nn.Parameter(w)
        half = m.dim // 2
        rates = (m.theta or 1.0) ** (-torch.arange(half, device=device) / half)
        angle = torch.arange(job.seq, device=device)[:, None] * rates
        self.register_buffer("cos", angle.cos() if m.theta else None)
        self.register_buffer("sin", angle.sin() if m.theta else None)

    def load(self, path):
        stored = read_safetensors(path)
        with torch.no_grad():
            for name, w in self.weights.items():
                w.copy_(
                    torch.frombuffer(bytearray(stored["param/" + name.replace("/", ".")][1]), dtype=torch.float32).view(
                        w.shape
                    )
                )

    def get(self, name):
        """Master weights are f32; autocast rounds them by itself."""
        w = self.weights[name.replace(".", "/")]
        return w.to(self.dtype) if self.options["cast"] == "weights" else w

    def linear(self, x, name):
        bias = self.get(name + ".bias") if (name + ".bias").replace(".", "/") in self.weights else None
        return F.linear(x, self.get(name + ".weight"), bias)

    def norm(self, x, name):
        size, weight = (self.m.hidden,), self.weights[(name + ".weight").replace(".", "/")]
        if self.m.layernorm:
            bias = self.weights[(name + ".bias").replace(".", "/")]
            return F.layer_norm(x.float(), size, weight, bias, self.m.eps).to(self.dtype)
        return F.rms_norm(x.float(), size, weight, self.m.eps).to(self.dtype)

    def embed(self, tokens):
        x = F.embedding(tokens, self.weights["model/embed_tokens/weight"])
        if self.m.positions:
            x = x + self.weights["model/embed_positions/weight"][: tokens.shape[1]]
        return x.to(self.dtype)

    def block(self, x, i):
        m, at = self.m, f"model.layers.{i}."
        batch, seq, _ = x.shape
        qkv = self.linear(self.norm(x, at + "input_layernorm"), at + "self_attn.qkv_proj")
        q, k, v = qkv.view(batch, seq, -1, m.dim).transpose(1, 2).split([m.heads, m.kv, m.kv], 1)
        q, k = rope(q, self.cos, self.sin), rope(k, self.cos, self.sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=m.heads != m.kv)
        x = x + self.linear(y.transpose(1, 2).reshape(batch, seq, -1), at + "self_attn.o_proj")
        y = self.linear(self.norm(x, at + "post_attention_layernorm"), at + "mlp.gate_up_proj")
        act = (lambda z: F.gelu(z, approximate="tanh")) if m.gelu else F.silu
        y = act(y[..., : m.ffn]) * y[..., m.ffn :] if m.gated else act(y)
        return x + self.linear(y, at + "mlp.down_proj")

    def forward(self, windows):
        x = self.embed(windows[:, :-1])
        for i in range(self.m.layers):
            x = (
                checkpoint(self.block, x, i, use_reentrant=False)
                if self.options["remat"] == "full"
                else self.block(x, i)
            )
        x = self.norm(x, "model.norm").flatten(0, 1)
        head = self.get("model.embed_tokens.weight" if self.m.tied else "lm_head.weight")
        targets = windows[:, 1:].flatten()
        # Rows of the head that are no tokens stay in the product, whose sizes are then multiples of tiles.
        part = lambda x, t: F.cross_entropy(F.linear(x, head)[:, : self.m.vocab].float(), t, reduction="sum")
        chunks = self.options["loss_chunks"]
        if chunks == 1:
            return part(x, targets) / targets.numel()
        pieces = zip(x.chunk(chunks), targets.chunk(chunks))
        return sum(checkpoint(part, x, t, use_reentrant=False) for x, t in pieces) / targets.numel()


class Trainer:
    def __init__(self, job, options, device, weights):
        self.job, self.options, self.device = job, options, device
        self.model = Decoder(job, options, device)
        if weights:
            self.model.load(weights)
        groups = [
            [w for n, w in self.model.weights.items() if decays(n.replace("/", ".")) == decay]
            for decay in (True, False)
        ]
        self.optimizers = [self.make_optimizer(groups)]
        self.clip = job.optimizer["clip_norm"]
        if self.clip and options["optimizer"] == "in_backward":
            sys.exit("--options: the global norm is known after the backward pass, so in_backward cannot clip by it")
        if options["optimizer"] == "in_backward":
            self.optimizers = []
            for decay, weights in zip((True, False), groups):
                for w in weights:
                    self.optimizers.append(self.make_optimizer([[w], []] if decay else [[], [w]]))
                    w.register_post_accumulate_grad_hook(self.update_now(self.optimizers[-1]))
        mode = options["compile"]
        self.forward = torch.compile(self.model, mode=mode) if mode else self.model
        self.graph, self.results = None, None

    def make_optimizer(self, groups):
        o, cuda = self.job.optimizer, self.device == "cuda"
        return torch.optim.AdamW(
            [{"params": p, "weight_decay": decay} for p, decay in zip(groups, (o["weight_decay"], 0.0)) if p],
            lr=torch.tensor(o["lr"], device=self.device) if cuda else o["lr"],
            betas=(o["beta1"], o["beta2"]),
            eps=o["eps"],
            capturable=cuda,
            fused=self.options["optimizer"] != "foreach" or None,
            foreach=self.options["optimizer"] == "foreach" or None,
        )

    @staticmethod
    def update_now(optimizer):
        """A gradient is used and freed as soon as it is there: all of them never exist together."""

        def hook(_):
            optimizer.step()
            optimizer.zero_grad()

        return hook

    def compute(self, windows):
        """Loss, and the gradient's norm where the job clips it."""
        parts = windows.chunk(self.options["microbatches"])
        total = 0
        for part in parts:
            with torch.autocast(self.device, self.model.dtype, enabled=self.options["cast"] == "auto"):
                loss = self.forward(part) / len(parts)
            loss.backward()
            total = total + loss.detach()
        length = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip) if self.clip else None
        if self.options["optimizer"] != "in_backward":
            self.optimizers[0].step()
            self.optimizers[0].zero_grad()
        return total, length

    def set_rate(self, t):
        rate = self.job.hyper(t)[0]
        for group in (g for o in self.optimizers for g in o.param_groups):
            if self.device == "cuda":
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def capture(self, windows):
        """After the warm-up steps: one graph for the whole step, replayed with new tokens in the same place."""
        self.windows = windows.clone()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            self.results = self.compute(self.windows)
        self.graph = graph

    def step(self, i, windows, capture):
        self.set_rate(i + 1)
        if capture and self.graph is None:
            self.capture(windows)
        if self.graph is None:
            return self.compute(windows)
        self.windows.copy_(windows)
        self.graph.replay()
        return [None if r is None else r.clone() for r in self.results]


def choose_attention(name):
    """auto leaves the choice to PyTorch."""
    if name != "auto":
        for kind in ("flash", "mem_efficient", "math", "cudnn"):
            getattr(torch.backends.cuda, f"enable_{kind}_sdp")(kind == name)


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


def main():
    a = arguments()
    began = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if a.options["threads"]:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: a.options["threads"]])
        torch.set_num_threads(a.options["threads"])
    if device == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream())  # what is captured later must not have run on the default stream
    choose_attention(a.options["attention"])
    job = Job(a.scenario)
    data = Data(a.data, job)
    trainer = Trainer(job, a.options, device, a.weights)
    batches = [torch.tensor(data.step(i), device=device) for i in range(a.warmup + a.steps)]
    ready, first = time.perf_counter() - began, []

    def dispatch(i):
        results = trainer.step(i, batches[i], a.options["graph"] == "step" and i >= max(a.warmup - 1, 3))
        done = torch.cuda.Event() if device == "cuda" else None
        if done:
            done.record()
        return results, done

    def wait(handle):
        if handle[1]:
            handle[1].synchronize()
        first.append(time.perf_counter() - began)
        return handle[0]  # read at the end: a copy of it now would wait for the step behind

    results, wall, cpu = time_steps(dispatch, wait, a.warmup, a.steps)
    peak = (
        torch.cuda.max_memory_reserved()
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    print(
        json.dumps(
            row(
                job,
                "torch",
                a.options,
                [float(loss) for loss, _ in results],
                wall,
                cpu,
                a.peak,
                ready_s=ready,
                first_step_s=first[0],
                peak_memory_bytes=peak,
                grad_norm=[None if length is None else float(length) for _, length in results],
                device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
                versions={
                    "torch": torch.__version__,
                    "cuda": torch.version.cuda,
                    "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
                },
            )
        )
    )


if __name__ == "__main__":
    main()
