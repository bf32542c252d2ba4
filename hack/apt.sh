#!/usr/bin/env bash
# apt.sh: for other scripts to source. Takes what tests need from Debian's packages, as root, without a question.
#
# Where that cannot be, the functions say what is missing and return 1, and the scripts go on: tests that need it are skipped and say so, except under
# CI, where a check that cannot run is a failure.

# apt_install PACKAGE...
apt_install() {
  apt_can "$@" || return 1
  apt_get install -y --no-install-recommends "$@" || apt_failed "$@"
}

# apt_unpack DIRECTORY PACKAGE...: unpacks the packages there and installs nothing, so that no daemon is started.
apt_unpack() {
  local directory=$1
  shift
  apt_can "$@" || return 1
  (
    cd "$directory" && apt_get download "$@" || exit 1
    for package in *.deb; do dpkg-deb -x "$package" . || exit 1; done
  ) || apt_failed "$@"
}

apt_can() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "$(basename "$0"): taking $* from Debian's packages" >&2
    return
  fi
  echo "$(basename "$0"): missing, by the names of Debian's packages: $*; install them, or run this once as root on Debian" >&2
  return 1
}

apt_failed() {
  echo "$(basename "$0"): apt-get could not take $*" >&2
  return 1
}

# apt_get ARG...: with the lists of packages that are there, and if these will not do, with new ones. Waits while others hold the locks.
apt_get() {
  local -x DEBIAN_FRONTEND=noninteractive LC_ALL=C
  local said tries options=(-qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold -o APT::Sandbox::User=root)
  apt-get "${options[@]}" "$@" </dev/null >/dev/null 2>&1 && return
  # The option does not make it wait for the lock of the lists.
  for ((tries = 60; tries > 0; tries--)); do
    said=$(apt-get "${options[@]}" update </dev/null 2>&1) && break
    [[ $said == *"Could not get lock"* ]] || break
    sleep 5
  done
  [ -z "$said" ] || echo "$said" >&2
  apt-get "${options[@]}" "$@" </dev/null >&2
}
