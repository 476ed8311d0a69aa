#!/bin/sh
# Makes sure that the programs which the tests drive are there: Chromium for the gallery, Node for
# its modules, git for publishing. Installs them on Debian as root; says how to get them otherwise.
set -eu

missing=""
command -v git >/dev/null || missing="$missing git"
command -v node >/dev/null || missing="$missing nodejs"
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
  command -v google-chrome >/dev/null || missing="$missing chromium"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing:$missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q -q -o DPkg::Lock::Timeout=120 update
  # shellcheck disable=SC2086  # a list of package names, split on purpose
  apt-get -q -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends $missing >/dev/null
else
  echo "these tests will be skipped until you install:$missing" >&2
  echo "  on Debian or Ubuntu: sudo apt-get install$missing" >&2
fi
