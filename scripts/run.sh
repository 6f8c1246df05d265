#!/bin/sh
# What `npm run COMMAND` calls: set up what the command needs, then run it on the pinned Node.js.
set -eu
cd "$(dirname "$0")/.."
command=${1:?usage: sh scripts/run.sh COMMAND}
shift
# The time that set-up takes counts.
HOLDFAST_STARTED_AT=$(date +%s)
export HOLDFAST_STARTED_AT
sh scripts/setup.sh "$command"
for bin in node_modules/node-linux-*/bin; do
  PATH=$PWD/$bin:$PWD/node_modules/.bin:$PATH
done
export PATH
case $command in
  demo:failover) exec node scripts/demo-failover.ts "$@" ;;
  test:csi) exec node scripts/test.ts --only csi-sanity "$@" ;;
  sim)
    [ "${1-}" != --mutants ] || exec node test/sim/mutants-main.ts "$@"
    exec node test/sim/main.ts "$@"
    ;;
  soak) HOLDFAST_SOAK=1 exec node scripts/test.ts "$@" ;;
  *) exec node "scripts/$command.ts" "$@" ;;
esac
