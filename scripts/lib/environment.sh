# Shared by the scripts beside this folder: the checkout, what is said, uv, the Python environments. Needs debian.sh.
# Sourced by bash with `set -euo pipefail`. What the environment says about pip, uv and apt (indexes, proxies,
# certificates, caches) is left as it is: nothing here sets such a variable unless it is unset.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=$ROOT/.cache
cd "$ROOT"

export UV_PYTHON_DOWNLOADS=${UV_PYTHON_DOWNLOADS:-never} # the machine's own Pythons, never a downloaded one
unset VIRTUAL_ENV                                         # another project's, if any: uv would warn at each call

say() { printf '==> %s\n' "$*" >&2; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# Print the first Python on PATH that is new enough.
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  fail "no Python 3.10 or newer on PATH; install one (Debian: apt-get install python3)"
}

# Make `uv` callable: the one on PATH, or a private one that pip puts into .cache/uv.
ensure_uv() {
  if uv --version >/dev/null 2>&1; then return; fi
  if ! "$CACHE/uv/bin/uv" --version >/dev/null 2>&1; then
    local python
    python=$(find_python)
    ensure_venv_module "$python"
    say "no uv on PATH: installing one into .cache/uv with pip"
    "$python" -m venv --clear "$CACHE/uv"
    "$CACHE/uv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.8'
  fi
  PATH=$CACHE/uv/bin:$PATH
}

# Debian keeps ensurepip, which `python -m venv` needs, in a package of its own.
ensure_venv_module() {
  if "$1" -c 'import ensurepip, venv' 2>/dev/null; then return; fi
  if is_root && command -v apt-get >/dev/null; then
    apt_install python3-venv || : # what is missing then is said below
  fi
  "$1" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$1 cannot make virtual environments; as root: apt-get install python3-venv, or put uv on PATH"
}

# sync_environment [uv sync options]: the pinned packages of uv.lock in UV_PROJECT_ENVIRONMENT (.venv when unset).
# uv.lock names the index it was made from. Where uv or pip is told to use another one, the same versions with the
# same hashes are taken from there.
sync_environment() {
  if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${PIP_INDEX_URL:-}" ]; then
    uv sync --quiet --locked "$@"
    return
  fi
  local environment=${UV_PROJECT_ENVIRONMENT:-.venv} requirements options=() option members=("${MEMBERS[@]/#/--editable=}")
  local -x UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-$PIP_INDEX_URL}}
  for option in "$@"; do
    [ "$option" = --inexact ] || options+=("$option")
    [ "$option" != --only-group ] || members=()
  done
  requirements=$(mktemp)
  uv export --quiet --frozen --no-emit-workspace "${options[@]}" --output-file "$requirements" >/dev/null
  [ -x "$environment/bin/python" ] || uv venv --quiet "$environment"
  uv pip install --quiet --python "$environment/bin/python" --require-hashes --requirement "$requirements"
  [ ${#members[@]} -eq 0 ] || uv pip install --quiet --python "$environment/bin/python" --no-deps "${members[@]}"
  rm -f "$requirements"
}

MEMBERS=(packages/*)

# Whether there is a Go that builds what we test against.
find_go() {
  local version
  version=$(go env GOVERSION 2>/dev/null) || return 1
  [ "$(printf 'go1.24\n%s\n' "$version" | sort --version-sort | head -1)" = go1.24 ]
}

# build_cri_tools PROGRAM...: crictl, critest, as pinned by cri-tools/go.mod, into .cache/cri-tools. Go itself knows what
# is there already, and fetches a newer Go where the pinned version wants one, unless it is told not to.
build_cri_tools() {
  local program verb
  for program in "$@"; do
    verb=(build)
    [ "$program" != critest ] || verb=(test -c)
    (
      cd "$ROOT/scripts/lib/cri-tools"
      CGO_ENABLED=0 GOFLAGS=-modcacherw go "${verb[@]}" -o "$CACHE/cri-tools/$program" "sigs.k8s.io/cri-tools/cmd/$program" >&2
    ) || return
  done
}
