#!/usr/bin/env bash
# The main job: plan and simulate Grok-1 on 220,000 GPUs, then plan, forecast, train and compare a small model here.
# usage: scenarios/main-job.sh BUILD_DIR OUT_DIR
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=${1:-build/release} out=${2:-out}
started=$(date +%s)
mkdir -p "$out"
rm -f "$out"/*.jsonl # logs are appended to
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

step() { printf '\n== %s\n' "$*"; }
sf() { "$bin/staticfire" "$@"; }

step "1. Plan: Grok-1 (314B parameters) on 220,000 GB300 GPUs"
sf plan scenarios/grok1-gb300-220k/scenario.yaml -o "$out/grok1.plan.yaml"

step "2. Simulate: one step of the best plan on every GPU, and folded by symmetry"
sf sim "$out/grok1.plan.yaml" --both

step "3. Plan and forecast a small Llama for this machine"
sf topo probe -o "$out/machine" --ranks 2
sf plan scenarios/tiny-llama-cpu/scenario.yaml --cluster "$out/machine/machine.yaml" -o "$out/tiny.plan.yaml"
sf compile "$out/tiny.plan.yaml" -o "$out/tiny.sfprog"
"$bin/staticfire-run" --measure "$out/tiny.sfprog" -o "$out/kernels.yaml"
sf sim "$out/tiny.plan.yaml" --kernels "$out/kernels.yaml" --forecast "$out/forecast.json" --trace "$out/forecast.sftrace"

step "4. Train: two pipeline stages as threads, then as MPI processes"
sf run "$out/tiny.sfprog" --transport threads --data scenarios/data/shakespeare.txt \
  --trace "$out/threads.sftrace" --log "$out/threads.jsonl"
sf run "$out/tiny.sfprog" --transport mpi --data scenarios/data/shakespeare.txt \
  --trace "$out/mpi.sftrace" --log "$out/mpi.jsonl"

step "5. Compare: the sealed forecast with what was measured"
verdict=0
for transport in threads mpi; do
  sf compare "$out/forecast.sftrace" "$out/$transport.sftrace" --program "$out/tiny.sfprog" --forecast "$out/forecast.json" \
    --loss "$out/$transport.jsonl" --report "$out/report-$transport.html" || verdict=$?
done
cp "$out/report-threads.html" "$out/report.html"
printf '\nReport: %s/report.html   (whole job: %d s)\n' "$out" "$(($(date +%s) - started))"
exit "$verdict"
