#!/usr/bin/env bash
# fuzz.sh TIME: runs every fuzz target of the module for TIME, one after the other, and names those that found something.
set -euo pipefail
time=$1

# `go test -list` prints a package's targets and then the package.
targets=$(go test -list '^Fuzz' ./... |
  awk '/^Fuzz/ { names[++n] = $1 } /^ok/ { for (i = 1; i <= n; i++) print $2, names[i]; n = 0 }')
if [ -z "$targets" ]; then
  echo "fuzz: no fuzz targets found" >&2
  exit 1
fi
output=$(mktemp)
trap 'rm -f "$output"' EXIT
found=()
while read -r package name; do
  echo "fuzz: $name in $package for $time"
  if go test -run '^$' -fuzz "^$name\$" -fuzzminimizetime 200x -fuzztime "$time" "$package" 2>&1 | tee "$output"; then
    continue
  fi
  # Until Go 1.27 the end of the time counts as a failure now and then (golang.org/issue/75804); a finding comes with its input.
  if grep -q '^ *context deadline exceeded$' "$output" && ! grep -q 'Failing input written' "$output"; then
    continue
  fi
  found+=("$name in $package")
done <<<"$targets"
if [ "${#found[@]}" -gt 0 ]; then
  printf 'fuzz: %s found something\n' "${found[@]}" >&2
  exit 1
fi
