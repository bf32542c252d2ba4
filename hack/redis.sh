#!/usr/bin/env bash
# redis.sh: gets a redis-server for the tests that want a real one, into bin/redis; see apt.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/apt.sh

bin=bin/redis
if [ -x "$bin/redis-server" ] || command -v redis-server >/dev/null; then
  exit 0
fi
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
# The program is in redis-tools; redis-server is a name and a daemon's files.
if apt_unpack "$unpacked" redis-tools libatomic1 libjemalloc2 liblzf1 libssl3; then
  mkdir -p "$bin/lib"
  cp -L "$unpacked"/usr/lib/*/lib{atomic,jemalloc,lzf,ssl,crypto}.so.[0-9] "$bin/lib/"
  cp -L "$unpacked/usr/bin/redis-check-rdb" "$bin/lib/redis-server" # one program, told what to be by its name
  cat >"$bin/redis-server" <<'WRAPPER'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH="$here/lib" exec "$here/lib/redis-server" "$@"
WRAPPER
  chmod +x "$bin/redis-server"
fi
