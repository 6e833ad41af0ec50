"""Runs staticfire on a scenario and reports it as the other programs report themselves."""

import json
import pathlib
import subprocess

import shapes
from job import Job, row


class Failed(Exception):
    pass


def command(words, limit=600, cores=0):
    words = [str(w) for w in words]
    words = ["taskset", "-c", f"0-{cores - 1}", *words] if cores else words
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=max(limit, 1))
    except subprocess.TimeoutExpired as why:
        raise Failed(f"{words[0]}: not finished after {limit:.0f} s") from why
    if done.returncode == 77:
        raise Failed(done.stdout.strip() or "skipped")
    if done.returncode != 0:
        raise Failed(f"exit {done.returncode}: {(done.stderr.strip() or done.stdout.strip())[-500:]}")
    return done.stdout


class Staticfire:
    def __init__(self, build, folder):
        self.build, self.folder = pathlib.Path(build).resolve(), pathlib.Path(folder)

    def machine(self, ranks):
        """A cluster file of this computer."""
        at = self.folder / f"machine-{ranks}"
        command([self.build / "staticfire", "topo", "probe", "-o", at, "--ranks", ranks])
        return at / "machine.yaml"

    def compile(self, scenario):
        stem = str(scenario).removesuffix(".scenario.json")
        plan, program = pathlib.Path(stem + ".plan.yaml"), pathlib.Path(stem + ".sfprog")
        command([self.build / "staticfire", "plan", scenario, "-o", plan])
        command([self.build / "staticfire", "compile", plan, "-o", program])
        return plan, program

    def train(self, program, *options, steps, limit=600, cores=0):
        return json.loads(
            command(
                [self.build / "staticfire-run", program, "--data", shapes.TEXT, "--steps", steps, "--json", *options],
                limit,
                cores,
            )
        )

    def weights(self, *arguments, words=(), limit=600, **named):
        """The weights that training with these arguments of shapes.scenario starts from: one step that learns
        nothing."""
        _, program = self.compile(shapes.scenario(self.folder, "weights", *arguments, lr=0.0, **named))
        dump = self.folder / "weights.safetensors"
        self.train(program, "--dump", dump, *words, steps=1, limit=limit)
        return dump

    def row(self, scenario, options, *words, warmup=3, steps=21, limit=600, cores=0, peak=0):
        """The last step is left out, as job.time_steps does."""
        _, program = self.compile(scenario)
        run = self.train(program, *words, steps=warmup + steps, limit=limit, cores=cores)
        return row(
            Job(scenario),
            "staticfire",
            options,
            run["loss"],
            run["step_time_s"][warmup:-1],
            run["cpu_s"][warmup:-1],
            peak,
            transport=run["transport"],
            grad_norm=run["grad_norm"],
        )
