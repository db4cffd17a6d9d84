#!/usr/bin/env bash
# Makes the virtual environment of PaddleDetection, apart from the core's: it pins old versions of numpy and OpenCV.
#   bash tools/detection_environment.sh                              makes .venv-detection (Paddle 3.3.1) and says how to use it
#   bash tools/detection_environment.sh -m pytest tests/transfer/det runs its Python with these arguments
#   PADDLE_VERSION=2.6.2 bash tools/detection_environment.sh         the same in .venv-detection-paddle2.6.2
# environment variables: PYTHON (3.9 to 3.11), PASSL_DET_VENV (default ./.venv-detection), PADDLE_VERSION
# On a machine with a GPU put the paddlepaddle-gpu build for its CUDA version into it afterwards, see docs/INSTALL.md.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

works() { # numpy 1.23 has no wheels for Python 3.12
    "$1" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' >/dev/null 2>&1
}

version=${PADDLE_VERSION:-3.3.1}
venv=${PASSL_DET_VENV:-$ROOT/.venv-detection}
[ "$version" = 3.3.1 ] || venv=$venv-paddle$version
# What paddledet asks for itself (numpy below 1.24, OpenCV up to 4.6), and bounds that keep pip from trying every version
# of what comes along: newer ones of these need a newer numpy. PaddleDetection imports pkg_resources, which setuptools drops.
make_environment "$venv" -e '.[cpu]' "paddlepaddle==$version" paddledet==2.6.0 'numpy>=1.21,<1.24' 'pandas<2.4' 'scipy<1.16' \
    'matplotlib<3.11' 'scikit-learn<1.8' 'setuptools<81' 'opencv-python<=4.6.0.66' 'pytest>=7.0' 'pytest-timeout>=2.1'
cd "$ROOT"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ $# -gt 0 ]; then
    exec "$PY" "$@"
fi
"$PY" -c 'from passl.transfer.paddledet.shim import import_ppdet; print("PaddleDetection", import_ppdet().__version__)' </dev/null
echo "Ready. Start it with: $PY tools/transfer_det.py --help"
