#!/usr/bin/env bash
# Executes the notebook in a virtual environment shaped like Colab's GPU image of 2026-08: its package versions, its old
# IPython and ipykernel, gguf left out because the image has none (the notebook installs it). What differs from Colab
# here: the Python, unless PYTHON names one of Colab's version (PYTHON=python3.13), and torch as pinned by us.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${1:-.venv-colab}"
"${PYTHON:-python3}" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
"$venv/bin/python" -m pip install --quiet \
    torch==2.13.0 transformers==5.15.0 numpy==2.1.3 scikit-learn==1.6.1 datasets==4.0.0 accelerate==1.14.0 \
    matplotlib==3.10.0 tqdm==4.67.3 ipywidgets==7.7.1 ipython==7.34.0 ipykernel==6.17.1 nbclient==0.10.4 \
    nbformat==5.11.1 safetensors scipy jsonschema pytest
"$venv/bin/python" --version
"$venv/bin/python" -m pip freeze | grep -iE "^(torch|transformers|numpy|scikit-learn|datasets|ipython|ipykernel)=="
"$venv/bin/python" -m pytest tests/test_notebook.py -k "itself or nano"  # in a kernel, and in-process
