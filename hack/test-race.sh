#!/usr/bin/env bash
# test-race.sh ARG...: go test -race ARG...
#
# The race detector needs a C compiler; see apt.sh. Where there is none the tests run without the detector and say so, except under CI, where a check
# that cannot run is a failure.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/apt.sh"

cc=$(go env CC)
command -v "${cc%% *}" >/dev/null || apt_install gcc libc6-dev || true

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
