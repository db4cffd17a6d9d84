# Sourced by quickstart.sh and run_tests.sh: makes or reuses a virtual environment with this clone in it.
# Honours PYTHON (the interpreter to use) and PASSL_VENV (where the environment is); PASSL_BELOW: a folder of packages that need
# not be installed again, unless in another version.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

works() { # works PYTHON: it starts, and its version is one of ours
    "$1" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        works "$PYTHON" || fail "PYTHON=$PYTHON does not start, or is not Python 3.9 to 3.12."
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.10 python3.9 python3 python; do
        if works "$candidate" && "$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    for candidate in python3.11 python3.12 python3.10 python3.9 python3 python; do
        works "$candidate" && fail "$candidate cannot make virtual environments: its module venv or ensurepip \
is missing. On Debian and Ubuntu: apt-get install ${candidate}-venv"
    done
    fail "No Python 3.9, 3.10, 3.11 or 3.12 found. Install one, or name it: PYTHON=/path/to/python3.11 bash $0"
}

# make_environment VENV REQUIREMENT...: afterwards $PY is its Python and this clone is installed in it.
make_environment() {
    local venv=$1 python stamp want
    shift
    [ "$(uname -s)" = Linux ] || echo 'note: only Linux has been tried.' >&2
    if ! works "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || exit 1
        if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
            fail "$venv exists and is no virtual environment. Remove it, or name another: PASSL_VENV=DIR bash $0"
        fi
        echo "Making a virtual environment in $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv" || fail "$python -m venv $venv failed (see above)."
    fi
    PY=$venv/bin/python
    [ -z "${PASSL_BELOW:-}" ] || echo "$PASSL_BELOW" >"$("$PY" -c 'import site; print(site.getsitepackages()[0])')/below.pth"
    # The installation is skipped when the same requirements were installed from this very setup.py.
    stamp=$venv/.passl-installed-$(echo "$*" | cksum | cut -d' ' -f1)
    want="$ROOT $* $(cksum <"$ROOT/setup.py")"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ] || ! (cd / && "$PY" -c \
            "import importlib.util as u, sys; sys.exit(not (u.find_spec('passl') and u.find_spec('paddle')))"); then
        echo "Installing $* (up to 600 MB, with Paddle; the whole log is in $venv/pip.log)"
        rm -f "$venv"/.passl-installed-*
        # --no-compile: half the time, and Python compiles what is imported
        (cd "$ROOT" && PYTHONUNBUFFERED=1 "$PY" -m pip install --progress-bar off --no-compile --log "$venv/pip.log" "$@" \
            </dev/null | grep --line-buffered -E '^ *(Collecting|Downloading|Building|Installing|Successfully)' \
            | cut -c1-110; exit "${PIPESTATUS[0]}") || fail "The installation failed: see above and $venv/pip.log"
        echo "$want" >"$stamp"
    else
        echo "Using the virtual environment $venv"
    fi
    # Paddle, VisualDL and matplotlib write to the home folder: keep that inside the environment.
    mkdir -p "$venv/home"
    export HOME=$venv/home
    unset XDG_CACHE_HOME XDG_CONFIG_HOME MPLCONFIGDIR
    # An environment of the caller must not shine through.
    unset PYTHONHOME PYTHONPATH
    export PYTHONWARNINGS="${PYTHONWARNINGS:+$PYTHONWARNINGS,}ignore:No ccache found"    # of no use here
    export PATH=$venv/bin:$PATH
}
