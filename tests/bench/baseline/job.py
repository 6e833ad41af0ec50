"""What these programs share with staticfire: the scenario, the model's config.json, the order of the data, the
hyperparameters of a step, the FLOPs of a model, and how steps are timed. No framework is imported here."""

import json
import math
import pathlib
import statistics
import struct
import time

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
DRAW, SEED, SPLIT, SPLIT_TEXT = 1, 2, 3, 4
DATA_ORDER = 0x9C45EDA72D4D1A9E  # XXH3 of "data order"


def load(path):
    """JSON, or YAML where PyYAML is installed; every JSON document is YAML."""
    text = pathlib.Path(path).read_text()
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        import yaml

        document = yaml.safe_load(text)
        optimizer = document.get("job", {}).get("optimizer", {})
        optimizer.update((k, float(v)) for k, v in optimizer.items() if k != "kind")  # YAML 1.1 reads 1e-3 as text
        return document


class Model:
    def __init__(self, config):
        self.hidden, self.ffn = config["hidden_size"], config["intermediate_size"]
        self.layers, self.vocab = config["num_hidden_layers"], config["vocab_size"]
        self.heads = config["num_attention_heads"]
        self.kv = config.get("num_key_value_heads") or self.heads
        self.dim = config.get("head_dim") or self.hidden // self.heads
        self.theta, self.eps = config.get("rope_theta", 10000.0), config.get("rms_norm_eps", 1e-6)
        self.std, self.tied = config.get("initializer_range", 0.02), config.get("tie_word_embeddings", False)
        self.gelu = config.get("hidden_act", "silu") != "silu"
        self.gated = config.get("gated_mlp", True)

    def tensors(self):
        """name -> (shape, standard deviation; 0 for ones), named as staticfire's dumps name them."""
        h, deep = self.hidden, self.std / math.sqrt(2 * self.layers)
        out = {"model.embed_tokens.weight": ((self.vocab, h), self.std), "model.norm.weight": ((h,), 0)}
        if not self.tied:
            out["lm_head.weight"] = ((self.vocab, h), self.std)
        for i in range(self.layers):
            out |= {
                f"model.layers.{i}.{name}": value
                for name, value in {
                    "input_layernorm.weight": ((h,), 0),
                    "post_attention_layernorm.weight": ((h,), 0),
                    "self_attn.qkv_proj.weight": (((self.heads + 2 * self.kv) * self.dim, h), self.std),
                    "self_attn.o_proj.weight": ((h, self.heads * self.dim), deep),
                    "mlp.gate_up_proj.weight": ((self.ffn * (2 if self.gated else 1), h), self.std),
                    "mlp.down_proj.weight": ((h, self.ffn), deep),
                }.items()
            }
        return out

    def parameters(self):
        return sum(math.prod(shape) for shape, _ in self.tensors().values())

    def flops(self, tokens, seq_len):
        """Forward and backward: 6 per weight of a matrix that multiplies (the head does, the lookup does not), and
        causal attention counted once, 6 * layers * heads * head_dim * seq_len per token. Recomputation never
        counts."""
        weights = sum(
            math.prod(shape)
            for name, (shape, std) in self.tensors().items()
            if std > 0 and name != "model.embed_tokens.weight"
        )
        weights += self.vocab * self.hidden if self.tied else 0
        return 6.0 * (weights + self.layers * self.heads * self.dim * seq_len) * tokens


def decays(name):
    """Matrices of layers and an untied head; never norms or the token table."""
    return "norm" not in name and name != "model.embed_tokens.weight"


class Job:
    def __init__(self, path):
        path = pathlib.Path(path)
        scenario = load(path)
        job = scenario["job"]
        self.name, self.pins = scenario["name"], scenario.get("plan", {})
        self.model = Model(json.loads((path.parent / scenario["model"]).read_text()))
        self.seq, self.batch = job["seq_len"], job["global_batch"]
        self.precision, self.seed = job["precision"], job.get("seed", 1)
        self.optimizer = {
            "lr": 1e-3,
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-8,
            "weight_decay": 0.1,
            "warmup_steps": 20,
            **job.get("optimizer", {}),
        }
        self.tokens = self.seq * self.batch

    def hyper(self, t):
        """Learning rate and the two bias corrections of step t, counted from 1."""
        o = self.optimizer
        warm = t / o["warmup_steps"] if t < o["warmup_steps"] else 1.0
        return o["lr"] * warm, 1 - o["beta1"] ** t, 1 - o["beta2"] ** t


