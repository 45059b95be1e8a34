#!/bin/sh
# Waits. Version 2 of cgroups gives the pods their limits only where no process is beside them: those of this container move.
set -eu
cgroup=/sys/fs/cgroup
if [ -e "$cgroup/cgroup.controllers" ]; then
    mkdir "$cgroup/node"
    xargs -rn1 <"$cgroup/cgroup.procs" >"$cgroup/node/cgroup.procs" || true # one of them is xargs, which has ended
    sed 's/^/+/; s/ / +/g' "$cgroup/cgroup.controllers" >"$cgroup/cgroup.subtree_control"
fi
exec sleep infinity
