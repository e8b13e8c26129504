# The tier in a virtual machine: cgroup version 2, systemd, AppArmor. Needs environment.sh and debian.sh.

# run_guest_tier [pytest's arguments]: pytest's exit status in the guest; 0, having said why, where there can be none.
run_guest_tier() {
  local system packages python
  python=$(find_python)
  if ! system=$(_prepare_guest) || ! packages=$(_ensure_guest_packages); then
    say "tier guest: not run: see above"
    return 0
  fi
  say "pytest in the guest $*"
  "$python" "$ROOT/scripts/lib/guest.py" "$system" "$packages" "$@"
}

# Print the directory of the guest's system.
_prepare_guest() {
  local reason=''
  if ! is_root; then
    reason="it needs root (this is uid $(id -u)): its image holds root's files"
  elif [ "$(uname -m)" != x86_64 ]; then
    reason="the guest is an amd64 one, this machine is $(uname -m)"
  elif ! command -v apt-get >/dev/null; then
    reason="no apt-get here, and the guest is made of Debian's packages"
  elif ! apt_install qemu-system-x86 mmdebstrap e2fsprogs >&2; then
    reason="qemu-system-x86 and mmdebstrap are not to be had"
  fi
  if [ -n "$reason" ]; then
    say "the guest: $reason"
    return 1
  fi
  say "the guest's system: .cache/guest"
  "$(find_python)" "$ROOT/scripts/lib/guest_image.py" "$CACHE/guest"
}

# Print the path of a disk image of the pinned packages that tests need, for the guest's Python.
_ensure_guest_packages() {
  local requirements key image work version status=0
  requirements=$(mktemp)
  uv export --quiet --frozen --no-emit-workspace --no-default-groups --group test --output-file "$requirements" >/dev/null
  key=$(sha256sum "$requirements" | cut -c 1-16)
  image=$CACHE/guest/packages-$key.ext4
  if [ ! -f "$image" ]; then
    work=$(mktemp -d)
    version=$("$(find_python)" -c 'import sys; sys.path.insert(0, sys.argv[1]); import guest_image; print(guest_image.PYTHON_VERSION)' "$ROOT/scripts/lib")
    _install_guest_packages "$requirements" "$work/packages" "$version" &&
      rm -f "$CACHE"/guest/packages-*.ext4 &&
      mke2fs -q -F -t ext4 -O '^has_journal' -m 0 -L packages -d "$work/packages" "$image.new" 400M >/dev/null &&
      mv "$image.new" "$image" || status=$?
    rm -rf "$work"
  fi
  rm -f "$requirements"
  [ "$status" -eq 0 ] && printf '%s\n' "$image"
}

# No interpreter of that version need be here: only wheels are taken, and nothing is run.
_install_guest_packages() {
  local index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-${PIP_INDEX_URL:-}}}
  [ -z "$index" ] || local -x UV_DEFAULT_INDEX=$index
  uv pip install --quiet --target "$2" --python-version "$3" --only-binary :all: --require-hashes --requirement "$1"
}
