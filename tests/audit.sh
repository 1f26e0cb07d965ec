#!/usr/bin/env bash
# Asks PyPI's advisories about every version that requirements.txt pins, by pip-audit in an environment of its own, and
# prints what they say. It always passes: an advisory of today must not stop a change that has nothing to do with it.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${1:-.venv-audit}"
python3 -m venv --clear "$venv"
if ! "$venv/bin/python" -m pip install --quiet --retries 0 --timeout 5 pip-audit==2.10.1; then
    echo "audit: pip-audit cannot be installed here, so the pinned versions were not audited."
elif said=$(timeout 20 "$venv/bin/pip-audit" --requirement requirements.txt --no-deps --disable-pip --strict \
    --progress-spinner off --timeout 2 2>&1); then
    echo "audit: no advisory against a pinned version."
elif grep -q "^Found .* known vulnerabilit" <<<"$said"; then
    echo "audit: these versions should be raised."
    echo "$said"
else
    echo "audit: the pinned versions were not audited: ${said##*$'\n'}"
fi
