#!/usr/bin/env bash
# fuzz.sh TIME: runs every fuzz target of the module for TIME, one after the other.
set -euo pipefail
time=$1

# `go test -list` prints a package's targets and then the package.
targets=$(go test -list '^Fuzz' ./... |
  awk '/^Fuzz/ { names[++n] = $1 } /^ok/ { for (i = 1; i <= n; i++) print $2, names[i]; n = 0 }')
if [ -z "$targets" ]; then
  echo "fuzz: no fuzz targets found" >&2
  exit 1
fi
while read -r package name; do
  echo "fuzz: $name in $package for $time"
  go test -run '^$' -fuzz "^$name\$" -fuzzminimizetime 200x -fuzztime "$time" "$package"
done <<<"$targets"
