#!/usr/bin/env bash
# Starts a real Slurm of one node on loopback, with accounting so that `sacct` answers:
#
#   tests/slurm/up.sh DIR [PORT]      then: export SLURM_CONF=DIR/slurm.conf
#   tests/slurm/down.sh DIR
#
# Everything lies in DIR (configuration, keys, state, logs, process ids): nothing of the machine's own
# Slurm is read or touched. PORT is the first of three TCP ports. No systemd and no cgroups are needed.
# Exit code 77: Slurm is not installed, and cannot be installed by this user.
set -euo pipefail

dir=$(mkdir -p "$1" && cd "$1" && pwd)
port=${2:-16817}
cpus=4 # more than there may be: the jobs of the tests are small
memory_mb=32000 # likewise
host=$(hostname -s)
user=$(id -un)
PATH=$PATH:/usr/sbin:/sbin

die() { # die MESSAGE [CODE]
  echo "up.sh: $1" >&2
  exit "${2:-1}"
}

missing_program() {
  for program in munged slurmctld slurmd slurmdbd sbatch mariadbd; do
    command -v "$program" >/dev/null || return 0
  done
  return 1
}

if missing_program; then
  sh "$(dirname "$0")/../../scripts/test-tools.sh" >&2
  if missing_program; then die "Slurm is not installed: there is no $program" 77; fi
fi

wait_for() { # wait_for WHAT COMMAND...: gives up when nothing is written to the logs for a minute
  local what=$1 written='' before end
  shift
  until "$@" >/dev/null 2>&1; do
    before=$written
    written=$({ cat "$dir"/log/* 2>/dev/null || true; } | wc -c)
    if [ "$written" != "$before" ]; then
      end=$((SECONDS + 60))
    elif [ "$SECONDS" -ge "$end" ]; then
      tail -n 20 "$dir"/log/* >&2
      die "$what does not answer, and the logs have not grown for a minute"
    fi
    sleep 0.1
  done
}

chmod 755 "$dir" # munge wants its socket within reach of all
mkdir -p "$dir"/{run,log,state,spool,mysql}
chmod 700 "$dir/mysql"
touch "$dir"/gpu{0..3} # stand-ins: nothing runs on them
(umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")

cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start again (default 120 s)
AuthInfo=socket=$dir/run/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
PluginDir=$(dirname "$(find /usr/lib* -name auth_munge.so 2>/dev/null | head -n 1)")
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=3
InactiveLimit=0
MinJobAge=3600
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$dir/run/munge.socket
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory_mb Gres=gpu:4 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=9
CONF

cat >"$dir/gres.conf" <<CONF
AutoDetect=off
NodeName=$host Name=gpu File=$dir/gpu[0-3]
CONF

(umask 077 && cat >"$dir/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
SlurmUser=$user
PidFile=$dir/run/slurmdbd.pid
LogFile=$dir/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
CONF

export SLURM_CONF=$dir/slurm.conf LC_ALL=C
# libmariadb takes its socket from here: slurmdbd.conf has no key for it
export MYSQL_UNIX_PORT=$dir/run/mysql.sock MARIADB_UNIX_PORT=$dir/run/mysql.sock

munged --key-file="$dir/munge.key" --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" \
  --log-file="$dir/log/munged.log" --seed-file="$dir/munge.seed"
wait_for munged munge -S "$dir/run/munge.socket" -n

mariadb-install-db --no-defaults --datadir="$dir/mysql" --user="$user" --skip-test-db \
  --auth-root-authentication-method=normal --innodb-log-file-size=16M >"$dir/log/mariadb-install.log" 2>&1
setsid mariadbd --no-defaults --user="$user" --datadir="$dir/mysql" --socket="$MYSQL_UNIX_PORT" \
  --skip-networking --pid-file="$dir/run/mariadbd.pid" --innodb-buffer-pool-size=64M \
  --innodb-log-file-size=16M --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 \
  </dev/null >"$dir/log/mariadb.log" 2>&1 &
sql() { mariadb --no-defaults --socket="$MYSQL_UNIX_PORT" -uroot -e "$1"; }
wait_for mariadbd sql 'select 1'
sql "create database slurm_acct; create user slurm@localhost identified by 'slurm';
     grant all on slurm_acct.* to slurm@localhost"

slurmdbd
wait_for slurmdbd sacctmgr -n list cluster
sacctmgr -i -Q add cluster test
slurmctld
wait_for slurmctld sh -c 'scontrol ping | grep -q UP'
slurmd
wait_for slurmd sh -c 'sinfo -h -o %t | grep -qx idle'
