#!/usr/bin/env bash
# test-image.sh ARG...: go test ARG... in test/image
#
# The tests want buildah, skopeo, umoci and runc, none of which has a daemon, and certificate authorities to put into the image; see apt.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/apt.sh

missing=()
for program in buildah skopeo umoci runc; do
  command -v "$program" >/dev/null || missing+=("$program")
done
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if [ ${#missing[@]} -gt 0 ]; then
  apt_install "${missing[@]}" || true # the tests tell
fi

exec go -C test/image test "$@"
