#!/bin/sh
# Makes sure that the programs which the tests drive are there: Chromium for the gallery, Node for
# its modules, git for publishing, openssl for a server that nobody trusts, Slurm (with the database behind `sacct`) for the cluster's jobs.
# Installs them on Debian as root; says how to get them otherwise. Starts no daemon.
set -eu

PATH=$PATH:/usr/sbin:/sbin
missing=""
need() { command -v "$1" >/dev/null || missing="$missing $2"; }
need git git
need openssl openssl
need node nodejs
command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || need chromium chromium
need munged munge
need sbatch slurm-client
need slurmctld slurmctld
need slurmd slurmd
need slurmdbd slurmdbd
need mariadbd mariadb-server-core
need mariadb mariadb-client-core
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing:$missing"
  export DEBIAN_FRONTEND=noninteractive
  policy=/usr/sbin/policy-rc.d # tells the packages not to start what they bring
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  apt-get -q -q -o DPkg::Lock::Timeout=120 update
  # shellcheck disable=SC2086  # a list of package names, split on purpose
  apt-get -q -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends $missing >/dev/null
else
  echo "these tests will be skipped until you install:$missing" >&2
  echo "  on Debian or Ubuntu: sudo apt-get install$missing" >&2
fi
