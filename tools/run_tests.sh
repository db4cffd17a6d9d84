#!/usr/bin/env bash
# Installs into a virtual environment in the clone and runs the tests; arguments go to pytest.
#   bash tools/run_tests.sh                            everything, on Paddle 3.3.1
#   bash tools/run_tests.sh --cov=passl                and which lines of the package they reach
#   PADDLE_VERSION=2.6.2 bash tools/run_tests.sh       all but the tests marked slow, in a second environment
#   PASSL_TEST_EXTRAS=seg bash tools/run_tests.sh      only tests/transfer/seg, in an environment with PaddleSeg;
#                                                      with PADDLE_VERSION=2.6.2 too
# environment variables: PYTHON, PASSL_VENV (default ./.venv), PASSL_TEST_WORKERS (default 2)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

DEFAULT_VERSION=3.3.1
version=${PADDLE_VERSION:-$DEFAULT_VERSION}
venv=${PASSL_VENV:-$ROOT/.venv}
extras=${PASSL_TEST_EXTRAS:-}
options=(-n "${PASSL_TEST_WORKERS:-2}" --dist loadfile --timeout 600)
options+=(--timeout-method thread --max-worker-restart 2)      # ends what waits in C, too; it is tried again, then all ends
if [ -n "$extras" ]; then           # a library with pins of its own: apart from the other tests, all of its own
    [ -d "$ROOT/tests/transfer/$extras" ] || fail "PASSL_TEST_EXTRAS=$extras: there is no tests/transfer/$extras."
    venv=$venv-$extras
    options+=("tests/transfer/$extras")
fi
[ "$version" = "$DEFAULT_VERSION" ] || venv=$venv-paddle$version
if [ -z "$extras" ] && [ "$version" != "$DEFAULT_VERSION" ]; then
    options+=(-m 'not slow')
fi
make_environment "$venv" -e ".[cpu,${extras:+$extras,}test]" "paddlepaddle==$version"
cd "$ROOT"
echo "Tests on Paddle $version, $("$PY" --version)"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
COVERAGE_FILE=$venv/.coverage "$PY" -m pytest "${options[@]}" -o "cache_dir=$venv/pytest_cache" "$@" </dev/null
