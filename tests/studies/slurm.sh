#!/usr/bin/env bash
# Start or stop a Slurm of one node for tests, as this user: munged, slurmctld and slurmd without systemd and cgroups.
#
#   bash tests/studies/slurm.sh start DIR PORT    then: export SLURM_CONF=DIR/slurm.conf
#   bash tests/studies/slurm.sh stop DIR
#
# State, logs, key and socket are in DIR. Its path must be short, because a socket's path has at most 107 characters. It
# uses PORT and the next port. Debian's slurm-wlm has all programs. The node claims at least two processors, so that two
# tasks run at a time. Jobs of the partition `urgent` preempt others, which have a minute to end.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
action=$1 dir=$2

stop() {
    for name in slurmd slurmctld munged; do
        [ ! -s "$dir/$name.pid" ] || kill "$(cat "$dir/$name.pid")" 2>/dev/null || true
    done
}

start() {
    local port=$1 name user cores
    name=$(hostname -s) user=$(id -un) cores=$(nproc)
    mkdir -p "$dir/state" "$dir/spool"
    chmod 700 "$dir"
    head -c 1024 /dev/urandom >"$dir/munge.key"
    chmod 400 "$dir/munge.key"
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munged.seed"
    cat >"$dir/slurm.conf" <<CONF
ClusterName=debeton
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1
ReturnToService=2
KillWait=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize=5
NodeName=$name NodeAddr=127.0.0.1 CPUs=$((cores < 2 ? 2 : cores)) State=UNKNOWN
PartitionName=test Nodes=$name Default=YES MaxTime=INFINITE State=UP GraceTime=60
PartitionName=urgent Nodes=$name MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
CONF
    # From 23.11 on, slurmd wants a cgroup file system, unless this file beside slurm.conf says otherwise.
    local version
    version=$(slurmd -V)
    if printf '%s\n' 23.11 "${version#slurm* }" | sort -VC; then
        echo CgroupPlugin=disabled >"$dir/cgroup.conf"
    fi
    export SLURM_CONF=$dir/slurm.conf
    slurmctld
    slurmd
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --format=%T 2>/dev/null)" != idle ] || return 0
        sleep 0.2
    done
    echo "error: the node did not come up; see $dir/slurmctld.log and $dir/slurmd.log" >&2
    stop
    return 1
}

case $action in
start) start "$3" ;;
stop) stop ;;
*)
    echo "error: $action: expected start or stop" >&2
    exit 2
    ;;
esac
