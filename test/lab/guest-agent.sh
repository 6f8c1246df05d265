#!/bin/bash
# The host's hands inside a guest. Reads commands from the second console, one a line, runs jobs beside
# each other, and answers there; what a job prints goes into files of the shared directory, which hostfs
# writes through at once.
#   in:  run JOB | signal JOB NAME | halt
#   out: ready | exit JOB CODE
dir=$(dirname "$0")
. "$dir/config"

stty -F /dev/tty1 raw -echo
exec 3</dev/tty1 4>/dev/tty1 </dev/null

hostname "$lab_hostname"
ip link set lo up
if [ -n "$lab_address" ]; then
  ip addr add "$lab_address" dev eth0
  ip link set eth0 up
fi
for shared in "${lab_shared[@]}"; do
  mkdir -p "$shared"
  mount -t hostfs none -o "$shared" "$shared"
done
for module in "${lab_modules[@]}"; do
  modprobe $module || echo "lab: modprobe $module failed" >/dev/kmsg
done
for disk in /sys/block/vd*; do
  # The exporter does not say that its cache is volatile; without this the kernel would never flush.
  if [ -e "$disk" ]; then echo 'write back' >"$disk/cache_type"; fi
done

# The job's process group is not the waiting shell's: a signal to all of the job leaves the reporter alive.
run_job() {
  exec 3<&-
  set -m
  bash "$dir/jobs/$1/command" </dev/null >"$dir/jobs/$1/stdout" 2>"$dir/jobs/$1/stderr" 4>&- &
  echo $! >"/run/lab-job-$1"
  wait $!
  echo "exit $1 $?" >&4
}

signal_job() {
  local group= tries
  for tries in {1..100}; do
    read -r group 2>/dev/null <"/run/lab-job-$1" && break
    sleep 0.02
  done
  kill -s "$2" -- "-$group" 2>/dev/null
}

echo ready >&4
while read -r -u 3 verb job argument; do
  case $verb in
    run) run_job "$job" & ;;
    signal) signal_job "$job" "$argument" & ;;
    halt)
      sync
      halt -f -p
      ;;
  esac
done
