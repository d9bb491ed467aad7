#!/bin/sh
# Installs meshctl, the command line of tunmesh, for whoever runs this. It needs no
# root, and writes into one folder only.
#
#   curl -fsSL https://github.com/tunmesh/tunmesh/releases/latest/download/install.sh | sh
#
#   TUNMESH_VERSION   the release (default: the one that this script is of)
#   INSTALLROOT       the folder, into whose bin meshctl goes (default: ~/.tunmesh)
#   TUNMESH_RELEASES  where the releases are, if there is a mirror
set -eu

fail() {
  printf 'install meshctl: %s\n' "$*" >&2
  exit 1
}

# fetch URL FILE
fetch() {
  if command -v curl >/dev/null 2>&1; then
    curl -fsSL -o "$2" "$1"
  elif command -v wget >/dev/null 2>&1; then
    wget -q -O "$2" "$1"
  else
    fail 'neither curl nor wget is here: install one of them'
  fi
}

# sum FILE
sum() {
  if command -v sha256sum >/dev/null 2>&1; then
    sha256sum <"$1" | cut -d ' ' -f 1
  elif command -v shasum >/dev/null 2>&1; then
    shasum -a 256 <"$1" | cut -d ' ' -f 1
  elif command -v openssl >/dev/null 2>&1; then
    openssl dgst -sha256 <"$1" | sed 's/^.*= *//'
  else
    fail 'nothing here can compute a SHA-256 sum: install sha256sum, shasum or openssl'
  fi
}

# It begins with the last line, so that a script that was cut off does nothing.
main() {
  version=${TUNMESH_VERSION:-@VERSION@}
  releases=${TUNMESH_RELEASES:-https://github.com/tunmesh/tunmesh/releases/download}
  case $version in
    v[0-9]*) ;;
    *) fail "TUNMESH_VERSION is \"$version\": want a release's name, such as v1.2.3" ;;
  esac
  if [ -z "${INSTALLROOT:-}" ]; then
    [ -n "${HOME:-}" ] || fail 'HOME is not set: name a folder by INSTALLROOT'
    INSTALLROOT=$HOME/.tunmesh
  fi

  case $(uname -s) in
    Linux) os=linux ;;
    Darwin) os=darwin ;;
    *) fail "meshctl is built for Linux and macOS, and this is $(uname -s)" ;;
  esac
  case $(uname -m) in
    x86_64 | amd64) arch=amd64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) fail "meshctl is built for amd64 and arm64, and this is $(uname -m)" ;;
  esac
  name=meshctl-$version-$os-$arch

  bin=$INSTALLROOT/bin
  mkdir -p "$bin" || fail "cannot make the folder $bin: name another by INSTALLROOT"
  tmp=$INSTALLROOT/.install.$$
  mkdir "$tmp" || fail "cannot write in $INSTALLROOT: name another folder by INSTALLROOT"
  trap 'rm -rf "$tmp"' EXIT
  trap 'exit 1' HUP INT TERM

  echo "Fetching $name from $releases/$version ..."
  fetch "$releases/$version/SHA256SUMS" "$tmp/sums" || fail "there is no release $version at $releases, or it cannot be reached"
  want=$(awk -v name="$name" '$2 == name { print $1 }' "$tmp/sums")
  [ -n "$want" ] || fail "release $version has no $name"
  fetch "$releases/$version/$name" "$tmp/meshctl" || fail "cannot fetch $releases/$version/$name"
  have=$(sum "$tmp/meshctl")
  [ "$have" = "$want" ] || fail "$name has SHA-256 sum $have and should have $want: nothing was installed; try again, and if it stays so, tell us"

  chmod 755 "$tmp/meshctl"
  mv -f "$tmp/meshctl" "$bin/meshctl-$version"
  ln -sf "meshctl-$version" "$bin/meshctl"
  ln -sf meshctl "$bin/kubectl-mesh"

  echo "meshctl $version is in $bin."
  case :${PATH:-}: in
    *":$bin:"*) ;;
    *) printf 'To find it by its name:\n\n  export PATH="$PATH:%s"\n' "$bin" ;;
  esac
  printf '\nWhether a cluster can have a mesh:\n\n  meshctl check --pre\n'
}

main
