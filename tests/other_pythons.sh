#!/usr/bin/env bash
# Runs the builder, lint and what needs no torch on every Python from 3.11 to 3.14 that is found here besides python3,
# each in a small virtual environment. A name that does not run (pyenv has some for versions that are not activated) is
# passed over.
set -euo pipefail
cd "$(dirname "$0")/.."
venvs="${1:-.venv-pythons}"
tests=(tests/test_{builder,house}.py tests/tools tests/data tests/method/test_{probes,directions}.py
    tests/models/test_profiles.py tests/app/test_options.py tests/support/test_{environment,parameters}.py tests/evaluation/test_tables.py)
mapfile -t packages < <(grep -E "^(nbformat|jsonschema|numpy|scipy|scikit-learn|datasets|pytest|ruff|hypothesis|llguidance)==" requirements.txt)
usual=$(python3 -c "import sys; print('%d.%d' % sys.version_info[:2])")
found=()
for version in 3.11 3.12 3.13 3.14; do
    [[ $version == "$usual" ]] && continue
    for python in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
        if "$python" -m venv --clear "$venvs/$version" 2>/dev/null; then
            found+=("$version")
            break
        fi
    done
done
echo "Pythons found besides $usual: ${found[*]:-none}"
for version in "${found[@]}"; do
    python="$venvs/$version/bin/python"
    "$python" --version
    "$python" -m pip install --quiet "${packages[@]}"
    "$python" create_notebook.py --check
    "$python" -m ruff check .
    "$python" -W error -m compileall -q -f asa benchmarks tests ./*.py  # so a warning of this compiler is an error
    PYTHONPATH=tests "$python" -m pytest --noconftest -p reliability -p no:cacheprovider -k "not (ASAAdapter or serving)" "${tests[@]}" \
        asa/tools asa/data asa/support/{files,parameters,hub}.py
done
