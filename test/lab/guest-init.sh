#!/bin/bash
# First process of a lab guest. The guest's root is this machine's root, read-only, under an overlay in
# memory: what a guest writes never lands on the host, except in the directories named as shared.
# Lies in the guest's directory on the host, next to `config` (shell assignments).
dir=$(dirname "$0")
. "$dir/config"

mount -t proc proc /proc
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
insmod "/usr/lib/uml/modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko"
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root || halt -f -p
mkdir -p .old-root
pivot_root . .old-root
exec chroot . /bin/bash -s <<INIT
export PATH=$(printf %q "$lab_path") HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
ln -sfn /proc/self/fd /dev/fd
ln -sfn fd/0 /dev/stdin
ln -sfn fd/1 /dev/stdout
ln -sfn fd/2 /dev/stderr
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
umount -l /.old-root
mkdir -p /lib/modules
ln -sfn /usr/lib/uml/modules/\$(uname -r) /lib/modules/\$(uname -r)
rm -f /etc/mtab && ln -s /proc/self/mounts /etc/mtab
mkdir -p $(printf %q "$dir")
mount -t hostfs none -o $(printf %q "$dir") $(printf %q "$dir")
exec /bin/bash $(printf %q "$dir")/agent.sh
INIT
