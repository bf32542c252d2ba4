#!/usr/bin/env bash
# sbom.sh BINARY VERSION OUTPUT
#
# Writes the modules that a Go binary was built of, with their versions and hashes, as CycloneDX. What it says comes from the binary itself. One
# binary makes one file: the time in it is SOURCE_DATE_EPOCH, in seconds, and there is no serial number.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root=$PWD
when=$(date --utc --date="@${SOURCE_DATE_EPOCH:-0}" +%Y-%m-%dT%H:%M:%SZ)
# The file names the tool with its hash, which must not hang on where it was built.
export GOFLAGS="${GOFLAGS:-} -trimpath"
go -C tools/sbom tool cyclonedx-gomod bin -json -noserial -std -version "$2" -output - "$root/$1" |
  sed -E "s/^(    \"timestamp\": )\"[^\"]*\"/\1\"$when\"/" >"$root/$3"
