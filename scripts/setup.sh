#!/bin/sh
# Makes this clone ready for one command: system packages, npm packages, the addon, test tools.
#   sh scripts/setup.sh [demo|demo:failover|test|soak|bench|sim|check|build|test:csi]      (no word: what Holdfast itself needs)
# Every step looks first at what is there: a second run takes a second. It installs system packages only
# as root on a machine with apt; elsewhere it prints the exact command and stops. It never touches
# anything outside this clone otherwise.
set -eu
cd "$(dirname "$0")/.."
command=${1:-product}
cache=$PWD/.cache
mkdir -p "$cache"

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }

# Runs "$@" with its output in a log that is shown when it fails.
logged() {
  log=$1; shift
  started=$(date +%s)
  if "$@" >"$log" 2>&1 </dev/null; then
    say "  done in $(($(date +%s) - started)) s"
  else
    tail -n 30 "$log" >&2
    fail "failed; the whole output is in $log"
  fi
}

# One set-up at a time: two commands started together must not install over each other.
exec 9>"$cache/setup.lock"
flock -n 9 || { say 'another set-up is running here; waiting for it'; flock 9; }

# ---- Go, looked for before anything is installed: it is the one thing that is not installed here
sanity_version=v5.5.0
sanity=$cache/csi-sanity-$sanity_version/csi-sanity
needs_sanity() {
  case $command in test | soak | test:csi) [ ! -x "$sanity" ] ;; *) false ;; esac
}
if needs_sanity; then
  remedy='install Go 1.25 or newer from its official downloads, put its bin directory in PATH, then repeat'
  command -v go >/dev/null 2>&1 ||
    fail "csi-sanity $sanity_version is built with Go, and there is no go here: $remedy"
  go=$(cd / && go env GOVERSION)
  release=${go#go1.}
  release=${release%%[!0-9]*}
  [ "${release:-0}" -ge 25 ] || fail "csi-sanity $sanity_version needs Go 1.25 or newer, this is $go: $remedy"
fi

# ---- system packages
build_packages='g++'
volume_packages='e2fsprogs xfsprogs util-linux kmod'
tool_packages='fio iproute2 procps'
guest_packages='user-mode-linux uml-utilities'
peer_packages='nbdkit libnbd-bin qemu-utils nbd-server nbd-client'
bench_packages='drbd-utils'
lab_packages='qemu-system-common dmsetup btrfs-progs'
# Tests start their own etcd and never speak to the one that Debian may start with the package.
store_packages='etcd-server etcd-client openssl'
# Guests run on User-Mode Linux, which exists for x86 only.
case $(uname -m) in
  x86_64 | i?86) ;;
  *)
    guest_packages=''
    no_guests="user-mode-linux, on which lab guests run, exists for x86 only, and this is $(uname -m)"
    case $command in
      demo)
        { [ "$(id -u)" = 0 ] && { [ -d /sys/module/nbd ] || modprobe -n nbd 2>/dev/null; }; } ||
          fail "$no_guests: run the demo as root on a kernel that has nbd (module package linux-modules-extra or kernel-modules), or on x86_64"
        ;;
      test | soak | test:csi)
        fail "$no_guests: run 'npm $([ "$command" = test ] || echo 'run ')$command' on x86_64; what needs no guest runs here: npm run check, npm run setup && node_modules/.bin/vitest run --project unit"
        ;;
    esac
    ;;
esac
case $command in
  check | sim) packages='' ;;
  build) packages=$build_packages ;;
  product) packages="$build_packages $volume_packages" ;;
  demo) packages="$build_packages $volume_packages $tool_packages $guest_packages" ;;
  demo:failover) packages="$build_packages $volume_packages $tool_packages $store_packages" ;;
  test | soak | bench | test:csi)
    packages="$build_packages $volume_packages $tool_packages $guest_packages $peer_packages $lab_packages $store_packages cryptsetup-bin"
    ;;
  *) fail "unknown command '$command': use demo, demo:failover, test, soak, bench, sim, check, build or test:csi" ;;
esac
[ "$command" != bench ] || packages="$packages $bench_packages"

if [ -n "$packages" ]; then
  if command -v dpkg-query >/dev/null 2>&1; then
    missing=''
    for package in $packages; do
      state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
      [ "$state" = installed ] || missing="$missing $package"
    done
    if [ -n "$missing" ]; then
      install="apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends$missing"
      [ "$(id -u)" = 0 ] || fail "system packages are missing; type: sudo sh -c '$install'"
      say "system packages:$missing"
      logged "$cache/apt.log" sh -c "$install"
    fi
  else
    for tool in g++ mkfs.ext4 mkfs.xfs; do
      command -v "$tool" >/dev/null 2>&1 ||
        say "this is no Debian: '$tool' is missing; install what provides it (on Debian:$packages)"
    done
  fi
fi

# ---- npm packages. No package here needs its install script, so none is run (docs/adr/0001-pinned-node.md).
command -v npm >/dev/null 2>&1 || fail 'npm is missing: install Node.js 20 or newer with npm, then repeat'
case $(uname -m) in
  x86_64) platform=linux-x64 ;;
  aarch64) platform=linux-arm64 ;;
  *) fail "no pinned Node.js for $(uname -m): Holdfast runs on x86_64 and aarch64 Linux" ;;
esac
pinned=$PWD/node_modules/node-$platform/bin/node
if ! { [ -x "$pinned" ] && "$pinned" scripts/packages-current.ts; }; then
  say 'npm packages, the pinned Node.js among them'
  logged "$cache/npm.log" npm ci --ignore-scripts --no-audit --no-fund
  [ -x "$pinned" ] || fail "node-$platform was not installed: see $cache/npm.log"
fi
[ "$command" = check ] && exit 0

# ---- the addon
# native/build.sh knows itself whether there is anything to build.
[ -f native/build/holdfast.node ] || say 'the addon'
sh native/build.sh >"$cache/addon.log" 2>&1 </dev/null || {
  tail -n 30 "$cache/addon.log" >&2
  fail "the addon was not built; the whole output is in $cache/addon.log"
}

# ---- csi-sanity, the CSI contract's own test suite, built from the Go module proxy
if needs_sanity; then
  say "csi-sanity $sanity_version"
  logged "$cache/csi-sanity.log" env GOBIN="$(dirname "$sanity")" CGO_ENABLED=0 GOFLAGS=-p=2 \
    go install -ldflags "-X main.VERSION=$sanity_version" \
    "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@$sanity_version"
fi
