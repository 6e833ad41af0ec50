#!/bin/sh
# Fit every framework again, after the kernel or the network model has changed.
# usage: refit.sh STATICFIRE        (PYTHON: an interpreter with numpy and scipy)
#
# Calibration rows are named here and nowhere else. What a handful of rows cannot tell apart is held: the host's issue
# time at that of another framework of the same years, a few milliseconds for the end of the step, the cheap kernels of
# NeMo at 2.5 passes and its cross entropy in f32 at 20, fused ones at 1.5 and 4, the hiding of gathered weights, and
# attention at 1.25 times the charts of FlashAttention behind the catalog's h100: cuDNN's on the same cores, in its h200, is
# that much faster at 8,192 tokens and heads of 128.
# Megatron waits on the host for every transfer before it goes on (pipeline_parallel/p2p_communication.py). For how long
# is what T_comm of arXiv 2401.10241, Table 9 has above the transfer itself: it was timed through these very functions,
# 0.38 to 0.60 ms with 0.06 to 0.12 of transfer. 0.3 is the least of the four sizes. Its zero-bubble runtime waits on
# streams and for arrivals alone. Its small kernels are those of vTrain's Megatron, cheap ones are fused.
# The spread of H100s is what the step of GPT-3 in bf16 grew by from 128 to 2,048 GPUs in v25.02, 2.2 % with 88 % of it
# in kernels, over the 0.81 standard deviations by which the slowest of so many moves.
set -eu
cd "$(dirname "$0")"
fit() { "${PYTHON:-python3}" ./fit.py "$STATICFIRE" "$@"; }
number() { sed -n "s/.*[ {]$2: \\([0-9.]*\\).*/\\1/p" "$1.yaml" | head -1; } # of a fitted file
STATICFIRE=$1
PUBLISHED=../../../tests/data/published
CASES=$PUBLISHED/validation_cases.csv
MORE=$PUBLISHED/more_cases.csv

fit megatron-vtrain a100 unfused $PUBLISHED/vtrain_single_a100.csv 0.1:vtrain- fix:gather_hidden=0 free:kernels \
    free:loss_parallel \
    "about:Megatron-LM as measured by vTrain (arXiv 2312.12391): fp16, unfused attention, dropout, full recomputation"
fit megatron-2021 a100 unfused $CASES sc21-t1-1.7B sc21-t1-18.4B sc21-t1-310.1B fix:step=2 fix:gather_hidden=0 \
    fix:host_call="$(number megatron-vtrain host_call)" fix:resume=0.3 \
    "about:Megatron-LM of arXiv 2104.04473: fp16, unfused attention, dropout, full recomputation"
fit deepspeed-2021 a100 unfused $CASES sc21-t2-ZeRO-3-174.6B-768 fix:step=2 fix:gather_hidden=0 free:gather_slow \
    fix:host_call="$(number megatron-2021 host_call)" fix:pointwise="$(number megatron-2021 pointwise)" \
    fix:loss="$(number megatron-2021 loss)" fix:gemm_share="$(number megatron-2021 gemm_share)" \
    "about:DeepSpeed's ZeRO-3 as run for arXiv 2104.04473, with the kernels of megatron-2021"
fit megatron-zb a100 unfused $CASES zb-1.5B-1F1B-m24 zb-28.3B-1F1B-m96 fix:step=2 fix:gather_hidden=0 fix:pointwise=1.5 \
    fix:host_call=8 fix:resume=0.3 fix:kernels="$(number megatron-vtrain kernels)" rolling \
    "about:Megatron-LM of arXiv 2401.10241 (2023): fp16, unfused attention whose scores are kept, dropout, no recomputation"

dgxc() { release=$1; shift; fit "nemo-dgxc-$release" h100 fused $CASES "$@" fix:step=2 fix:pointwise=2.5 fix:loss=20 \
    fix:host_call=8 fix:gather_hidden=0.95 fix:spread=0.03 fix:attention_share=1.25 free:tp_hidden \
    "about:NeMo and Megatron Core of the DGX Cloud recipes v$release"; }
