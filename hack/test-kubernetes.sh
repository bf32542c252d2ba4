#!/usr/bin/env bash
# test-kubernetes.sh ARG...: go test ARG... in test/kubernetes
#
# The tests want etcd and promtool, which are put into bin/kubernetes, and systemd-analyze; see apt.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/apt.sh

bin=bin/kubernetes
mkdir -p "$bin"
# fetch PROGRAM PACKAGE
fetch() {
  if [ -x "$bin/$1" ] || command -v "$1" >/dev/null; then
    return
  fi
  local unpacked
  unpacked=$(mktemp -d -p "$bin")
  if apt_unpack "$unpacked" "$2"; then
    mv "$unpacked/usr/bin/$1" "$bin/"
  fi
  rm -rf "$unpacked"
}
fetch etcd etcd-server
fetch promtool prometheus
# This one is linked with libraries of its own and has no daemon until it is booted.
command -v systemd-analyze >/dev/null || apt_install systemd || true # the tests tell

exec go -C test/kubernetes test "$@"