# ---- the order of the data: staticfire's (core/rng.c, runtime/data.c), so that step n sees the same windows ----


def mix(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def keyed(key, value, purpose):
    return mix(mix(key + (value + 1) * GOLDEN & MASK) ^ (key + purpose * 0xD1342543DE82EF95 & MASK))


class Data:
    def __init__(self, path, job):
        self.text, self.seq, self.batch = pathlib.Path(path).read_bytes(), job.seq, job.batch
        self.windows = (len(self.text) - 1) // self.seq
        self.order = keyed(keyed(0, job.seed, SEED), DATA_ORDER, SPLIT_TEXT)
        self.half = 0
        while 1 << 2 * self.half < self.windows:
            self.half += 1

    def permute(self, key, value):
        mask = (1 << self.half) - 1
        left, right = value >> self.half, value & mask
        for turn in range(4):
            draw = keyed(keyed(key, turn << 32 | right, SPLIT), 0, DRAW)
            left, right = right, left ^ draw & mask
        return left << self.half | right

    def offset(self, step, sequence):
        sample = step * self.batch + sequence
        epoch, window = keyed(self.order, sample // self.windows, SPLIT), sample % self.windows
        window = self.permute(epoch, window)
        while window >= self.windows:
            window = self.permute(epoch, window)
        return window * self.seq

    def step(self, step):
        """[batch, seq + 1] bytes: tokens are all but the last, targets all but the first."""
        return [list(self.text[at : at + self.seq + 1]) for at in (self.offset(step, s) for s in range(self.batch))]


def read_safetensors(path):
    """name -> (shape, f32 values as a memoryview)"""
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + size])
    body = memoryview(data)[8 + size :]
    return {
        name: (entry["shape"], body[slice(*entry["data_offsets"])])
        for name, entry in entries.items()
        if name != "__metadata__"
    }


# ---- timing --------------------------------------------------------------------------------------------------------


def quantile(values, share):
    values = sorted(values)
    at = share * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def spread(values):
    return {
        "median": statistics.median(values),
        "min": min(values),
        "p25": quantile(values, 0.25),
        "p75": quantile(values, 0.75),
        "max": max(values),
        "n": len(values),
    }


def time_steps(dispatch, wait, warmup, steps):
    """Starts step n + 1 before it waits for step n, as a trainer that reads its loss one step late, so the device
    never idles for the host's sake. A step's time is from one completion to the next; the last step is left out,
    because none is started behind it."""
    wall, cpu, losses, before = [], [], [], None
    for i in range(warmup + steps + 1):
        handle = dispatch(i) if i < warmup + steps else None
        if before is not None:
            losses.append(wait(before))
            wall.append(time.perf_counter())
            cpu.append(time.process_time())
        before = handle
    steps_of = lambda ends: [b - a for a, b in zip(ends, ends[1:])][max(warmup - 1, 0) : -1]
    return losses, steps_of(wall), steps_of(cpu)


def row(job, framework, options, losses, wall, cpu, peak_flops_per_s, **more):
    step = statistics.median(wall)
    mfu = job.model.flops(job.tokens, job.seq) / step / peak_flops_per_s if peak_flops_per_s else None
    return {
        "framework": framework,
        "job": job.name,
        "options": options,
        "precision": job.precision,
        "seq_len": job.seq,
        "global_batch": job.batch,
        "parameters": job.model.parameters(),
        "step_time_s": spread(wall),
        "cpu_s": spread(cpu),
        "tokens_per_s": job.tokens / step,
        "mfu": mfu,
        "loss": losses,
        **more,
    }
