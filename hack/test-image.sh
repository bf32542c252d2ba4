#!/usr/bin/env bash
# test-image.sh ARG...: go test ARG... in test/image
#
# The tests want buildah, skopeo, umoci and runc, none of which has a daemon. On Debian, as root, they are installed from their packages. Elsewhere,
# and without root, the tests are skipped and say so, except under CI, where a check that cannot run is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

missing=()
for program in buildah skopeo umoci runc; do
  command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "test-image: installing ${missing[*]}" >&2
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >&2 ||
      echo "test-image: apt-get could not install them" >&2
  else
    echo "test-image: ${missing[*]} missing; install them to have the tests of the image" >&2
  fi
fi

exec go -C test/image test "$@"
