#!/usr/bin/env bash
# Installs into a virtual environment in the clone and runs DenseCL from images to a linear evaluation.
#   bash tools/quickstart.sh        environment variables: PYTHON, PASSL_VENV (default ./.venv)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

make_environment "${PASSL_VENV:-$ROOT/.venv}" -e '.[cpu,regions]'
cd "$ROOT"
exec "$PY" tools/quickstart.py "$@"
