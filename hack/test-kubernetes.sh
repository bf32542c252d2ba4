#!/usr/bin/env bash
# test-kubernetes.sh ARG...: go test ARG... in test/kubernetes
#
# The tests want etcd, promtool and systemd-analyze. On Debian, as root, the first
# two are taken from their packages and unpacked into bin/kubernetes, so that no
# daemon is started; the last is installed. Elsewhere tests that need them are skipped and say so, except
# under CI, where a check that cannot run is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=bin/kubernetes
# fetch PROGRAM PACKAGE
fetch() {
  if [ -x "$bin/$1" ] || command -v "$1" >/dev/null; then
    return 0
  fi
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "test-kubernetes: $1 is missing; install it to have the tests that need it" >&2
    return 0
  fi
  echo "test-kubernetes: taking $1 from Debian's package $2" >&2
  local unpacked
  unpacked=$(mktemp -d)
  if (cd "$unpacked" && apt-get update -qq && apt-get download -qq -o APT::Sandbox::User=root "$2" && dpkg-deb -x "$2"_*.deb .) >&2; then
    mkdir -p "$bin"
    cp "$unpacked/usr/bin/$1" "$bin/"
  else
    echo "test-kubernetes: apt-get could not download $2" >&2
  fi
  rm -rf "$unpacked"
}
fetch etcd etcd-server
fetch promtool prometheus
# This one is linked with libraries of its own and has no daemon until it is booted.
if ! command -v systemd-analyze >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "test-kubernetes: installing systemd for systemd-analyze" >&2
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd; } >&2 ||
    echo "test-kubernetes: apt-get could not install systemd" >&2
fi

exec go -C test/kubernetes test "$@"