dgxc 24.11 dgxc-gpt3_175b-h100-bf16-128-064 dgxc-gpt3_175b-h100-fp8-128-069 dgxc-grok1_314b-h100-bf16-128-004 \
    dgxc-grok1_314b-h100-fp8-128-013 dgxc-llama3.1_70b-h100-bf16-64-030 dgxc-llama3.1_70b-h100-fp8-64-036 \
    dgxc-llama3.1_8b-h100-bf16-8-042 dgxc-llama3.1_8b-h100-fp8-8-047 dgxc-llama3.1_405b-h100-bf16-96-019 \
    dgxc-llama3.1_405b-h100-fp8-96-025
dgxc 25.02 dgxc-gpt3_175b-h100-bf16-128-175 dgxc-gpt3_175b-h100-fp8-128-180 dgxc-grok1_314b-h100-bf16-128-117 \
    dgxc-grok1_314b-h100-fp8-128-126 dgxc-llama3.1_70b-h100-bf16-64-143 dgxc-llama3.1_70b-h100-fp8-64-149 \
    dgxc-llama3.1_8b-h100-bf16-8-155 dgxc-llama3.1_8b-h100-fp8-8-160 dgxc-llama3.1_405b-h100-bf16-96-132 \
    dgxc-llama3.1_405b-h100-fp8-96-138
dgxc 25.04 dgxc-llama3.1_8b-h100-bf16-8-200 dgxc-llama3.1_8b-h100-fp8-8-205 dgxc-llama3.1_70b-h100-bf16-64-210 \
    dgxc-llama3.1_70b-h100-fp8-64-216 dgxc-llama3.1_405b-h100-bf16-64-223 dgxc-llama3.1_405b-h100-fp8-64-229

jax() { name=$1 about=$2; shift 2; fit "$name" h100 fused $MORE "$@" fix:step=2 fix:pointwise=1 fix:loss=4 fix:host_call=0 \
    fix:gather_hidden=0 fix:spread=0.03 "about:$about on JAX as in the DGX Cloud recipes: one program per step"; }
jax maxtext MaxText jax-maxtext_llama2_70b-h100-bf16-64-052 jax-maxtext_llama2_70b-h100-fp8-64-058 \
    jax-maxtext_llama3_70b-h100-bf16-128-139 jax-maxtext_llama3_70b-h100-fp8-128-144 free:attention_share
jax paxml PaxML jax-paxml_gpt3_175b-h100-fp8-128-074 fix:gemm_share=0.9

fit nemo-mlperf-3.1 h100 fused $CASES mlperf-gpt3-h100-512-nvidia-v3.1 mlperf-gpt3-h100-10752-nvidia-v3.1 \
    fix:step=2 fix:loss=4 fix:host_call=1 fix:pointwise=1.5 fix:gemm_share=0.9 \
    "about:NeMo with CUDA graphs as submitted to MLPerf training v3.1"
hidden=$(number nemo-mlperf-3.1 gather_hidden)
for release in 4.0 4.1; do
    fit "nemo-mlperf-$release" h100 fused $CASES "mlperf-gpt3-h100-512-nvidia-v$release" fix:step=2 fix:loss=4 \
        fix:host_call=1 fix:pointwise=1.5 fix:gemm_share=0.9 fix:gather_hidden="${hidden:-0}" \
        "about:NeMo with CUDA graphs as submitted to MLPerf training v$release"
done
foundry() { fit llm-foundry "$2" fused $CASES "0.1:mpt-@$1" fix:host_call=8 fix:step=5 fix:gather_hidden=0 fix:loss=8 \
    free:attention_share "about:LLM Foundry on PyTorch FSDP, as in its benchmarking README" $3; }
foundry H100 h100 ""
foundry A100-80G a100 add
foundry A100-40G a100-40g add
