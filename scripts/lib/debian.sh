# Shared by the scripts beside this folder: what comes from Debian. Needs environment.sh; installing needs root.

is_installed() { [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# apt_install PACKAGE...: install those that are missing, and say so; nothing is asked, nothing recommended comes along.
apt_install() {
  local missing=() package
  for package in "$@"; do
    is_installed "$package" || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "installing with apt-get: ${missing[*]}"
  _apt_get_install "${missing[@]}" && return
  say "refreshing apt's package lists, then trying once more"
  apt-get update --quiet --quiet </dev/null >&2 && _apt_get_install "${missing[@]}"
}

_apt_get_install() {
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
    --quiet --quiet --option Dpkg::Use-Pty=0 "$@" </dev/null >&2
}

# Unpack the containerd 2.x of Debian's newest suites into .cache/containerd-2: never installed, and apt's own lists
# and sources stay as they are. Costs nothing once it is there. Fails, having said why, where it is not to be had.
ensure_containerd_2() {
  local target=$CACHE/containerd-2 suite
  _is_containerd_2 "$target" && return
  command -v apt-get >/dev/null || { say "containerd 2.x: not obtained: no apt-get on this machine"; return 1; }
  for suite in sid testing; do
    say "fetching containerd of Debian's suite '$suite' into .cache/containerd-2"
    if _unpack_from_suite "$suite" containerd "$target.new" && _is_containerd_2 "$target.new"; then
      rm -rf "$target"
      mv "$target.new" "$target"
      return
    fi
  done
  rm -rf "$target.new"
  say "containerd 2.x: not obtained: no newer suite of Debian gave one that runs here"
  return 1
}

_is_containerd_2() { "$1/usr/bin/containerd" --version 2>/dev/null | grep -qE ' v?2\.[0-9]+'; }

# _unpack_from_suite SUITE PACKAGE TARGET
_unpack_from_suite() {
  local work status=0
  work=$(mktemp -d "${TMPDIR:-/tmp}/apt-suite.XXXXXX") # not below the checkout: apt's own user must reach it
  _download_from_suite "$1" "$2" "$work" || status=$?
  if [ "$status" -eq 0 ]; then
    rm -rf "$3"
    mkdir -p "$3"
    dpkg -x "$work"/download/*.deb "$3" || status=$?
  fi
  rm -rf "$work"
  return "$status"
}

_download_from_suite() {
  local suite=$1 package=$2 work=$3
  chmod 755 "$work"
  mkdir -p "$work"/{lists,archives}/partial "$work/download"
  chmod 777 "$work/download"
  "$(find_python)" "$ROOT/scripts/lib/apt_suite.py" "$suite" >"$work/suite.sources" || return
  local options=(
    -o "Dir::Etc::sourcelist=$work/suite.sources" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o "Dir::State=$work" -o "Dir::State::lists=$work/lists" -o Dir::State::status=/var/lib/dpkg/status
    -o "Dir::Cache=$work" -o "Dir::Cache::archives=$work/archives"
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
  )
  apt-get "${options[@]}" --quiet --quiet update </dev/null >&2 || return
  (cd "$work/download" && apt-get "${options[@]}" --quiet --quiet download "$package" </dev/null >&2)
}
