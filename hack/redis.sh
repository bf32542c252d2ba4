#!/usr/bin/env bash
# redis.sh: gets a redis-server for the tests that want a real one.
#
# On Debian, as root, it is taken from its packages and unpacked into bin/redis, so
# that no daemon is started. Elsewhere tests that need it are skipped and say so,
# except under CI, where a check that cannot run is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=bin/redis
if [ -x "$bin/redis-server" ] || command -v redis-server >/dev/null; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "redis: redis-server is missing; install it to have the tests that need it" >&2
  exit 0
fi
echo "redis: taking redis-server from Debian's packages" >&2
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
# The program is in redis-tools; redis-server is a name and a daemon's files.
if (cd "$unpacked" && apt-get update -qq &&
  apt-get download -qq -o APT::Sandbox::User=root redis-tools libatomic1 libjemalloc2 liblzf1 &&
  for package in *.deb; do dpkg-deb -x "$package" .; done) >&2; then
  mkdir -p "$bin/lib"
  cp -L "$unpacked"/usr/lib/*/lib{atomic,jemalloc,lzf}.so.[0-9] "$bin/lib/"
  cp -L "$unpacked/usr/bin/redis-check-rdb" "$bin/lib/redis-server" # one program, told what to be by its name
  cat >"$bin/redis-server" <<'WRAPPER'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH="$here/lib" exec "$here/lib/redis-server" "$@"
WRAPPER
  chmod +x "$bin/redis-server"
else
  echo "redis: apt-get could not download redis-tools" >&2
fi
