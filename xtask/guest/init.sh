#!/bin/sh
# The virtual machine's first process: prepares what a booted Debian would offer, runs /vm/command, announces its
# exit status on the console, and powers off. The kernel loads modules when they are first needed.

box=/usr/lib/busybox/busybox
$box mount -t proc proc /proc
$box mount -t sysfs sys /sys
$box mount -t devtmpfs dev /dev
$box mkdir -p /dev/pts /dev/shm
$box mount -t devpts devpts /dev/pts
$box mount -t tmpfs shm /dev/shm
$box mount -t tmpfs -o mode=755 run /run
$box mount -t tmpfs tmp /tmp
$box mount -t cgroup2 cgroup /sys/fs/cgroup
$box mkdir -p /run/netns
$box chmod 755 /
$box ln -s /proc/self/fd /dev/fd
$box ln -s ../proc/mounts /etc/mtab

# What no program of Debian was brought along for is done by busybox, whose names come last.
$box --install -s /usr/lib/busybox
$box ln -s /usr/lib/busybox/modprobe /usr/sbin/modprobe
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/usr/lib/busybox HOME=/root TERM=dumb

# Line feeds pass as they are; the console adds no carriage returns.
stty -onlcr </dev/console
hostname stock-kernel
# Debian makes /dev/net/tun at boot; here the module does.
modprobe tun
ip link set lo up

cd /root
sh /vm/command </dev/null
status=$?

# Only a panic may speak now, so that nothing gets between the characters of the status.
dmesg -n 1
echo "$(cat /vm/token) $status"
poweroff -f
