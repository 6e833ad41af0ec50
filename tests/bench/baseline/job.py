"""What these programs share with staticfire: the scenario, the model's config.json, the order of the data, the
hyperparameters of a step, the FLOPs of a model, and how steps are timed. No framework is imported here."""

import collections
import json
import math
import mmap
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
        words = ("kind", "moments")
        optimizer.update((k, float(v)) for k, v in optimizer.items() if k not in words)  # YAML 1.1 reads 1e-3 as text
        return document


def refuse(what, found, supported):
    raise SystemExit(f"{what}: the programs compared with staticfire know {supported}, found {found!r}")


# Normally distributed with this deviation; where it is 0, all of one value.
Tensor = collections.namedtuple("Tensor", ("shape", "std", "value"))


class Model:
    """What config.json describes, with the meanings and defaults that staticfire gives its keys. What nobody here can
    train is refused by staticfire, which reads the same file; what only these programs cannot is refused here."""

    def __init__(self, config, vocab_multiple=1):
        kind = config["model_type"]
        if kind == "gpt2":
            self.read_gpt2(config)
        elif kind in ("llama", "mistral", "qwen2"):
            self.read_llama(config, kind)
        else:
            refuse("model_type", kind, "llama, mistral, qwen2, gpt2")
        self.dim = config.get("head_dim") or self.hidden // self.heads
        self.vocab = config["vocab_size"]
        self.rows = -(-self.vocab // vocab_multiple) * vocab_multiple  # of embedding and head; the last are no tokens
        self.std = config.get("initializer_range", 0.02)

    def read_llama(self, config, kind):
        self.hidden, self.ffn = config["hidden_size"], config["intermediate_size"]
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.kv = config.get("num_key_value_heads") or self.heads
        self.theta, self.eps = config.get("rope_theta", 10000.0), config.get("rms_norm_eps", 1e-6)
        self.tied, self.layernorm, self.positions = config.get("tie_word_embeddings", False), False, 0
        self.gelu = config.get("hidden_act", "silu") in ("gelu_pytorch_tanh", "gelu_new")
        self.gated = config.get("gated_mlp", True)
        attention = config.get("attention_bias")
        self.qkv_bias = kind == "qwen2" if attention is None else attention
        self.out_bias = self.qkv_bias and kind != "qwen2"
        self.ffn_bias = bool(config.get("mlp_bias"))

    def read_gpt2(self, config):
        self.layers, self.hidden, self.heads = config["n_layer"], config["n_embd"], config["n_head"]
        self.ffn, self.kv = config.get("n_inner") or 4 * self.hidden, self.heads
        self.theta, self.eps = None, config.get("layer_norm_epsilon", 1e-5)
        self.tied, self.positions = config.get("tie_word_embeddings", True), config["n_positions"]
        self.layernorm = self.gelu = self.qkv_bias = self.out_bias = self.ffn_bias = True
        self.gated = False

    def linear(self, name, rows, cols, std, bias):
        weight = {f"{name}.weight": Tensor((rows, cols), std, 0)}
        return weight | ({f"{name}.bias": Tensor((rows,), 0, 0)} if bias else {})

    def norm(self, name):
        weight = {f"{name}.weight": Tensor((self.hidden,), 0, 1)}
        return weight | ({f"{name}.bias": Tensor((self.hidden,), 0, 0)} if self.layernorm else {})

    def layer(self):
        h, deep = self.hidden, self.std / math.sqrt(2 * self.layers)
        qkv, up = (self.heads + 2 * self.kv) * self.dim, self.ffn * (2 if self.gated else 1)
        return (
            self.norm("input_layernorm")
            | self.norm("post_attention_layernorm")
            | self.linear("self_attn.qkv_proj", qkv, h, self.std, self.qkv_bias)
            | self.linear("self_attn.o_proj", h, self.heads * self.dim, deep, self.out_bias)
            | self.linear("mlp.gate_up_proj", up, h, self.std, self.ffn_bias)
            | self.linear("mlp.down_proj", h, self.ffn, deep, self.ffn_bias)
        )

    def tensors(self):
        """name -> Tensor, named as staticfire's dumps name them; matrices as [out, in]."""
        table = Tensor((self.rows, self.hidden), self.std, 0)
        out = {"model.embed_tokens.weight": table} | self.norm("model.norm")
        if self.positions:
            out["model.embed_positions.weight"] = Tensor((self.positions, self.hidden), self.std, 0)
        if not self.tied:
            out["lm_head.weight"] = table
        for i in range(self.layers):
            out |= {f"model.layers.{i}.{name}": tensor for name, tensor in self.layer().items()}
        return out

    def parameters(self):
        """Without the rows that are no tokens."""
        padding = (self.rows - self.vocab) * self.hidden * (1 if self.tied else 2)
        return sum(math.prod(t.shape) for t in self.tensors().values()) - padding

    def flops(self, tokens, seq_len):
        """Forward and backward: 6 per weight of a matrix that multiplies (the head does, without padding; the lookups
        do not), and causal attention counted once, 6 * layers * heads * head_dim * seq_len per token. Recomputation
        never counts."""
        layer = sum(math.prod(t.shape) for t in self.layer().values() if t.std > 0)
        weights = self.layers * layer + self.vocab * self.hidden
        return 6.0 * (weights + self.layers * self.heads * self.dim * seq_len) * tokens


def decays(name):
    """Matrices of layers and an untied head; never norms, biases or the tables of tokens and positions."""
    return name.endswith(".weight") and "norm" not in name and "embed" not in name


class Job:
    def __init__(self, path):
        path = pathlib.Path(path)
        scenario = load(path)
        job = scenario["job"]
        self.name, self.pins = scenario["name"], scenario.get("plan", {})
        self.model = Model(json.loads((path.parent / scenario["model"]).read_text()), job.get("vocab_multiple", 1))
        self.seq, self.batch = job["seq_len"], job["global_batch"]
        self.precision, self.seed = job["precision"], job.get("seed", 1)
        self.optimizer = {
            "lr": 3e-4,
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-8,
            "weight_decay": 0.1,
            "warmup_steps": 20,
            "clip_norm": 0,
            **job.get("optimizer", {}),
        }
        self.tokens = self.seq * self.batch
        if self.precision not in ("f32", "bf16"):
            refuse("precision", self.precision, "f32, bf16")
        if self.optimizer.get("moments", "f32") != "f32":
            refuse("moments", self.optimizer["moments"], "f32")
        if 0 < self.model.positions < self.seq:
            refuse("seq_len", self.seq, f"the model's {self.model.positions} positions")

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
    """name -> (shape, f32 values as a memoryview). Mapped, because half of a dump is gradients, which nobody reads."""
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
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
