#!/bin/bash
# Holds one guest: it never outlives its owner (end of file on standard input) nor its time limit.
# usage: guest-supervisor.sh DIR LIMIT_SECONDS KERNEL WORDS...
# Standard output is the guest's kernel log; descriptors 3 and 4 are the agent's line in and out.
dir=$1
limit=$2
shift 2

# A session of its own: the guest's processes are one process group, killed by one id.
setsid "$@" </dev/null &
guest=$!
echo "$guest" >"$dir/pid.new" && mv "$dir/pid.new" "$dir/pid"

# All of them by one call: were the kernel among them to die first, its processes would run on untraced, and their
# system calls would be the host's. The second is for a process that has no group of its own yet.
kill_guest() {
  kill -KILL -- "-$guest" 2>/dev/null || kill -KILL "$guest" 2>/dev/null
}

# Bash gives background commands /dev/null as standard input; the lifeline is kept under another number.
exec 5<&0 </dev/null
(
  exec 3<&- 4>&-
  IFS= read -r -t "$limit" -u 5
  ended=$?
  # Above 128 is the time limit; otherwise the owner is gone.
  if [ "$ended" -le 128 ]; then : >"$dir/orphaned"; fi
  kill_guest
) &
watcher=$!
exec 3<&- 4>&-

wait "$guest"
code=$?
kill_guest
kill -KILL "$watcher" 2>/dev/null
# A guest that panicked (it aborts then) may have seen its owner's end before the watcher did.
if [ "$code" -eq 134 ]; then
  IFS= read -r -t 2 -u 5
  if [ "$?" -le 128 ]; then : >"$dir/orphaned"; fi
fi
# Nobody else will clean up.
if [ -e "$dir/orphaned" ]; then rm -rf "$dir"; fi
exit "$code"
