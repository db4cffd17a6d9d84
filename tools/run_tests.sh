#!/usr/bin/env bash
# Installs into a virtual environment in the clone and runs the tests, in about five minutes on two free cores.
#   bash tools/run_tests.sh                            all but the slow ones, on Paddle 3.3.1
#   bash tools/run_tests.sh --all                      the slow ones too (they train, or start several processes)
#   bash tools/run_tests.sh --cov=passl tests/engine   other arguments go to pytest
#   PADDLE_VERSION=2.6.2 bash tools/run_tests.sh       the core's, in a second environment
#   PASSL_TEST_EXTRAS=seg bash tools/run_tests.sh      only tests/transfer/seg, all of it, in an environment with
#                                                      PaddleSeg; with PADDLE_VERSION=2.6.2 its quick ones
# environment variables: PYTHON, PASSL_VENV (default ./.venv), PASSL_TEST_WORKERS (default 2, with --all 3)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

DEFAULT_VERSION=3.3.1
version=${PADDLE_VERSION:-$DEFAULT_VERSION}
venv=${PASSL_VENV:-$ROOT/.venv}
extras=${PASSL_TEST_EXTRAS:-}
workers=2
options=(--dist loadfile --timeout 600)
options+=(--timeout-method thread --max-worker-restart 2)      # ends what waits in C, too; it is tried again, then all ends
quick=(-m 'not slow')
arguments=()
for argument in "$@"; do
    if [ "$argument" = --all ]; then quick=(); workers=3; options+=(--no-loadscope-reorder)     # slow ones wait, and come first
    else arguments+=("$argument"); fi
done
cd "$ROOT"
if [ -n "$extras" ]; then           # a library with pins of its own: apart from the other tests, above their packages
    [ -d "tests/transfer/$extras" ] || fail "PASSL_TEST_EXTRAS=$extras: there is no tests/transfer/$extras."
    [ "$version" != "$DEFAULT_VERSION" ] || quick=()
    arguments+=("tests/transfer/$extras")
fi
if [ "$version" != "$DEFAULT_VERSION" ]; then
    venv=$venv-paddle$version
    if [ -z "$extras" ] && [ ${#arguments[@]} -eq 0 ]; then         # the core: what another Paddle may do otherwise
        mapfile -t arguments < <(grep -rlE --include='test_*.py' '\<paddle\>|build_dataloader' tests/datasets tests/utils)
        arguments+=(tests/test_{configs,costs,gpu_kernels,parity}.py)
        arguments+=(tests/{distributed,engine,environment,modeling,modules,planning,solver,transfer})
        arguments+=(--ignore=tests/{engine/test_pictures.py,transfer/det,datasets/test_odd_files.py})
    fi
fi
make_environment "$venv" -e '.[cpu,test]' "paddlepaddle==$version"
if [ -n "$extras" ]; then
    PASSL_BELOW=$("$PY" -c 'import site; print(site.getsitepackages()[0])')
    venv=$venv-$extras
    make_environment "$venv" -e ".[cpu,$extras,test]" "paddlepaddle==$version"
fi
echo "Tests on Paddle $version, $("$PY" --version)"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
COVERAGE_FILE=$venv/.coverage "$PY" -m pytest -n "${PASSL_TEST_WORKERS:-$workers}" "${options[@]}" \
    ${quick+"${quick[@]}"} -o "cache_dir=$venv/pytest_cache" ${arguments+"${arguments[@]}"} </dev/null
