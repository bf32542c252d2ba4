#!/usr/bin/env bash
# test-race.sh ARG...: go test -race ARG...
#
# The race detector needs a C compiler. On Debian, as root, a missing one is
# installed; elsewhere the tests run without the detector and say so, except
# under CI, where a check that cannot run is a failure.
set -euo pipefail

cc=$(go env CC)
if ! command -v "${cc%% *}" >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "test-race: installing gcc for the race detector" >&2
  { apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev; } >&2 ||
    echo "test-race: apt-get could not install gcc" >&2
fi

# The runtime's own cgo package is what -race needs; headers may be missing even
# where a compiler is there.
if why=$(CGO_ENABLED=1 go build -race runtime/cgo 2>&1); then
  export CGO_ENABLED=1
  exec go test -race "$@"
fi
echo "test-race: the race detector cannot run here: $why" >&2
if [ "${CI:-}" = true ]; then
  exit 1
fi
echo "test-race: SKIPPED the race detector; install a C compiler and its headers to have it" >&2
exec go test "$@"
