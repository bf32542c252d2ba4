#!/usr/bin/env bash
# Generates into a copy of the working tree and compares, so that uncommitted
# work is neither overwritten nor mistaken for a difference.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/before"
tar --exclude=./.git --exclude=./bin -cf - . | tar -xf - -C "$scratch/before"
cp -R "$scratch/before" "$scratch/after"

make --no-print-directory -C "$scratch/after" generate
cd "$scratch"
if ! diff -ruN before after; then
  echo "generate-check: generated files are out of date; run \`make generate\` and commit the result" >&2
  exit 1
fi
